"""However the days of an output are stored, every reader gives the same answer, and late rows find them."""

import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.export.feature_rows import count_reports, iterate_hours
from pipelines.jobs.derive import compare, derive, make_deriver
from pipelines.jobs.quarantine import read_open_rows
from pipelines.queries.registry import QUERIES
from pipelines.queries.run import run_query
from pipelines.settings import Settings
from pipelines.summary.queries import summarise
from pipelines.summary.summary import Summary
from pipelines.verify.output_description import read_row_settings
from pipelines.verify.reconcile import reconcile
from pipelines.verify.table_scan import scan
from schemas.tables import REPORTS
from tests.builders import NOON
from tests.pipelines.jobs import test_replace as replacing
from tests.pipelines.layouts import LAYOUTS, Layout, keep_hours, seal_cold, seal_hot, seal_warm
from tests.pipelines.verify.rows import as_source
from tests.s3 import S3Server
from transforms.core.time_range import Span
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.storage.local_folder import LocalFolder
from transforms.storage.storage import Storage

HOUR = timedelta(hours=1)
EARLY, LATE = replacing.STORED[::2], replacing.STORED[1::2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs of all messages, of half of them, and of those that replacing a span gives."""
    folder = tmp_path_factory.mktemp("made")
    replacing.fill(folder / "stored", replacing.STORED)
    replacing.fill(folder / "half", EARLY)
    replacing.fill(folder / "expected", replacing.OUTSIDE + replacing.FRESH)
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        server.make_bucket("cold")
        yield server


@pytest.fixture
def lay_out(made: Path, tmp_path: Path, server: S3Server) -> Callable[[str, Layout], Path]:
    """Makes a copy of an output in a layout."""

    def make(name: str, layout: Layout) -> Path:
        output = shutil.copytree(made / name, tmp_path / "out")
        warm: Storage = LocalFolder(tmp_path / "warm")
        layout(output, warm, server.storage("cold", f"{tmp_path.name}/{layout.__name__}"))
        return output

    return make


def ask(output: Path) -> dict[str, Any]:
    """All rows of some queries, two of them of an hour."""
    hour = Span(NOON, NOON + HOUR)
    asked = {
        "reports-by-type": ({"agent_type": "data_processing"}, Span()),
        "agent-summary": ({}, hour),
        "aggregates": ({"granularity": "5s"}, hour),
        "features": ({}, Span()),
        "quality": ({}, Span()),
        "quarantine": ({"state": "all"}, Span()),
    }
    minutes = read_row_settings(output)["file_minutes"]
    answers = {}
    for name, (parameters, span) in asked.items():
        query = QUERIES[name]
        answers[name] = run_query(output, query, query.parse(parameters), span, minutes).rows.to_pylist()
    return answers


def recall(output: Path) -> dict[int, list[dict[str, Any]]]:
    """The stored reports of some hours."""
    first = int(NOON.timestamp()) // 3600 - 2
    store = ParquetStore(LocalFolder(output))
    assert store.has_reports()
    read = {hour: store.read_reports(hour) for hour in range(first, first + 7)}
    found = {hour: [row for rows in batches for row in rows.to_pylist()] for hour, batches in read.items()}
    return {hour: sorted(rows, key=lambda row: row["report_id"]) for hour, rows in found.items()}


def export(output: Path) -> list[dict[str, Any]]:
    rows = [row for batch in iterate_hours(output, Span(), 24 * HOUR) for row in batch.to_pylist()]
    assert len(rows) == count_reports(output, Span())
    return sorted(rows, key=lambda row: row["report_id"])


def summarise_unnamed(output: Path) -> dict[str, Any]:
    summary: Summary = summarise(output)
    return {name: value for name, value in vars(summary).items() if name != "output"}


def read_open(output: Path) -> list[tuple[str, str]]:
    return sorted(
        (row["source"], row["message_id"]) for rows in read_open_rows(output) for row in rows.to_pylist()
    )


READERS: dict[str, Callable[[Path], Any]] = {
    "query": ask,
    "recall": recall,
    "features": export,
    "show": summarise_unnamed,
    "quarantine": read_open,
}


def list_stale(output: Path) -> list[str]:
    settings = Settings().derived_settings() | read_row_settings(output)
    compared = compare(output, make_deriver(output, settings))
    return [each.plan.table.table.name for each in compared if each.stale or each.surplus]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda each: each.__name__)
def test_every_reader_gives_the_same_answer(
    lay_out: Callable[[str, Layout], Path], made: Path, layout: Layout
) -> None:
    output = lay_out("stored", layout)
    for name, read in READERS.items():
        assert read(output) == read(made / "stored"), name
    assert replacing.are_same(output, made / "stored")
    verdict = reconcile(output, as_source(replacing.STORED))
    assert (verdict.problems, verdict.missing, verdict.surplus) == ([], 0, 0)
    assert list_stale(output) == []


@pytest.mark.parametrize("layout", [seal_warm, seal_cold], ids=lambda each: each.__name__)
def test_a_copy_of_an_output_has_all_its_days(
    lay_out: Callable[[str, Layout], Path], made: Path, tmp_path: Path, layout: Layout
) -> None:
    output = lay_out("stored", layout)
    (tmp_path / "copy").mkdir()
    ParquetStore(LocalFolder(output)).copy_to(tmp_path / "copy")
    assert recall(tmp_path / "copy") == recall(made / "stored")
    assert reconcile(tmp_path / "copy", as_source(replacing.STORED)).problems == []


@pytest.mark.parametrize("layout", [keep_hours, seal_hot, seal_cold], ids=lambda each: each.__name__)
def test_a_late_backfill_into_sealed_days_is_as_a_backfill_of_everything(
    lay_out: Callable[[str, Layout], Path], made: Path, layout: Layout
) -> None:
    output = lay_out("half", layout)
    replacing.fill(output, LATE)
    assert replacing.are_same(output, made / "stored")
    assert reconcile(output, as_source(replacing.STORED)).problems == []
    assert (layout is keep_hours) == any((output / REPORTS.name).rglob("hour=*/*"))


@pytest.mark.parametrize("layout", [seal_hot, seal_warm], ids=lambda each: each.__name__)
def test_a_replaced_span_of_sealed_days_is_as_if_its_input_had_always_been_there(
    lay_out: Callable[[str, Layout], Path], made: Path, layout: Layout
) -> None:
    output = lay_out("stored", layout)
    replacing.replace(output, replacing.FRESH)
    assert replacing.are_same(output, made / "expected")
    assert reconcile(output, as_source([*replacing.OUTSIDE, *replacing.FRESH])).problems == []
    assert not any((output / REPORTS.name).rglob("hour=*/*"))


def test_a_derived_file_of_a_sealed_day_that_is_lost_is_made_again(
    lay_out: Callable[[str, Layout], Path], made: Path
) -> None:
    output = lay_out("stored", seal_hot)
    for path in output.glob("features/*/day.parquet"):
        path.write_bytes(b"damaged")
    settings = Settings().derived_settings() | read_row_settings(output)
    derive(output, make_deriver(output, settings))
    assert replacing.are_same(output, made / "stored")
    assert sum(rows.num_rows for rows in scan(output, REPORTS)) > 0
