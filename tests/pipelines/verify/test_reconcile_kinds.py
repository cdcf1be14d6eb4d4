"""One fate for every message of every kind: records beside reports, checked in the same way."""

import random
import shutil
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.verify.reconcile import reconcile
from schemas.kinds import KINDS, Kind
from schemas.tables import AGGREGATIONS, DUPLICATES, QUARANTINED, RECORD_TABLES, TABLES, Table
from tests.builders import list_paths
from tests.outputs import open_output
from tests.pipelines.verify.changes import TAMPERS, copied, rewritten, without_a_row
from tests.pipelines.verify.rows import (
    NOON,
    TEN_MINUTES,
    Row,
    as_source,
    put,
    rejected,
    repeated,
    stored,
    windows,
)
from transforms.sinks.parquet.parquet_file import encode_file, read_file

TASK, RESULT = KINDS["task"], KINDS["execution_result"]
WITH_ID = [kind for kind in KINDS.values() if kind.record_id is not None]


def fill(output: Path) -> list[Row]:
    """Of each kind two stored messages, a rejected one, and a duplicate if two messages can say the same; the
    rows of all messages.
    """
    open_output(output, TEN_MINUTES, create=True)
    messages = []
    for kind in KINDS.values():
        rows = {
            kind.table: [stored(kind, 1, 1), stored(kind, 2, 2)],
            QUARANTINED: [rejected(kind, 3)],
            DUPLICATES: [repeated(kind, 2, 4)] if kind in WITH_ID else [],
        }
        for table, of_table in rows.items():
            put(output, table, of_table)
            messages += of_table
    put(output, AGGREGATIONS, windows([stored(KINDS["kpi_report"], number, number) for number in (1, 2)]))
    return messages


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    path = tmp_path_factory.mktemp("kinds")
    return path, fill(path)


@pytest.fixture
def output(made: tuple[Path, list[Row]], tmp_path: Path) -> Path:
    return shutil.copytree(made[0], tmp_path / "out")


@pytest.fixture(scope="module")
def messages(made: tuple[Path, list[Row]]) -> list[Row]:
    return made[1]


def test_every_kind_is_counted_by_fate(output: Path, messages: list[Row]) -> None:
    for verdict in (reconcile(output), reconcile(output, as_source(messages))):
        assert verdict.problems == []
        found = verdict.as_json()
        assert found["kinds"] == {
            name: {"stored": 2, "duplicates": int(kind in WITH_ID), "quarantined": 1}
            for name, kind in KINDS.items()
        }
        sums = ("received", "reports", "records", "quarantined", "duplicates", "missing", "surplus")
        assert [found[name] for name in sums] == [19, 2, 8, 5, 4, 0, 0]


@pytest.mark.parametrize("kind", WITH_ID, ids=lambda kind: kind.schema)
def test_a_duplicate_of_what_is_not_stored_is_no_fate(output: Path, messages: list[Row], kind: Kind) -> None:
    row = repeated(kind, 7, 5)
    put(output, DUPLICATES, [row])
    for source in (None, as_source([*messages, row])):
        verdict = reconcile(output, source)
        assert (verdict.missing, verdict.duplicates, len(verdict.problems)) == (1, 4, 1)
        assert f" in duplicates but not in {kind.table.name} (e.g. " in verdict.problems[0]
        assert (row["report_id"] if kind.is_report else row["record_id"]) in verdict.problems[0]


def test_a_record_of_another_kind_with_the_same_key_is_not_what_a_duplicate_repeats(output: Path) -> None:
    put(output, RESULT.table, [stored(RESULT, 7, 5)])
    put(output, DUPLICATES, [repeated(TASK, 7, 6)])
    assert "1 task_id version in duplicates but not in tasks" in reconcile(output).problems[0]


def test_a_duplicate_of_a_kind_whose_messages_are_all_different_is_no_fate(output: Path) -> None:
    put(output, DUPLICATES, [repeated(KINDS["system_health"], 7, 6)])
    assert reconcile(output).missing == 1


def test_a_record_that_lies_in_two_files_is_named(output: Path) -> None:
    put(output, TASK.table, [stored(TASK, 1, 8) | {"created_at": NOON + timedelta(hours=3)}])
    problem = reconcile(output).problems[0]
    assert "1 task_id version in tasks more than once (e.g. task_id1 version1)" in problem


def test_a_message_that_is_stored_as_two_kinds_is_surplus_and_named(
    output: Path, messages: list[Row]
) -> None:
    put(output, RESULT.table, [stored(RESULT, 7, 1) | {"source": TASK.stream}])
    verdict = reconcile(output, as_source(messages))
    assert (verdict.surplus, verdict.received, verdict.records) == (1, 19, 9)
    (problem,) = verdict.problems
    assert problem.startswith("1 message in the tables of several kinds (e.g. layer4_tasks 1-0)")


def test_rows_of_versions_that_knew_only_reports_are_of_reports(output: Path) -> None:
    for table in (QUARANTINED, DUPLICATES):
        for path in list_paths(output, table):
            rows = read_file(path)
            path.write_bytes(encode_file(rows.filter(rows["source"].cast("string").is_valid())))
            kept = [row["kind"] == "kpi_report" for row in rows.to_pylist()]
            path.write_bytes(encode_file(rows.filter(kept).drop_columns(["kind"])))
    kinds = reconcile(output).as_json()["kinds"]
    assert kinds["kpi_report"] == {"stored": 2, "duplicates": 1, "quarantined": 1}
    assert kinds["task"] == {"stored": 2, "duplicates": 0, "quarantined": 0}


def test_rows_of_an_unknown_kind_are_a_problem(output: Path) -> None:
    put(output, QUARANTINED, [rejected(TASK, 9) | {"kind": "dream"}])
    assert "holds 1 row of an unknown kind; move it away" in reconcile(output).problems[0]


@pytest.mark.parametrize("table", RECORD_TABLES.values(), ids=RECORD_TABLES)
def test_a_changed_file_of_records_is_named_and_reading_again_is_the_fix(
    output: Path, messages: list[Row], table: Table
) -> None:
    path = list_paths(output, table)[0]
    rewritten(without_a_row, "unsealed")(path, random.Random(0))
    verdict = reconcile(output, as_source(messages))
    assert verdict.problems[0].startswith(f"{path.relative_to(output)} has no digest")
    assert verdict.problems[0].endswith("move it away, then run `kpiflow backfill` over the source again")
    path.unlink()
    assert reconcile(output, as_source(messages)).missing > 0


def test_random_changes_of_files_of_records_are_noticed(output: Path, messages: list[Row]) -> None:
    whole = {
        path: path.read_bytes() for table in RECORD_TABLES.values() for path in list_paths(output, table)
    }
    chance = random.Random(7)
    for number in range(3 * len(TAMPERS)):
        path, tamper = chance.choice(list(whole)), TAMPERS[number % len(TAMPERS)]
        if tamper is copied and path.parent.name == "agents":
            continue  # it would be no file of a table
        tamper(path, chance)
        assert reconcile(output, as_source(messages)).problems, (path, number % len(TAMPERS))
        for table in RECORD_TABLES.values():
            for left in set(list_paths(output, table)) - set(whole):
                left.unlink()
        for each, data in whole.items():
            each.write_bytes(data)
    assert reconcile(output, as_source(messages)).problems == []


MESSAGES = st.lists(
    st.tuples(
        st.sampled_from(list(KINDS.values())),
        st.integers(0, 3),
        st.booleans(),
        st.one_of(st.none(), st.integers(0, 40)),
    ),
    min_size=1,
    max_size=12,
)
"""Kind, content, whether it is valid, and the minute at which it was received."""


@settings(max_examples=25, deadline=None)
@given(chosen=MESSAGES, draw=st.randoms(use_true_random=False))
def test_any_mixture_reconciles_and_the_loss_of_any_row_is_noticed(
    chosen: list[tuple[Kind, int, bool, int | None]], draw: random.Random
) -> None:
    with TemporaryDirectory() as folder:
        output, rows = Path(folder), []
        open_output(output, TEN_MINUTES, create=True)
        for number, (kind, content, is_valid, minute) in enumerate(chosen):
            at = None if minute is None else NOON + timedelta(minutes=minute)
            row = stored(kind, content, number, at) if is_valid else rejected(kind, number, at)
            put(output, kind.table if is_valid else QUARANTINED, [row])
            rows.append((kind, row) if is_valid else (None, row))
        reports = {row["report_id"]: row for kind, row in rows if kind and kind.is_report}
        put(output, AGGREGATIONS, windows(list(reports.values())))
        source = as_source(row for _, row in rows)
        verdict = reconcile(output, source)
        assert (verdict.problems, verdict.received, verdict.missing) == ([], len(chosen), 0)
        lose_row(output, draw)
        assert reconcile(output, source).problems


def lose_row(output: Path, draw: random.Random) -> None:
    """Remove a row of a table, by a program that knows how files are sealed."""
    path = draw.choice([path for table in TABLES.values() for path in list_paths(output, table)])
    rows = read_file(path)
    lost = draw.randrange(rows.num_rows)
    left = rows.filter([number != lost for number in range(rows.num_rows)])
    path.unlink() if draw.random() < 0.5 and not left.num_rows else path.write_bytes(encode_file(left))
