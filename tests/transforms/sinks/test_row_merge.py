"""The union of two sets of rows: which row is kept, what is displaced, and the laws of a union."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.tables import (
    AGENTS,
    AGGREGATIONS,
    DUPLICATES,
    QUARANTINED,
    REPORTS,
    RESULTS,
    TABLES,
    TASKS,
    Table,
)
from transforms.core.grouping import number_groups, sort_by_columns
from transforms.core.record_batches import conform, make_empty
from transforms.sinks.row_merge import merge_rows

Row = dict[str, Any]


def batch(table: Table, *rows: Row) -> pa.RecordBatch:
    """The rows in all columns of the table."""
    named = pa.schema([field for field in table.schema if any(field.name in row for row in rows)])
    return conform(pa.RecordBatch.from_pylist(list(rows), schema=named), table.schema)


def report(report_id: str, message_id: str | None = "1-0", **values: Any) -> Row:
    return {"report_id": report_id, "message_id": message_id, "source": "s", "revision": 0, **values}


def keep(table: Table, stored: list[Row], new: list[Row]) -> list[Row]:
    return merge_rows(table, batch(table, *stored), batch(table, *new)).rows.to_pylist()


def displaced(stored: list[Row], new: list[Row]) -> list[tuple[str, str]]:
    rows = merge_rows(REPORTS, batch(REPORTS, *stored), batch(REPORTS, *new)).displaced.to_pylist()
    return [(row["message_id"], row["report_id"]) for row in rows]


def test_rows_of_distinct_keys_are_all_kept_in_the_tables_order() -> None:
    rows = [
        report(i, agent_id=agent, recorded_at=at)
        for i, agent, at in (("c", "a", 2), ("a", "b", 1), ("b", "a", 1))
    ]
    assert [row["report_id"] for row in keep(REPORTS, rows[:1], rows[1:])] == ["b", "c", "a"]


def test_the_larger_revision_is_kept_whichever_side_it_comes_from() -> None:
    old, new = report("x", revision=1, latency_ms=1.0), report("x", revision=2, latency_ms=2.0)
    assert keep(REPORTS, [old], [new]) == keep(REPORTS, [new], [old]) == batch(REPORTS, new).to_pylist()


def test_of_entries_of_one_millisecond_the_smaller_number_is_kept() -> None:
    ninth, tenth = report("x", "5-9"), report("x", "5-10")
    assert (
        keep(REPORTS, [tenth], [ninth])
        == keep(REPORTS, [ninth], [tenth])
        == batch(REPORTS, ninth).to_pylist()
    )
    assert displaced([tenth], [ninth]) == [("5-10", "x")]


def test_a_row_without_a_revision_gives_way() -> None:
    assert keep(REPORTS, [report("x", revision=None)], [report("x", revision=-5)])[0]["revision"] == -5


@pytest.mark.parametrize("column", ["received_at", "source", "message_id"])
def test_of_equal_revisions_the_smallest_message_is_kept_and_null_is_smallest(column: str) -> None:
    values = [None, 7, 9] if column == "received_at" else [None, "a", "b"]
    rows = [report("x", **{"message_id": "1-0", "source": "s", column: value}) for value in reversed(values)]
    assert keep(REPORTS, rows[:1], rows[1:]) == batch(REPORTS, report("x", **{column: values[0]})).to_pylist()
    assert keep(REPORTS, [], rows[:2]) == batch(REPORTS, report("x", **{column: values[1]})).to_pylist()


def test_an_aggregate_of_more_reports_revises_its_window() -> None:
    key = {"granularity": "5s", "agent_id": "a", "time_window_start": 0}
    first, later = {**key, "task_count": 1, "revision": 1}, {**key, "task_count": 2, "revision": 2}
    other = {**key, "granularity": "1m", "task_count": 9, "revision": 9}
    assert keep(AGGREGATIONS, [first, other], [later]) == sorted(
        batch(AGGREGATIONS, later, other).to_pylist(), key=lambda row: row["granularity"]
    )


def test_a_report_of_another_message_is_displaced_and_a_redelivery_is_not() -> None:
    first, second = report("x", "1-0", received_at=1), report("x", "2-0", received_at=2)
    assert (
        displaced([first], [second])
        == displaced([second], [first])
        == displaced([], [second, first])
        == [("2-0", "x")]
    )
    assert displaced([first], [first]) == []
    assert displaced([first], [report("x", "1-0", received_at=1, revision=5)]) == []


def test_a_displaced_message_is_named_once_with_its_own_time() -> None:
    lost = [report("x", "2-0", received_at=2, revision=revision) for revision in (0, 1, 2)]
    rows = merge_rows(
        REPORTS, batch(REPORTS, *lost), batch(REPORTS, report("x", "1-0", received_at=1, revision=3))
    ).displaced
    expected = {"source": "s", "message_id": "2-0", "received_at": 2, "report_id": "x", "revision": 1}
    expected["kind"] = "kpi_report"
    assert rows.equals(batch(DUPLICATES, expected))


@pytest.mark.parametrize(
    ("table", "key", "record_id"),
    [(TASKS, "task_id", "x v"), (RESULTS, "task_id", "x v"), (AGENTS, "agent_id", "x v")],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_record_that_another_message_says_again_is_displaced(
    table: Table, key: str, record_id: str
) -> None:
    first, second = (
        {key: "x", "version": "v", "source": "s", "message_id": f"{n}-0", "received_at": n} for n in (1, 2)
    )
    other = {**second, "version": "w", "message_id": "3-0"}
    merged = merge_rows(table, batch(table, second, other), batch(table, first))
    assert merged.rows["message_id"].to_pylist() == ["1-0", "3-0"]
    kind = {"tasks": "task", "results": "execution_result", "agents": "agent"}[table.name]
    lost = {name: second[name] for name in ("source", "message_id", "received_at")}
    assert merged.displaced.equals(
        batch(DUPLICATES, {**lost, "kind": kind, "record_id": record_id, "revision": 1})
    )
    assert merge_rows(table, merged.rows, batch(table, first, other)).displaced.num_rows == 0


def test_nothing_new_takes_no_row() -> None:
    rows = batch(REPORTS, report("x"), report("y", revision=3, latency_ms=float("nan")))
    stored = merge_rows(REPORTS, make_empty(REPORTS.schema), rows).rows
    assert merge_rows(REPORTS, stored, rows).taken == 0
    assert merge_rows(REPORTS, stored, batch(REPORTS, report("x", revision=1), report("z"))).taken == 2


def test_columns_may_be_missing_further_or_in_another_order() -> None:
    given_ = pa.RecordBatch.from_pylist([{"extra_column": 1, "revision": 1, "report_id": "x"}])
    assert conform(given_, REPORTS.schema).equals(batch(REPORTS, {"report_id": "x", "revision": 1}))


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_the_union_of_nothing_is_nothing(table: Table) -> None:
    nothing = make_empty(table.schema)
    assert merge_rows(table, nothing, nothing).rows.equals(nothing)


reports_ = st.builds(
    lambda id_, source, message, at, revision, agent: {
        "report_id": id_, "source": source, "message_id": message, "received_at": at, "revision": revision,
        "agent_id": agent, "recorded_at": ord(id_),
        "latency_ms": float(hash((message, revision, source, at)) % 97),
    },
    st.sampled_from("abc"), st.sampled_from(["s", "t"]), st.sampled_from(["1-0", "2-0", "3-0", None]),
    st.sampled_from([1, 2, None]), st.integers(0, 2), st.just("agent"),
)  # fmt: skip
row_lists = st.lists(reports_, max_size=8)


def oracle(rows: list[Row]) -> tuple[list[Row], set[tuple[Any, ...]]]:
    """The same rule, row by row."""

    def rank(row: Row) -> tuple[Any, ...]:
        message = [
            (row[name] is not None, row[name] or 0) for name in ("received_at", "source", "message_id")
        ]
        return (-row["revision"], *message)

    best: dict[str, Row] = {}
    for row in rows:
        if row["report_id"] not in best or rank(row) < rank(best[row["report_id"]]):
            best[row["report_id"]] = row
    lost = {
        (row["source"], row["message_id"], row["report_id"])
        for row in rows
        if (row["source"], row["message_id"])
        != tuple(best[row["report_id"]][name] for name in ("source", "message_id"))
    }
    return sorted(best.values(), key=lambda row: row["report_id"]), lost


def lost_messages(rows: pa.RecordBatch) -> set[tuple[Any, ...]]:
    return {(row["source"], row["message_id"], row["report_id"]) for row in rows.to_pylist()}


@settings(max_examples=60, deadline=None)
@given(row_lists, row_lists)
def test_union_agrees_with_the_rule_row_by_row_and_does_not_care_which_side_is_stored(
    a: list[Row], b: list[Row]
) -> None:
    one, other = (merge_rows(REPORTS, batch(REPORTS, *x), batch(REPORTS, *y)) for x, y in ((a, b), (b, a)))
    rows, lost = oracle(a + b)
    assert one.rows.equals(batch(REPORTS, *rows))
    assert one.rows.equals(other.rows)
    assert lost_messages(one.displaced) == lost_messages(other.displaced) == lost
    assert len(lost) == one.displaced.num_rows


@settings(max_examples=50, deadline=None)
@given(row_lists, row_lists, row_lists)
def test_union_is_associative_and_idempotent(a: list[Row], b: list[Row], c: list[Row]) -> None:
    x, y, z = (batch(REPORTS, *rows) for rows in (a, b, c))
    xy, yz = merge_rows(REPORTS, x, y), merge_rows(REPORTS, y, z)
    left, right = merge_rows(REPORTS, xy.rows, z), merge_rows(REPORTS, x, yz.rows)
    assert left.rows.equals(right.rows)
    again = merge_rows(REPORTS, left.rows, left.rows)
    assert again.rows.equals(left.rows)
    assert (again.taken, again.displaced.num_rows) == (0, 0)


texts, numbers = st.sampled_from(["a", "b", "", None]), st.sampled_from([1, 2, None])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(texts, numbers), max_size=12))
def test_keys_are_grouped_and_sorted_with_null_as_a_value(pairs: list[tuple[str | None, int | None]]) -> None:
    schema = pa.schema([("s", pa.string()), ("n", pa.int64())])
    rows = pa.RecordBatch.from_pylist([{"s": s, "n": n} for s, n in pairs], schema=schema)
    groups = number_groups(rows, ("s", "n"))
    assert [[x == y for y in groups] for x in groups] == [[x == y for y in pairs] for x in pairs]
    expected = sorted(
        range(len(pairs)), key=lambda i: [(pairs[i][0] is None, pairs[i][0] or ""), pairs[i][1] or 3]
    )
    assert sort_by_columns(rows, ("s", "n")).tolist() == expected


def test_many_keys_of_four_columns_do_not_overflow() -> None:
    count = 200_000
    rows = pa.RecordBatch.from_pydict({name: pa.array(np.arange(count)) for name in "abcd"})
    assert np.array_equal(number_groups(rows, tuple("abcd")), np.arange(count))


def test_quarantine_rows_of_one_message_keep_the_newest_resolution() -> None:
    first = {"source": "s", "message_id": "1-0", "reason": "json", "revision": 1}
    later = {**first, "resolution": "replayed", "revision": 2}
    assert keep(QUARANTINED, [first], [later]) == batch(QUARANTINED, later).to_pylist()
