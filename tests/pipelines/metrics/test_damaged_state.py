"""State files that are JSON of another shape: what reads them goes on without them, and names them."""

import copy
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipelines.failures import Failure
from pipelines.jobs.job_description import JOB
from pipelines.jobs.pending_rows import find_pending_rows
from pipelines.jobs.run_record import RunKeeper
from pipelines.maintenance.written_until import find_written_until
from pipelines.metrics.exposition import make_page
from pipelines.metrics.numbers import SourceWatch, read_numbers
from pipelines.metrics.readiness import find_reasons
from pipelines.settings import Settings
from pipelines.verify.output_description import read_row_settings
from runners.progress import Progress
from tests.outputs import open_output
from tests.pipelines.metrics.jobs import Home, Source
from transforms.sinks.parquet.parquet_store import DESCRIPTION
from transforms.sources.reader_status import ReaderStatus

OTHERS = (None, [], {}, "x", -1, 1e308, True, 10**30, [[1]], {"a": [1]})
WHOLE = (b"", b"{", b"null", b"[]", b"3", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"time": NaN}')


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    made.derive(rows=3, seconds=1.0, delay_seconds=2.0)
    open_output(tmp_path, Settings(), create=True)
    yield made
    made.stop()


def list_places(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of each value below a JSON document; of a list, of its first."""
    members = enumerate(content[:1]) if isinstance(content, list) else ()
    for name, value in content.items() if isinstance(content, dict) else members:
        yield (*place, name)
        yield from list_places(value, (*place, name))


def spoil(content: Any) -> Iterator[bytes]:
    """The document with one value left out, or in place of it one of another type."""
    for *outer, name in list_places(content):
        for other in (..., *OTHERS):
            copied = copy.deepcopy(content)
            holder = copied
            for each in outer:
                holder = holder[each]
            holder[name] = other
            if other is ...:
                del holder[name]
            yield json.dumps(copied).encode()


def read_everything(home: Path, folder: Path) -> None:
    """What metrics, status, top, reconcile, maintain and the next run read."""
    watch = SourceWatch(Source())  # type: ignore[arg-type]
    watch.ask()
    assert make_page(home, watch).endswith(b"# EOF\n")
    list(find_reasons(read_numbers(home, watch)))
    find_pending_rows(home)
    find_written_until(home, home, datetime.now(UTC))
    ReaderStatus(folder / "readers", 0)
    RunKeeper(folder).follow(Progress("running"))


def find_failure(read: Callable[[], object]) -> Failure | None:
    """The failure that reading ends with; None if it succeeds."""
    try:
        read()
    except Failure as error:
        return error
    return None


@pytest.mark.parametrize(
    "name",
    ["run.json", "readers/reader-0.json", "sinks/sink-0-kpi_reports.json", "processes/1-1.json",
     "outcomes/kpi_reports.json", "outcomes/trimmed.json", "../_derive/state.json"],
)  # fmt: skip
def test_a_damaged_state_file_counts_as_missing_and_all_else_is_shown(
    name: str, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    path = (home.folder / name).resolve()
    good = path.read_bytes()
    for bad in WHOLE:
        caplog.clear()
        path.write_bytes(bad)
        read_everything(home.path, home.folder)
        assert f"{path} is damaged" in caplog.text
        path.write_bytes(good)
        read_everything(home.path, home.folder)
    for bad in spoil(json.loads(good)):
        path.write_bytes(bad)
        read_everything(home.path, home.folder)


def test_the_damage_of_a_file_is_reported_once_until_it_was_written_again(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        home.write("readers/reader-0.json", {"streams": 3})
        read_numbers(home.path)
        read_numbers(home.path)
        home.place_reader(80, 100)
        read_numbers(home.path)
    assert caplog.text.count("reader-0.json is damaged") == 3


def test_a_damaged_description_of_a_job_is_an_error_that_names_the_file(home: Home) -> None:
    good = json.loads((home.folder / JOB).read_text())
    for bad in (*WHOLE, *spoil(good)):
        (home.folder / JOB).write_bytes(bad)
        error = find_failure(lambda: read_everything(home.path, home.folder))
        assert error is None or (str(home.folder / JOB) in str(error) and error.fix)


def test_a_damaged_description_of_an_output_is_an_error_that_names_the_output(home: Home) -> None:
    good = json.loads((home.path / DESCRIPTION).read_text())
    refused = 0
    for bad in (*WHOLE, *spoil(good)):
        (home.path / DESCRIPTION).write_bytes(bad)
        error = find_failure(lambda: read_row_settings(home.path))
        assert error is None or (str(home.path) in str(error) and error.fix)
        refused += error is not None
        if error is None:
            Settings(**read_row_settings(home.path))
    assert refused > len(WHOLE)


def test_the_environment_has_no_part_in_the_check_of_stored_settings(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KPIFLOW_IQR_FACTOR", "2.5")
    assert read_row_settings(home.path)["iqr_factor"] == Settings.model_fields["iqr_factor"].default
