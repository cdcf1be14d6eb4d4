from datetime import UTC, datetime, timedelta

import pyarrow as pa

from schemas.tables import TIME
from transforms.history.dedup import deduplicate, drop_repeats

T0 = datetime(2024, 5, 6, 12, tzinfo=UTC)
A, B = "a" * 32, "b" * 32
STRINGS = [(name, pa.string()) for name in ("report_id", "source", "message_id")]
SCHEMA = pa.schema([*STRINGS, ("received_at", TIME), ("context", pa.bool_())])


def copies(*rows) -> pa.Table:
    """Rows of (report_id, source, message_id, seconds or None, context)."""
    columns = list(zip(*rows))
    columns[3] = [second if second is None else T0 + timedelta(seconds=second) for second in columns[3]]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, SCHEMA)], schema=SCHEMA)


def outcome(table: pa.Table) -> tuple[list, list, list]:
    """The rows that are kept, which of them are context, and the duplicates' message ids."""
    done = deduplicate(table)
    return done.rows.tolist(), done.context.tolist(), sorted(done.duplicates["message_id"].to_pylist())


def test_reports_that_came_once_are_all_kept():
    assert outcome(copies((A, "s", "1", 0, False), (B, "s", "2", 0, True))) == ([0, 1], [False, True], [])


def test_the_message_received_first_is_kept_and_the_others_are_duplicates():
    table = copies(
        (A, "s", "2", 9, False), (B, "s", "3", 0, False), (A, "t", "1", 5, False), (A, "s", "4", 7, False)
    )
    assert outcome(table) == ([1, 2], [False, False], ["2", "4"])


def test_a_message_of_unknown_time_is_kept_before_all_others():
    table = copies((A, "s", "1", 0, False), (A, "t", "2", None, False))
    assert outcome(table) == ([1], [False], ["1"])


def test_a_duplicate_keeps_what_tells_its_message():
    duplicates = deduplicate(copies((A, "s", "1", 0, False), (A, "t", "2", 3, False))).duplicates
    row = {
        "source": "t",
        "message_id": "2",
        "received_at": T0 + timedelta(seconds=3),
        "kind": "kpi_report",
        "record_id": None,
        "report_id": A,
        "revision": 1,
    }
    assert duplicates.to_pylist() == [row]


def test_equal_times_are_settled_by_source_and_then_by_message_id():
    table = copies((A, "t", "1", 0, False), (A, "s", "3", 0, False), (A, "s", "2", 0, False))
    assert outcome(table) == ([2], [False], ["1", "3"])


def test_entries_of_one_millisecond_are_settled_by_their_number():
    table = copies((A, "s", "5-10", 0, False), (A, "s", "5-9", 0, False))
    assert outcome(table) == ([1], [False], ["5-10"])


def test_a_message_delivered_again_leaves_no_trace():
    table = copies(
        (A, "s", "1", 0, False), (A, "s", "2", 1, False), (A, "s", "1", 0, False), (A, "s", "2", 1, False)
    )
    assert outcome(table) == ([0], [False], ["2"])


def test_a_message_delivered_again_with_another_time_leaves_no_trace():
    table = copies(
        (A, "s", "1", None, False),
        (A, "s", "2", 1, False),
        (A, "s", "1", 0, False),
        (A, "s", "2", None, False),
    )
    assert outcome(table) == ([0], [False], ["2"])


def test_a_report_is_context_only_if_every_copy_is():
    assert outcome(copies((A, "s", "1", 0, True), (A, "s", "1", 0, False))) == ([0], [False], [])
    assert outcome(copies((A, "s", "1", 0, True), (A, "s", "2", 1, False))) == ([0], [False], ["2"])
    assert outcome(copies((A, "s", "1", 0, False), (A, "s", "2", 1, True))) == ([0], [False], [])
    assert outcome(copies((A, "s", "1", 0, True), (A, "s", "2", 1, True))) == ([0], [True], [])


def test_a_duplicate_is_given_if_one_of_its_deliveries_was_no_context():
    table = copies((A, "s", "1", 0, True), (A, "s", "2", 1, True), (A, "s", "2", 1, False))
    assert outcome(table) == ([0], [False], ["2"])


def test_ids_of_any_length_are_distinguished():
    table = copies(
        ("", "s", "1", 0, False),
        ("x", "s", "2", 0, False),
        ("x", "s", "3", 0, False),
        ("xy", "s", "4", 0, False),
    )
    assert outcome(table) == ([0, 1, 3], [False, False, False], ["3"])


def test_neither_slices_nor_chunks_change_the_outcome():
    table = copies(
        (A, "s", "0", 0, False), (A, "s", "2", 2, False), (B, "s", "1", 1, False), (A, "s", "1", 1, False)
    )
    pieces = pa.concat_tables([table.slice(1, 0), table.slice(1, 1), table.slice(2, 2)])
    assert outcome(pieces) == outcome(table.slice(1)) == ([1, 2], [False, False], ["2"])


def test_nothing_gives_nothing():
    assert outcome(copies((A, "s", "1", 0, False)).slice(0, 0)) == ([], [], [])


def test_of_repeats_one_row_of_each_report_stays():
    table = copies(*((name, "s", str(place), 0, False) for place, name in enumerate([A, B, A, "c" * 32, B])))
    pieces = pa.concat_tables([table[:2], table[2:2], table[2:]])
    for rows in (table, pieces):
        kept = drop_repeats(rows)["report_id"].to_pylist()
        assert sorted(kept) == [A, B, "c" * 32]
    assert drop_repeats(table[2:4]) == table[2:4]
    assert drop_repeats(table[:0]).num_rows == 0
    assert drop_repeats(copies(("x", "s", "1", 0, False), ("x", "s", "2", 0, False))).num_rows == 1
