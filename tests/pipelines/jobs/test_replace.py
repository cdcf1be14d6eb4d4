"""`kpiflow backfill --replace`: a span of time rewritten from its input alone."""

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import run
from pipelines.failures import WrongUse
from pipelines.jobs import replace as replacing
from pipelines.jobs.backfill import backfill
from pipelines.jobs.engines import LocalEngine
from pipelines.jobs.lock import lock_folders
from pipelines.jobs.replace import replace_span
from pipelines.settings import Settings
from pipelines.verify.parity import compare_outputs
from pipelines.verify.reconcile import reconcile
from pipelines.verify.table_scan import scan
from schemas.tables import AGGREGATIONS, DUPLICATES, QUARANTINED, RECORD_TABLES, REPORTS, TABLES, Table
from tests.builders import NOON, agent_record, health, list_paths, report, result, task
from tests.pipelines.marks import add_marks, read_marks
from tests.pipelines.verify.rows import as_source
from transforms.core.errors import DamagedFile
from transforms.core.time_range import Span
from transforms.sources.archives.archive_files import find_files

SETTINGS = Settings.model_construct().model_copy(update={"shards": 1, "file_minutes": 60})
HOUR = timedelta(hours=1)
SPAN = Span(NOON, NOON + HOUR)
Message = dict[str, Any]


def message(name: str, received_at: datetime | None, data: Any, source: str = "archive") -> Message:
    received = received_at.isoformat() if received_at else None
    return {"source": source, "message_id": name, "received_at": received, "data": data}


def report_each_minute(
    name: str, start: datetime, minutes: Iterable[int], latency_ms: float = 100.0
) -> list[Message]:
    """A report a minute, received a second later, of slowly varying latency; every 20th takes thrice that."""
    recorded = {minute: start + timedelta(minutes=minute) for minute in minutes}
    spread = {minute: 1 + minute * 7 % 20 / 100 if minute % 20 else 3 for minute in minutes}
    documents = {
        minute: report(minute, at, latency_ms=latency_ms * spread[minute]) for minute, at in recorded.items()
    }
    return [
        message(f"{name}{minute}", at + timedelta(seconds=1), documents[minute])
        for minute, at in recorded.items()
    ]


def repeat(name: str, original: Message, seconds: int) -> Message:
    """The same report in another message, so much later."""
    return message(
        name, datetime.fromisoformat(original["received_at"]) + timedelta(seconds=seconds), original["data"]
    )


TASKS, RESULTS, AGENTS, HEALTH = (f"layer4_{name}" for name in ("tasks", "results", "agents", "health"))
SOON = NOON + HOUR / 4
RECORDS_OUTSIDE = [
    message("task before", NOON - HOUR / 2, task(1, NOON - HOUR / 2), TASKS),
    message("task before again", SOON, task(1, NOON - HOUR / 2), TASKS),
    message("agent before", NOON - HOUR / 2, agent_record(1), AGENTS),
    message("agent sometime", None, agent_record(2), AGENTS),
    message("result after", NOON + HOUR, result(1, NOON + HOUR), RESULTS),
    message("health after", NOON + HOUR, health(), HEALTH),
    message("broken task after", NOON + HOUR, "{", TASKS),
]
RECORDS_INSIDE = [
    message("task inside", SOON, task(2, SOON), TASKS),
    message("task inside, long after", NOON + 5 * HOUR, task(2, SOON), TASKS),
    message("result inside", SOON, result(2, SOON), RESULTS),
    message("agent inside", SOON, agent_record(1), AGENTS),
    message("health inside", SOON, health(), HEALTH),
    message("broken agent inside", SOON, "{", AGENTS),
]
RECORDS_FRESH = [
    message("fresh task", SOON, task(3, SOON), TASKS),
    message("fresh result", SOON, result(3, SOON), RESULTS),
    message("fresh result twice", SOON + HOUR / 4, result(3, SOON), RESULTS),
    message("fresh agent", SOON, agent_record(3), AGENTS),
    message("agent", None, agent_record(2), AGENTS),
    message("fresh health", SOON, health(), HEALTH),
    message("fresh broken health", SOON, "{", HEALTH),
]
"""The `agent` sometime is said by another message, whose name is the shorter one: that one is kept."""
BEFORE = report_each_minute("before", NOON - HOUR, range(60))
INSIDE = report_each_minute("inside", NOON, range(60))
AFTER = report_each_minute("after", NOON + HOUR, range(180))
OUTSIDE = [
    *BEFORE, repeat("twice before", BEFORE[59], 60),
    *RECORDS_OUTSIDE,
    *AFTER, message("broken after", NOON + 1.5 * HOUR, "{"), message("broken sometime", None, "{"),
]  # fmt: skip
STORED = [
    *OUTSIDE, *RECORDS_INSIDE,
    *INSIDE, repeat("twice inside", INSIDE[10], 600), repeat("twice and late", INSIDE[59], 60),
    message("broken inside", NOON + HOUR / 2, "{"), message("known", None, "{broken"),
]  # fmt: skip
FRESH = report_each_minute("fresh", NOON, range(0, 60, 3), latency_ms=1000.0)
FRESH += [
    *RECORDS_FRESH,
    repeat("fresh twice", FRESH[3], 30),
    message("fresh broken", NOON + HOUR / 2, "]"),
    message("known", None, "[broken"),
]


def fill(output: Path, messages: list[Message], span: Span | None = None) -> Path:
    """An output made from the messages."""
    backfill(
        find_files([str(write_archive(output.with_suffix(".ndjson"), messages))]),
        [str(output)],
        SETTINGS,
        span or Span(),
        LocalEngine(),
    )
    return output


def write_archive(path: Path, messages: list[Message]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in messages))
    return path


def replace(output: Path, messages: list[Message], settings: Settings = SETTINGS, span: Span = SPAN) -> Path:
    """The output, with a span of it replaced by the messages."""
    results = replace_span(
        find_files([str(write_archive(output.with_suffix(".ndjson"), messages))]),
        [str(output)],
        settings,
        span,
        LocalEngine(),
    )
    assert not results.incomplete
    return output


def are_same(a: Path, b: Path) -> bool:
    return all(table.same for table in compare_outputs(a, b, identity=True).values())


def read_ids(output: Path, table: Table) -> set[str]:
    return {name for rows in scan(output, table) for name in rows["message_id"].to_pylist()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of the stored messages, and the one that should come of replacing its span."""
    folder = tmp_path_factory.mktemp("made")
    fill(folder / "stored", STORED)
    fill(folder / "expected", OUTSIDE + FRESH)
    return folder


@pytest.fixture
def output(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made / "stored", tmp_path / "out")


def test_the_output_is_as_if_the_input_had_always_been_there_instead(output: Path, made: Path) -> None:
    assert not are_same(output, made / "expected")
    assert are_same(replace(output, FRESH), made / "expected")
    assert not (output / "_replacing").exists()


def test_marks_of_the_span_stay(output: Path, made: Path) -> None:
    marks = add_marks(output)
    assert are_same(replace(output, FRESH), made / "expected")
    assert read_marks(output) == marks


def test_flags_of_the_next_hour_follow_even_where_less_is_known_of_the_hour_before(output: Path) -> None:
    def read_flags() -> list[tuple[int, bool]]:
        columns = ["recorded_at", "baseline_n", "is_latency_outlier"]
        rows = [row for batch in scan(output, REPORTS, columns) for row in batch.to_pylist()]
        return next(
            (row["baseline_n"], row["is_latency_outlier"])
            for row in rows
            if row["recorded_at"] == NOON + HOUR * 4 / 3
        )

    before = read_flags()
    replace(output, FRESH)
    assert (before, read_flags()) == ((60, True), (32, False))


def test_what_the_input_holds_outside_of_the_span_is_left_out(output: Path, made: Path) -> None:
    strangers = report_each_minute("stranger", NOON + 2 * HOUR, range(1, 60, 5), latency_ms=7.0)
    assert are_same(replace(output, FRESH + strangers), made / "expected")


def test_duplicates_go_with_what_they_repeat_and_refused_messages_by_when_they_came(output: Path) -> None:
    replace(output, FRESH)
    reports, refused = {"twice before", "fresh twice"}, {"broken after", "broken sometime", "known"}
    records = {"task before again", "fresh result twice", "agent sometime"}
    assert read_ids(output, DUPLICATES) == reports | records
    broken = {"fresh broken", "broken task after", "fresh broken health"}
    assert read_ids(output, QUARANTINED) == refused | broken


def test_records_of_the_span_are_those_of_the_input(output: Path) -> None:
    replace(output, FRESH)
    stored = {name: read_ids(output, table) for name, table in RECORD_TABLES.items()}
    assert stored == {
        "tasks": {"task before", "fresh task"},
        "results": {"result after", "fresh result"},
        "agents": {"agent before", "agent", "fresh agent"},
        "system_health": {"health after", "fresh health"},
    }
    source = as_source([*OUTSIDE, *FRESH])
    assert reconcile(output, source).problems == []


def test_an_hour_of_which_nothing_came_is_empty_and_its_neighbours_stay(output: Path, tmp_path: Path) -> None:
    replace(output, [])
    assert not any(
        "hour=12" in str(path) for path in list_paths(output, REPORTS) + list_paths(output, AGGREGATIONS)
    )
    known = message("known", None, "{broken")
    assert are_same(output, fill(tmp_path / "expected", [*OUTSIDE, known]))


def test_where_nothing_is_stored_it_is_a_backfill_of_the_span(tmp_path: Path) -> None:
    assert are_same(replace(tmp_path / "new", STORED), fill(tmp_path / "plain", STORED, SPAN))


@pytest.mark.parametrize(
    "division", [{"block_hours": 1}, {"block_hours": 3}, {"block_hours": 1, "shards": 2}]
)
def test_blocks_of_any_size_give_what_one_block_gives(
    output: Path, made: Path, division: dict[str, int]
) -> None:
    assert are_same(replace(output, FRESH, SETTINGS.model_copy(update=division)), made / "expected")


@contextmanager
def die_after(rewritten: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The run is killed when it has rewritten so many files."""
    rewrite, left = replacing._rewrite, iter(range(rewritten))

    def mortal(*arguments: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        rewrite(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(replacing, "_rewrite", mortal)
        yield


@pytest.mark.parametrize("rewritten", [1, 4, 8, 13, 20])
def test_a_run_that_died_is_completed_by_the_same_command(
    rewritten: int, output: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with die_after(rewritten, monkeypatch), pytest.raises(KeyboardInterrupt):
        replace(output, FRESH)
    left = output / "_replacing" / "kpi_reports" / "date=2025-10-22" / "hour=12" / "1200.parquet"
    left.parent.mkdir(parents=True)
    left.write_text("half a file")
    assert are_same(replace(output, FRESH), made / "expected")


def test_replacing_twice_changes_nothing(output: Path) -> None:
    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for table in TABLES.values() for path in list_paths(output, table)}

    replace(output, FRESH)
    once = contents()
    replace(output, FRESH)
    assert contents() == once


def test_an_input_that_cannot_be_read_to_its_end_replaces_nothing(
    output: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.ndjson.gz").write_bytes(b"\x1f\x8b\x08\x00")
    span = "--from 2025-10-22T12:00:00Z --to 2025-10-22T13:00:00Z --file-minutes 60"
    paths = ["--input", str(tmp_path / "cut.ndjson.gz"), "--output", str(output)]
    assert run(["backfill", "--replace", *paths, *span.split()]) == 1
    assert "nothing was replaced" in capsys.readouterr().err
    assert are_same(output, made / "stored")


def test_a_changed_file_stops_it_before_anything_is_rewritten(output: Path, made: Path) -> None:
    changed = next(
        path
        for path in list_paths(output, AGGREGATIONS)
        if "window_size=1h/date=2025-10-22/hour=12" in str(path)
    )
    data = bytearray(changed.read_bytes())
    data[4] ^= 1
    changed.write_bytes(data)
    with pytest.raises(DamagedFile, match="window_size=1h"):
        replace(output, FRESH)
    shutil.copy(made / "stored" / changed.relative_to(output), changed)
    assert are_same(output, made / "stored")


@pytest.mark.parametrize("span", [Span(), Span(NOON), Span(None, NOON)])
def test_a_span_without_an_end_is_refused(span: Span, tmp_path: Path) -> None:
    with pytest.raises(WrongUse) as refused:
        replace(tmp_path / "out", FRESH, span=span)
    assert "--from and --to" in refused.value.fix
    assert not (tmp_path / "out").exists()


def test_a_span_of_parts_of_hours_is_refused_with_the_hours_around_it(tmp_path: Path) -> None:
    india = timezone(timedelta(hours=5, minutes=30))
    for start in (NOON + timedelta(microseconds=1), datetime(2025, 10, 22, 18, 0, tzinfo=india)):
        with pytest.raises(WrongUse) as refused:
            replace(tmp_path / "out", FRESH, span=Span(start, NOON + 1.25 * HOUR))
        assert "--from 2025-10-22T12:00:00Z --to 2025-10-22T14:00:00Z" in refused.value.fix


def test_a_full_hour_may_be_written_in_any_zone(output: Path, made: Path) -> None:
    berlin = timezone(2 * HOUR)
    span = Span(NOON.astimezone(berlin), (NOON + HOUR).astimezone(UTC))
    assert are_same(replace(output, FRESH, span=span), made / "expected")


def test_an_output_that_another_job_writes_to_is_left_alone(output: Path) -> None:
    with lock_folders(output), pytest.raises(WrongUse, match="another job"):
        replace(output, FRESH)
