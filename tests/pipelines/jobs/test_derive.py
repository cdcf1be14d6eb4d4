"""Deriving an output: the command, the end of a batch, the process beside a stream, reconcile and parity."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import run
from pipelines.failures import RunFailed, WrongUse
from pipelines.jobs.derive import derive as derive_output
from pipelines.jobs.derive import find_cutoff, make_deriver
from pipelines.jobs.derive_after import derive_outputs
from pipelines.jobs.derive_loop import derive_until, find_until
from pipelines.jobs.derive_state import HOME, describe_analysis, read_state, should_derive
from pipelines.jobs.lock import lock_folders
from pipelines.outputs import folder_outputs
from pipelines.settings import Settings
from pipelines.verify.derived_checks import find_derived_problems
from pipelines.verify.parity import compare_outputs
from schemas.tables import REPORTS, TASKS
from tests.builders import NOON
from tests.outputs import open_output
from tests.transforms.derived.outputs import EXAMPLES, MINUTE, make_report, make_task, read_derived, write
from transforms.derived.derived_table import Kernel
from transforms.derived.registry import DERIVED
from transforms.sources.source import WATERMARK_DELAY_SECONDS

SETTINGS = Settings()


@pytest.fixture(autouse=True)
def examples() -> Iterator[None]:
    """The derived tables are the examples. Their order counts, so it is restored too."""
    kept = dict(DERIVED)
    DERIVED.clear()
    DERIVED.update({table.table.name: table for table in EXAMPLES})
    yield
    DERIVED.clear()
    DERIVED.update(kept)


def make_output(folder: Path, reports: int = 2) -> Path:
    open_output(folder, SETTINGS, create=True)
    write(folder, REPORTS, [make_report(n, NOON + n * MINUTE, 0 * MINUTE, n) for n in range(reports)])
    write(folder, TASKS, [make_task(0, NOON, NOON, 0)])
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return make_output(tmp_path / "out")


def test_the_command_derives_and_says_what(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["derive", str(output), "--dry-run"]) == 0
    assert "context" in capsys.readouterr().out
    assert not read_derived(output)
    assert run(["derive", str(output)]) == 0
    assert "2 rows of context" in capsys.readouterr().out
    assert run(["derive", str(output)]) == 0
    assert "nothing was stale" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--table", "nothing"], 2), (["--until", "soon"], 2), (["--until", "2025-10-22T12:01:30Z"], 0)],
)
def test_the_command_ends_with_a_code(output: Path, arguments: list[str], code: int) -> None:
    assert run(["derive", str(output), *arguments]) == code


def test_a_table_without_its_package_is_left_out_with_a_line_unless_it_is_named(
    output: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = Kernel(lambda rows, _: rows, modules=("json", "no_such_package"), extra="analysis")
    monkeypatch.setitem(DERIVED, "context", replace(DERIVED["context"], kernel=kernel))
    assert run(["derive", str(output)]) == 0
    lines = [each.getMessage() for each in caplog.records if "left out" in each.getMessage()]
    assert lines == [
        "the table context is left out: no_such_package is not installed; pip install 'kpiflow[analysis]'"
    ]
    assert not any(name.startswith("context/") for name in read_derived(output))
    assert not list(find_derived_problems(output))
    with pytest.raises(WrongUse, match="context needs no_such_package"):
        make_deriver(output, SETTINGS.derived_settings(), ["context"])


def test_the_settings_of_a_kernel_make_its_files_stale(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(lambda rows, _: rows, settings=("false_alarm_rate",))
    monkeypatch.setitem(DERIVED, "context", replace(DERIVED["context"], kernel=kernel))
    values = SETTINGS.derived_settings()
    assert derive_output(output, make_deriver(output, values, ["context"])).written == 1
    assert derive_output(output, make_deriver(output, values, ["context"])).written == 0
    changed = values | {"false_alarm_rate": 0.5}
    assert derive_output(output, make_deriver(output, changed, ["context"])).written == 1


def test_only_folders_are_derived() -> None:
    assert run(["derive", "s3://bucket/prefix"]) == 2
    assert run(["derive", "/nowhere"]) == 2


def test_two_jobs_do_not_derive_one_output(output: Path) -> None:
    (output / HOME).mkdir()
    deriver = make_deriver(output, SETTINGS.derived_settings())
    with lock_folders(output / HOME), pytest.raises(WrongUse, match="another job is deriving"):
        derive_output(output, deriver, patience=0.1)


def test_a_damaged_file_is_named_with_its_fix(output: Path) -> None:
    next((output / "tasks").rglob("*.parquet")).write_bytes(b"nothing")
    with pytest.raises(RunFailed, match=r"tasks/.* cannot be read"):
        derive_output(output, make_deriver(output, SETTINGS.derived_settings()))


def test_a_folder_in_place_of_a_derived_file_is_named_with_its_fix(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["derive", str(output)]) == 0
    path = next((output / "context").rglob("*.parquet"))
    path.unlink()
    path.mkdir()
    assert run(["derive", str(output)]) == 3
    message = " ".join(capsys.readouterr().err.split())
    assert f"{path} cannot be used: Is a directory" in message
    assert "move away what is in its place" in message


@pytest.mark.parametrize(
    ("hours", "problem"),
    [("context_hours + 9223372036854775800", "Out of Range"), ("error('a value')::BIGINT", "a value")],
)
def test_a_value_that_the_sql_cannot_use_is_not_met_with_another_run(
    output: Path, monkeypatch: pytest.MonkeyPatch, hours: str, problem: str
) -> None:
    sql = DERIVED["context"].sql.replace("context_hours AS hours", f"{hours} AS hours")
    monkeypatch.setitem(DERIVED, "context", replace(DERIVED["context"], sql=sql))
    with pytest.raises(RunFailed, match=f"the SQL of context fails: .*{problem}") as failed:
        derive_output(output, make_deriver(output, SETTINGS.derived_settings()))
    assert "would fail again" in (failed.value.fix or "")
    others = [name for name in DERIVED if name != "context"]
    assert derive_output(output, make_deriver(output, SETTINGS.derived_settings(), others)).written


def test_a_batch_derives_outputs_with_records_or_that_are_derived_already(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    open_output(plain, SETTINGS, create=True)
    assert [should_derive(plain, choice) for choice in ("auto", "always", "never")] == [False, True, False]
    output = make_output(tmp_path / "out")
    assert should_derive(output, "auto")
    derive_outputs(folder_outputs(output, SETTINGS), SETTINGS.model_copy(update={"derive": "never"}))
    assert not read_derived(output)
    derive_outputs(folder_outputs(output, SETTINGS), SETTINGS)
    assert read_derived(output)
    next((output / "tasks").rglob("*.parquet")).unlink()
    assert should_derive(output, "auto")


def describe_stream(folder: Path, watermark: datetime | None, **sink: Any) -> None:
    for name in ("readers", "sinks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(
        json.dumps({"depends": {"streams": ["a", "b"], "outputs": [], "group": "g"}})
    )
    mark = watermark and int(watermark.timestamp() * 1000)
    for key in "ab":
        reader = {"streams": {key: {}}, "watermark": mark, "read": 0, "time": 0}
        (folder / "readers" / f"reader-{key}.json").write_text(json.dumps(reader))
    written = {"table": "kpi_reports", "time": 0, "rows": 0, "newest": None, "error": None}
    content = {"waiting_since": None} | written | sink
    (folder / "sinks" / "sink-0.json").write_text(json.dumps(content))


def test_beside_a_stream_reports_wait_for_the_watermark_of_every_reader(tmp_path: Path) -> None:
    assert find_until(tmp_path, 15) is None
    describe_stream(tmp_path, NOON)
    read = NOON + timedelta(seconds=WATERMARK_DELAY_SECONDS)
    assert find_until(tmp_path, 15) == read - timedelta(seconds=15)
    (tmp_path / "readers" / "reader-b.json").unlink()
    assert find_until(tmp_path, 15) is None
    describe_stream(tmp_path, None)
    assert find_until(tmp_path, 15) is None
    describe_stream(tmp_path, NOON, waiting_since=1)
    assert find_until(tmp_path, 15) is None


def test_what_a_stream_has_not_derived_yet_is_no_problem(output: Path) -> None:
    deriver = make_deriver(output, SETTINGS.derived_settings())
    derive_until(output, deriver, NOON + 1.5 * MINUTE)
    assert list(find_derived_problems(output)) == []
    derive_until(output, deriver, None)
    assert list(find_derived_problems(output)) == []


def test_most_passes_beside_a_stream_leave_old_files_alone(output: Path) -> None:
    write(output, REPORTS, [make_report(9, NOON - timedelta(hours=9), 0 * MINUTE, 9)])
    deriver = make_deriver(output, SETTINGS.derived_settings())
    derive_until(output, deriver, NOON + 5 * MINUTE, hours=3)
    assert {name for name in read_derived(output) if "hour=03" in name} == set()
    derive_until(output, deriver, NOON + 5 * MINUTE)
    whole = read_derived(output)
    assert {name for name in whole if "hour=03" in name}
    derive_until(output, deriver, NOON + 5 * MINUTE, hours=3)
    assert read_derived(output) == whole


def test_the_state_says_how_long_rows_waited_since_the_last_whole_pass(output: Path) -> None:
    deriver = make_deriver(output, SETTINGS.derived_settings())

    def find_analysis(until: datetime | None) -> dict[str, Any]:
        derive_until(output, deriver, until)
        return dict((read_state(output) or {})["analysis"])

    first = find_analysis(NOON + 1.5 * MINUTE)
    assert first["rows"] > 0
    assert first["delay_seconds"] is None
    assert find_analysis(NOON + 2 * MINUTE) == first, "a pass without new rows"
    later = find_analysis(NOON + 10 * MINUTE)
    waited = later["delay_seconds"] - (time.time() - (NOON + 2 * MINUTE).timestamp())
    assert waited == pytest.approx(SETTINGS.context_wait_seconds, abs=30)
    shutil.rmtree(output / "context")
    assert find_analysis(None)["delay_seconds"] is None


def test_rows_that_a_pass_leaves_to_the_next_wait_on() -> None:
    state = {"whole_until": 5_000_000, "analysis": None}
    state = describe_analysis(state, 9_000_000, 10, 1.0, is_whole=False)
    assert state["whole_until"] == 5_000_000
    state = describe_analysis(state, 12_000_000, 10, 1.0, is_whole=True)
    assert state["analysis"]["delay_seconds"] == pytest.approx(time.time() - 5, abs=30)
    assert state["whole_until"] == 12_000_000


def test_a_failure_beside_a_stream_is_in_the_state_and_the_next_pass_goes_on(output: Path) -> None:
    deriver = make_deriver(output, SETTINGS.derived_settings())
    derive_until(output, deriver, NOON + MINUTE)
    file = next((output / "tasks").rglob("*.parquet"))
    whole = file.read_bytes()
    file.write_bytes(b"nothing")
    derive_until(output, deriver, NOON + 2 * MINUTE)
    state = read_state(output)
    assert state is not None
    assert "cannot be read" in state["error"]
    assert state["until"] == (NOON + MINUTE).timestamp() * 1e6
    file.write_bytes(whole)
    derive_until(output, deriver, NOON + 2 * MINUTE)
    assert (read_state(output) or {})["error"] is None


def test_reconcile_names_stale_missing_surplus_and_damaged_files(output: Path) -> None:
    assert list(find_derived_problems(output)) == []
    derive_output(output, make_deriver(output, SETTINGS.derived_settings()))
    assert list(find_derived_problems(output)) == []
    context = next((output / "context").rglob("*.parquet"))
    surplus = output / "context" / "date=2020-01-01" / "hour=00" / "0000.parquet"
    surplus.parent.mkdir(parents=True)
    surplus.write_bytes(context.read_bytes()[:-20])
    next((output / "inconsistencies").rglob("*.parquet")).unlink()
    write(output, TASKS, [make_task(7, NOON, NOON, 1)])
    found = " | ".join(find_derived_problems(output))
    for part in (
        "context: 1 file stale, since what it is made of has changed",
        "inconsistencies: 1 file missing",
        "context: 1 file without rows",
        "hour=00/0000.parquet cannot be read",
        f"run `kpiflow derive {output}`",
    ):
        assert part in found


def test_parity_compares_derived_tables_if_both_outputs_have_them(tmp_path: Path) -> None:
    a, b = make_output(tmp_path / "a"), make_output(tmp_path / "b", reports=3)
    derive_output(a, make_deriver(a, SETTINGS.derived_settings()))
    assert "context" not in compare_outputs(a, b, identity=False)
    derive_output(b, make_deriver(b, SETTINGS.derived_settings()))
    found = compare_outputs(a, b, identity=False)["context"]
    assert (found.equal, found.only_b) == (2, 1)


def test_a_cutoff_is_the_end_of_a_grain() -> None:
    assert find_cutoff(NOON + timedelta(seconds=79), 60) == (NOON + timedelta(seconds=10)).timestamp() * 1e6
