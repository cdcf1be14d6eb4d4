"""Rows with more text than Arrow's 32-bit offsets can address: wide columns, split into plain ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.tables import REPORTS
from transforms.core import record_batches
from transforms.core.record_batches import (
    concat,
    fit_column,
    group_batches,
    join_columns,
    narrow_type,
    split_by_bytes,
    widen_type,
)
from transforms.sinks.parquet import parquet_store
from transforms.sinks.parquet.parquet_file import encode_file, read_file, verify_file
from transforms.sinks.parquet.parquet_store import split_by_time
from transforms.sinks.row_merge import merge_rows

NOON = datetime(2025, 10, 22, 12, tzinfo=UTC)
TEXTS = st.one_of(st.none(), st.text(st.sampled_from('a"é\U0001f600'), max_size=60))


def reports(*rows: dict[str, Any]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(rows), schema=REPORTS.schema)


@st.composite
def drawn(draw: st.DrawFn) -> pa.RecordBatch:
    """Reports of a few ids, with texts in plain, nested and map columns."""
    return reports(
        *(
            {
                "report_id": f"r{draw(st.integers(0, 9))}",
                "agent_id": draw(st.sampled_from("ab")),
                "source": "s",
                "message_id": f"{draw(st.integers(0, 9))}-0",
                "revision": draw(st.integers(0, 2)),
                "error_details": draw(TEXTS),
                "recorded_at": NOON + timedelta(seconds=draw(st.integers(0, 9))),
                "received_at": NOON,
                "custom_metrics": draw(st.sampled_from([None, [], [("tokens", 1.0), ("é", 2.0)]])),
                "execution_context": draw(
                    st.one_of(st.none(), st.builds(lambda text: {"gpu_info": text}, TEXTS))
                ),
            }
            for _ in range(draw(st.integers(0, 12)))
        )
    )


def widened(rows: pa.RecordBatch) -> pa.RecordBatch:
    nothing = join_columns([pa.array([], widen_type(field.type)) for field in rows.schema], rows.schema)
    return concat([rows, nothing])


@contextmanager
def bounded(text: int, piece: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_batches, "TEXT_BYTES", text)
        patch.setattr(record_batches, "PIECE_BYTES", piece)
        patch.setattr(parquet_store, "PIECE_BYTES", piece)
        yield


@settings(deadline=None, max_examples=40)
@given(drawn(), st.integers(1, 4000))
def test_pieces_hold_the_same_rows_in_order_and_in_the_plain_types(rows: pa.RecordBatch, octets: int) -> None:
    with bounded(0, octets):
        parts = list(split_by_bytes(widened(rows), REPORTS.schema))
    assert pa.Table.from_batches(parts, REPORTS.schema).equals(pa.Table.from_batches([rows]))
    assert all(part.num_rows == 1 or part.nbytes <= octets for part in parts)


@settings(deadline=None, max_examples=40)
@given(st.lists(drawn(), min_size=1, max_size=4), st.integers(1, 4000), st.integers(1, 12))
def test_groups_hold_all_batches_in_order_and_keep_their_bounds(
    parts: list[pa.RecordBatch], octets: int, rows: int
) -> None:
    groups = list(group_batches(parts, octets, rows))
    assert [part for group in groups for part in group] == parts
    assert all(len(group) == 1 or sum(part.nbytes for part in group) <= octets for group in groups)
    assert all(sum(part.num_rows for part in group[:-1]) < rows for group in groups)


@settings(deadline=None, max_examples=25)
@given(drawn(), drawn(), st.integers(1, 4000), st.booleans(), st.booleans())
def test_a_union_and_its_file_do_not_depend_on_how_wide_their_columns_are(
    stored: pa.RecordBatch, new: pa.RecordBatch, octets: int, wide_stored: bool, wide_new: bool
) -> None:
    expected = merge_rows(REPORTS, stored, new)
    with bounded(0, octets):
        merged = merge_rows(
            REPORTS, widened(stored) if wide_stored else stored, widened(new) if wide_new else new
        )
        data = encode_file(merged.rows)
    assert bytes(encode_file(merged.rows)) == bytes(encode_file(expected.rows))
    assert (merged.taken, merged.displaced.to_pylist()) == (expected.taken, expected.displaced.to_pylist())
    assert (read_file(bytes(data)), verify_file(bytes(data))) == (expected.rows, None)


@settings(deadline=None, max_examples=40)
@given(drawn(), st.integers(1, 4000))
def test_stored_reports_are_given_back_in_batches_that_ascend_in_time(
    rows: pa.RecordBatch, octets: int
) -> None:
    with bounded(0, octets):
        parts = [part for part in split_by_time(widened(rows)) if part.num_rows]
    times = [part["recorded_at"].to_pylist() for part in parts]
    assert all(max(one) <= min(other) for one, other in zip(times, times[1:]))
    given_back = [row for part in parts for row in part.to_pylist()]
    assert sorted(given_back, key=repr) == sorted(rows.to_pylist(), key=repr)


def test_a_wide_column_that_is_small_becomes_plain_even_from_the_end_of_a_large_array() -> None:
    rows = pa.array(["a" * 50, "b"], pa.large_string())
    with bounded(10, 10):
        assert (fit_column(rows, pa.string()).type, fit_column(rows[1:], pa.string()).type) == (
            pa.large_string(),
            pa.string(),
        )


def test_batches_of_different_columns_are_refused() -> None:
    with pytest.raises(pa.ArrowInvalid):
        concat([pa.RecordBatch.from_pydict({"a": ["x"]}), pa.RecordBatch.from_pydict({"b": ["x"]})])
    with pytest.raises(pa.ArrowInvalid):
        concat([pa.RecordBatch.from_pydict({"a": ["x"]}), pa.RecordBatch.from_pydict({"a": [1]})])


def test_every_column_of_a_report_has_a_wide_type_and_comes_back_from_it() -> None:
    for field in REPORTS.schema:
        assert narrow_type(widen_type(field.type)) == field.type
        assert "large" in str(widen_type(field.type)) or "string" not in str(field.type)


@pytest.mark.slow
def test_a_file_of_more_than_2_gib_of_one_text_is_merged_written_and_read() -> None:
    text, count = "x" * (1 << 20), 1030

    def rows(first: int, count: int) -> pa.RecordBatch:
        ids, contexts = (
            [f"{number:05}" for number in range(first, first + count)],
            [{"gpu_info": text}] * count,
        )
        given = {"report_id": ids, "agent_id": ids, "execution_context": contexts}
        columns = [
            pa.array(given[f.name], f.type) if f.name in given else pa.nulls(count, f.type)
            for f in REPORTS.schema
        ]
        return join_columns(columns, REPORTS.schema)

    data = bytes(encode_file(merge_rows(REPORTS, rows(0, count), rows(count, count)).rows))
    found = read_file(data, ["report_id", "execution_context"])
    assert found["execution_context"].nbytes > record_batches.TEXT_BYTES
    assert found["report_id"].to_pylist() == [f"{number:05}" for number in range(2 * count)]
    assert set(
        pa.compute.binary_length(pa.compute.struct_field(found["execution_context"], "gpu_info")).to_pylist()
    ) == {1 << 20}
