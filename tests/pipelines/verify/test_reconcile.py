"""One fate for every message: what a whole output says, and every way of changing it that must be noticed."""

import json
import random
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.failures import WrongUse
from pipelines.verify.reconcile import Messages, Unreadable, reconcile
from pipelines.verify.verdict import Reconciliation
from schemas.tables import AGGREGATIONS, DUPLICATES, QUARANTINED, REPORTS, TRIMMED, Table
from tests.outputs import open_output
from tests.pipelines.verify.changes import TAMPERS, rewritten, without_a_row
from tests.pipelines.verify.rows import NOON, TEN_MINUTES, Row, duplicate, put, refused, report, windows
from transforms.sinks.parquet.parquet_file import encode_file, read_file

MADE = (REPORTS, AGGREGATIONS, QUARANTINED, DUPLICATES)
GOOD = [report(number, second) for number, second in enumerate((0, 1, 2, 3, 7, 61, 700, 701, 702))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine reports in two files, three quarantined messages (one without a time) and two duplicates."""
    path = tmp_path_factory.mktemp("made")
    open_output(path, TEN_MINUTES, create=True)
    put(path, REPORTS, GOOD)
    put(path, AGGREGATIONS, windows(GOOD))
    put(path, QUARANTINED, [refused(20), refused(21), refused(22, received_at=None)])
    put(path, DUPLICATES, [duplicate(30, of=1), duplicate(31, of=8)])
    return path


@pytest.fixture
def output(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "out")


def source(*numbers: int, unreadable: str = "") -> Messages:
    def messages(report_unreadable: Unreadable) -> Iterator[pa.RecordBatch]:
        rows = [{"source": "s", "message_id": f"{number}-0", "payload": b"x"} for number in numbers]
        yield from pa.Table.from_pylist([*rows, *rows[:2]]).to_batches(max_chunksize=4)
        if unreadable:
            report_unreadable(unreadable, "ends in the middle")

    return messages


ALL = (*range(9), 20, 21, 22, 30, 31)


def counts(verdict: Reconciliation) -> dict[str, int]:
    """The counts that are not zero."""
    return {name: value for name, value in verdict.as_json().items() if value and isinstance(value, int)}


WHOLE = {"received": 14, "reports": 9, "quarantined": 3, "duplicates": 2}


def test_a_whole_output_reconciles_alone_and_with_its_source(output: Path) -> None:
    for verdict in (reconcile(output), reconcile(output, source(*ALL))):
        assert (counts(verdict), verdict.problems) == (WHOLE, [])


def lost(source: str, entries: int | None) -> Row:
    return {
        "source": source,
        "message_id": "9-0",
        "received_at": NOON,
        "after": "1-0",
        "entries": entries,
        "reason": "trimmed",
    }


def test_what_streams_lost_is_counted_and_is_no_problem(output: Path) -> None:
    put(output, TRIMMED, [lost("s", 7), lost("t", 5), lost("u", None)])
    for streams, expected in ((None, (12, 1)), (["s"], (7, 0)), (["t", "u"], (5, 1)), (["v"], (0, 0))):
        verdict = reconcile(output, source(*ALL), streams=streams)
        assert ((verdict.trimmed, verdict.gaps), verdict.problems, "gaps" in verdict.as_json()) == (
            expected,
            [],
            False,
        )


def test_a_changed_account_of_losses_is_noticed(output: Path) -> None:
    put(output, TRIMMED, [lost("s", 7)])
    path = next((output / "trimmed").rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-9])
    verdict = reconcile(output, source(*ALL))
    assert (verdict.trimmed, len(verdict.problems)) == (0, 1)
    assert "trimmed/date=2025-10-22" in verdict.problems[0]


def test_the_mend_of_a_message_without_a_fate_is_the_callers(output: Path) -> None:
    verdict = reconcile(output, source(*ALL, 99), read_again="start the stream")
    assert verdict.problems == ["1 message of the source without a fate (e.g. s 99-0); start the stream"]


def test_the_json_has_the_documented_names_in_order(output: Path) -> None:
    sums = ["received", "reports", "records", "quarantined", "duplicates"]
    others = ["expired", "dismissed", "missing", "surplus", "trimmed", "unreadable", "uncommitted", "waiting"]
    assert list(reconcile(output).as_json()) == [*sums, *others, "kinds", "problems"]


def test_an_output_without_rows_reconciles(tmp_path: Path) -> None:
    open_output(tmp_path, TEN_MINUTES, create=True)
    assert reconcile(tmp_path, source()).as_json() == Reconciliation().as_json()


def test_a_folder_that_is_no_output_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="no output"):
        reconcile(tmp_path)


def test_reports_come_before_duplicates_and_duplicates_before_quarantine(output: Path) -> None:
    put(output, QUARANTINED, [refused(1), refused(30)])
    put(output, DUPLICATES, [duplicate(2, of=1)])
    verdict = reconcile(output, source(*ALL))
    assert (counts(verdict), verdict.problems) == (WHOLE, [])


def test_messages_of_the_source_without_a_fate_are_missing_and_named(output: Path) -> None:
    verdict = reconcile(output, source(*ALL, 40, 41))
    assert counts(verdict) == {**WHOLE, "received": 16, "missing": 2}
    (problem,) = verdict.problems
    assert problem.startswith("2 messages of the source without a fate (e.g. ")
    assert ("s 40-0" in problem, "s 41-0" in problem, "kpiflow backfill" in problem) == (True, True, True)


def test_fates_without_a_message_of_the_source_are_surplus_and_named(output: Path) -> None:
    verdict = reconcile(output, source(*ALL[:-2]))
    assert counts(verdict) == {**WHOLE, "received": 12, "surplus": 2}
    assert "s 31-0" in verdict.problems[0]


def test_a_second_report_of_one_message_is_surplus(output: Path) -> None:
    twice = [report(50, 3, message_id="0-0")]
    put(output, REPORTS, twice)
    put(output, AGGREGATIONS, windows(GOOD + twice))
    verdict = reconcile(output, source(*ALL))
    assert counts(verdict) == {**WHOLE, "reports": 10, "surplus": 1}
    assert verdict.problems[0].startswith("1 message in kpi_reports more than once (e.g. s 0-0)")


def test_a_source_that_could_not_be_read_to_its_end_is_a_problem_by_name(output: Path) -> None:
    verdict = reconcile(output, source(*ALL, unreadable="a.ndjson.gz"))
    assert counts(verdict) == {**WHOLE, "unreadable": 1}
    assert verdict.problems == ["a.ndjson.gz could not be read to its end: ends in the middle; get it whole"]


def test_the_same_id_of_another_source_is_another_message(output: Path) -> None:
    put(output, QUARANTINED, [refused(1, source="t")])
    assert counts(reconcile(output, source(*ALL))) == {**WHOLE, "quarantined": 4, "surplus": 1}


def test_a_row_that_a_replay_closed_is_no_fate_without_its_report(output: Path) -> None:
    put(
        output,
        QUARANTINED,
        [refused(1, resolution="replayed"), refused(50, resolution="replayed", revision=2)],
    )
    for messages in (None, source(*ALL), source(*ALL, 50)):
        verdict = reconcile(output, messages)
        assert counts(verdict) == {**WHOLE, "received": 15, "missing": 1}
        assert verdict.problems == [
            "1 message replayed, but with reports or records that are gone (e.g. s 50-0); "
            "run `kpiflow quarantine replay`: it opens them again, and accepts corrected ones with --input"
        ]


def test_a_dismissed_row_counts_as_refused_only_while_the_source_has_its_message(output: Path) -> None:
    put(output, QUARANTINED, [refused(50, resolution="dismissed", revision=2)])
    for messages, expected in (
        (None, {"dismissed": 1}),
        (source(*ALL), {"dismissed": 1}),
        (source(*ALL, 50), {"received": 15, "quarantined": 4}),
    ):
        verdict = reconcile(output, messages)
        assert (counts(verdict), verdict.problems) == ({**WHOLE, **expected}, [])


def test_a_dismissed_message_that_became_a_report_counts_as_that(output: Path) -> None:
    put(output, QUARANTINED, [refused(1, resolution="dismissed", revision=2)])
    for messages in (None, source(*ALL)):
        verdict = reconcile(output, messages)
        assert (counts(verdict), verdict.problems) == (WHOLE, [])


def test_a_duplicate_whose_report_is_gone_is_no_fate(output: Path) -> None:
    put(output, DUPLICATES, [duplicate(32, of=99)])
    for messages in (None, source(*ALL), source(*ALL, 32)):
        verdict = reconcile(output, messages)
        assert counts(verdict) == {**WHOLE, "received": 15, "missing": 1}
        assert verdict.problems == [
            "1 report_id in duplicates but not in kpi_reports (e.g. r99); run `kpiflow backfill` over "
            "the source again"
        ]
    put(output, QUARANTINED, [refused(32)])
    assert counts(reconcile(output, source(*ALL, 32))) == {**WHOLE, "received": 15, "quarantined": 4}


def test_a_message_quarantined_at_two_times_is_in_the_table_twice(output: Path) -> None:
    put(output, QUARANTINED, [refused(20, received_at=NOON + timedelta(minutes=20))])
    verdict = reconcile(output)
    assert counts(verdict) == WHOLE
    assert "1 message in quarantine more than once (e.g. s 20-0)" in verdict.problems[0]


def test_a_report_that_lies_in_two_files_is_named(output: Path) -> None:
    moved = [report(1, 1300, message_id="60-0")]
    put(output, REPORTS, moved)
    put(output, AGGREGATIONS, windows([*GOOD, *moved]))
    assert "1 report_id in kpi_reports more than once (e.g. r1)" in reconcile(output).problems[0]


def test_a_duplicate_of_no_report_is_named(output: Path) -> None:
    put(output, DUPLICATES, [duplicate(32, of=99)])
    assert "1 report_id in duplicates but not in kpi_reports (e.g. r99)" in reconcile(output).problems[0]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("task_count", 2),
        ("memory_outlier_count", 1),
        ("avg_latency_ms", 100.5000002),
        ("avg_latency_ms", None),
    ],
)
def test_a_window_that_does_not_agree_with_its_reports_is_named(
    output: Path, column: str, value: Any
) -> None:
    window = next(row for row in windows(GOOD) if row["granularity"] == "1m" and row["agent_id"] == "a")
    put(output, AGGREGATIONS, [{**window, column: value, "revision": 99}])
    (problem,) = reconcile(output).problems
    assert problem.startswith("kpi_aggregations/window_size=1m/date=2025-10-22/hour=12 does not agree")
    assert f": 1 difference, first {column} of agent a at 2025-10-22 12:00:00+00:00 is" in problem


def test_a_mean_summed_in_another_order_agrees(output: Path) -> None:
    changed = [
        {**row, "avg_latency_ms": row["avg_latency_ms"] * (1 + 1e-12), "revision": 99}
        for row in windows(GOOD)
    ]
    put(output, AGGREGATIONS, changed)
    assert reconcile(output).problems == []


def test_windows_without_reports_and_reports_without_windows_are_named(output: Path) -> None:
    late = report(70, 4000)
    put(output, AGGREGATIONS, [row for row in windows([*GOOD, late]) if row["granularity"] == "1h"])
    (problem,) = reconcile(output).problems
    assert "reports of 2025-10-22 13:00: 1 difference, first a window of agent a" in problem
    put(output, REPORTS, [late])
    assert [problem.split(" ")[0] for problem in reconcile(output).problems] == [
        "kpi_aggregations/window_size=5s/date=2025-10-22/hour=13",
        "kpi_aggregations/window_size=1m/date=2025-10-22/hour=13",
    ]


def stopped(output: Path, watermark: datetime, read: datetime) -> None:
    """Leave what a stream leaves that read the stream `s`: job.json, a reader's status, a complete
    checkpoint.
    """
    folder = output / "_stream"
    (folder / "checkpoints" / "job" / "chk-3").mkdir(parents=True)
    (folder / "checkpoints" / "job" / "chk-3" / "_metadata").touch()
    (folder / "readers").mkdir()
    depends = {"streams": ["s"], "outputs": [], "group": "kpiflow"}
    (folder / "job.json").write_text(json.dumps({"settle_seconds": 0, "depends": depends}))
    at, position = (int(each.timestamp() * 1000) for each in (watermark, read))
    streams = {"s": {"position": f"{position}-5"}}
    times = {"watermark": at, "newest": position, "time": position}
    reader = times | {"streams": streams, "read": 0}
    (folder / "readers" / "reader-0.json").write_text(json.dumps(reader))


SOON = NOON + timedelta(minutes=9)


def newest(number: int, **values: Any) -> Row:
    """A report of which the windows of `made` know nothing yet."""
    return report(number, 540, **({"received_at": SOON} | values))


def test_windows_that_a_stopped_stream_still_has_to_write_wait_and_are_no_problem(output: Path) -> None:
    put(output, REPORTS, [newest(71), newest(73)])
    assert len(reconcile(output).problems) == 3
    stopped(output, watermark=SOON, read=SOON)
    verdict = reconcile(output)
    assert (verdict.waiting, verdict.problems) == (3, [])
    put(output, AGGREGATIONS, windows([*GOOD, newest(71), newest(73)]))
    assert counts(reconcile(output)) == {**WHOLE, "received": 16, "reports": 11}


def test_a_difference_of_older_reports_is_found_after_a_stop_too(output: Path) -> None:
    times = (None, SOON - timedelta(minutes=2), SOON + timedelta(seconds=6))
    put(
        output,
        REPORTS,
        [newest(71, source="t"), *(newest(73 + i, received_at=each) for i, each in enumerate(times))],
    )
    stopped(output, watermark=SOON, read=SOON)
    verdict = reconcile(output)
    assert (verdict.waiting, len(verdict.problems)) == (0, 3)
    assert verdict.problems[0].endswith(
        "run `kpiflow stream` as before, with --until-idle if it is to end by itself; if it still differs "
        "then, "
        "run `kpiflow backfill --replace` over the messages of that hour"
    )


def test_a_window_that_holds_more_than_its_reports_does_not_wait(output: Path) -> None:
    put(output, REPORTS, [newest(71)])
    more = [
        {**row, "task_count": row["task_count"] + 1, "revision": row["revision"] + 1}
        for row in windows([*GOOD, newest(71)])
    ]
    put(output, AGGREGATIONS, more)
    stopped(output, watermark=SOON, read=SOON)
    assert (reconcile(output).waiting, len(reconcile(output).problems)) == (0, 3)


def test_what_a_torn_status_of_a_reader_says_is_nothing(output: Path) -> None:
    put(output, REPORTS, [newest(71)])
    stopped(output, watermark=SOON, read=SOON)
    (output / "_stream" / "readers" / "reader-1.json").write_bytes(b"")
    assert reconcile(output).waiting == 3


def test_messages_of_the_archive_that_a_stopped_stream_still_has_to_write_are_uncommitted(
    output: Path,
) -> None:
    def archived(_: Unreadable) -> Iterator[pa.RecordBatch]:
        rows = [("71-0", SOON), ("72-0", SOON - timedelta(minutes=2))]
        yield pa.RecordBatch.from_pylist(
            [{"source": "s", "message_id": each, "received_at": at} for each, at in rows]
        )

    assert reconcile(output, archived).missing == 2
    stopped(output, watermark=SOON, read=SOON)
    verdict = reconcile(output, archived)
    assert (verdict.uncommitted, verdict.missing) == (1, 1)


def test_the_state_of_a_stream_may_be_elsewhere(output: Path, tmp_path: Path) -> None:
    put(output, REPORTS, [newest(71)])
    stopped(tmp_path / "state", watermark=SOON, read=SOON)
    assert len(reconcile(output).problems) == 3
    assert (
        reconcile(output, home=tmp_path / "state").waiting,
        reconcile(output, home=tmp_path / "state").problems,
    ) == (3, [])


def test_a_stream_that_left_no_checkpoint_has_nothing_that_waits(output: Path) -> None:
    put(output, REPORTS, [newest(71)])
    stopped(output, watermark=SOON, read=SOON)
    (output / "_stream" / "checkpoints" / "job" / "chk-3" / "_metadata").unlink()
    assert (reconcile(output).waiting, len(reconcile(output).problems)) == (0, 3)


def test_a_file_of_an_older_schema_is_no_problem(output: Path) -> None:
    for path in (output / "kpi_reports").rglob("*.parquet"):
        path.write_bytes(encode_file(read_file(path).drop_columns(["priority", "is_memory_outlier"])))
    assert reconcile(output).problems == []


def test_a_file_of_another_table_is_a_problem(output: Path) -> None:
    rows = pa.RecordBatch.from_pydict({name: ["x"] for name in REPORTS.schema.names})
    (output / "kpi_reports" / "date=2025-10-22" / "hour=12" / "1200.parquet").write_bytes(encode_file(rows))
    assert any("1200.parquet does not hold kpi_reports" in problem for problem in reconcile(output).problems)


def test_a_damaged_file_whose_values_make_no_sense_is_a_problem_and_gives_no_fate(output: Path) -> None:
    path = output / "quarantine" / "date=2025-10-22" / "hour=12" / "1200.parquet"
    senseless = pa.array([2**63 - 1, -(2**63)]).cast(QUARANTINED.schema.field("received_at").type)
    rows = pa.Table.from_batches([read_file(path)]).set_column(2, "received_at", senseless)
    pq.write_table(rows, path)
    verdict = reconcile(output, source(*ALL))
    assert counts(verdict) == {**WHOLE, "quarantined": 1, "missing": 2}
    assert [problem.split(" ")[1] for problem in verdict.problems] == ["has", "messages"]


def test_a_hundred_random_changes_are_noticed(output: Path) -> None:
    whole = {path: path.read_bytes() for path in sorted(output.rglob("*.parquet"))}
    chance = random.Random(7)
    for number in range(100):
        path, tamper = chance.choice(list(whole)), TAMPERS[number % len(TAMPERS)]
        tamper(path, chance)
        assert reconcile(output, source(*ALL)).problems, (path, number % len(TAMPERS))
        for left in set(output.rglob("*.parquet")) - set(whole):
            left.unlink()
        for each, data in whole.items():
            each.write_bytes(data)
    assert reconcile(output, source(*ALL)).problems == []


@pytest.mark.parametrize("table", [REPORTS, AGGREGATIONS], ids=lambda table: table.name)
def test_the_loss_of_a_file_of_reports_or_windows_is_noticed_without_the_source(
    output: Path, table: Table
) -> None:
    for path in sorted((output / table.name).rglob("*.parquet")):
        data = path.read_bytes()
        path.unlink()
        assert any("does not agree with the reports" in problem for problem in reconcile(output).problems), (
            path
        )
        path.write_bytes(data)


@pytest.mark.parametrize("table", MADE, ids=lambda table: table.name)
def test_a_changed_file_is_named_with_the_mend(output: Path, table: Table) -> None:
    path = sorted((output / table.name).rglob("*.parquet"))[0]
    rewritten(without_a_row, "unsealed")(path, random.Random(0))
    problem = next(problem for problem in reconcile(output).problems if "digest" in problem)
    assert problem.startswith(f"{path.relative_to(output)} has no digest")
    assert problem.endswith(
        "move it away, then run `kpiflow backfill --replace` over the messages of that hour"
    )
