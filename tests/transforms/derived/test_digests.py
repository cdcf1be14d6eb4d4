"""Digests of rows: what they depend on, and what they do not."""

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from schemas.tables import REPORTS, TASKS, TIME, Table
from tests.builders import NOON
from tests.transforms.derived.outputs import MINUTE, make_report, make_rows, make_task
from transforms.derived.digests import GRAIN, NO_GRAIN, Grains, digest_rows


def total(grains: Grains) -> list[int]:
    return [*grains.sums.sum(axis=0).tolist(), int(grains.counts.sum())]


def test_a_digest_does_not_depend_on_the_order_of_rows_or_on_their_files() -> None:
    rows = make_rows(REPORTS, [make_report(n, NOON + n * MINUTE, MINUTE, n) for n in range(6)])
    whole = digest_rows(REPORTS, rows)
    parts = [digest_rows(REPORTS, part) for part in (rows.slice(4), rows.slice(0, 4))]
    assert total(whole) == [sum(each) % 2**64 for each in zip(*(total(part) for part in parts))]
    assert total(digest_rows(REPORTS, rows.take(pa.array([3, 1, 5, 0, 2, 4])))) == total(whole)


def test_rows_are_summed_by_the_grain_in_which_they_become_effective() -> None:
    rows = [make_report(1, NOON, None, 1), make_report(2, NOON, MINUTE, 1), make_report(3, NOON, MINUTE, 1)]
    grains = digest_rows(REPORTS, make_rows(REPORTS, rows))
    noon = int(NOON.timestamp() * 1_000_000) // GRAIN
    assert grains.numbers.tolist() == [noon, noon + 6]
    assert grains.received.tolist() == [False, True]
    assert grains.counts.tolist() == [1, 2]


def test_an_unknown_time_is_before_all_others() -> None:
    task = make_task(1, NOON, NOON, 1) | {"effective_at": None}
    assert digest_rows(TASKS, make_rows(TASKS, [task])).numbers.tolist() == [NO_GRAIN]


KINDS: list[tuple[pa.DataType, Any, Any]] = [
    (pa.string(), "a", None),
    (pa.float64(), 0.5, 0.25),
    (pa.int64(), 1, None),
    (TIME, NOON, NOON + MINUTE),
    (pa.bool_(), True, False),
    (pa.list_(pa.string()), ["a"], ["b"]),
    (pa.list_(pa.decimal128(38, 0)), [Decimal(1), Decimal(2)], [Decimal(1)]),
    (pa.list_(pa.decimal128(38, 0)), [Decimal(1)], None),
]


@pytest.mark.parametrize(("kind", "one", "other"), KINDS, ids=lambda each: str(each)[:30])
def test_every_type_of_a_derived_column_counts(kind: pa.DataType, one: Any, other: Any) -> None:
    schema = pa.schema([("id", pa.string()), ("at", TIME), ("value", kind)])
    table = Table("made", schema, key=("id",), order=("id",), time="at")
    values = [[one, one], [one, other], [other, one], [one, one]]
    ids, at = pa.array(["x", "y"]), pa.array([NOON, NOON], TIME)
    rows = [pa.RecordBatch.from_arrays([ids, at, pa.array(each, kind)], schema=schema) for each in values]
    found = [total(digest_rows(table, each)) for each in rows]
    assert found[0] == found[3]
    assert len({tuple(each) for each in found}) == 3


def test_a_slice_has_the_digest_of_its_rows() -> None:
    schema = pa.schema([("id", pa.string()), ("at", TIME), ("value", pa.list_(pa.decimal128(38, 0)))])
    table = Table("made", schema, key=("id",), order=("id",), time="at")
    values = pa.array([[Decimal(7), Decimal(8)], [Decimal(9)]], schema.field("value").type)
    rows = pa.RecordBatch.from_arrays(
        [pa.array(["x", "y"]), pa.array([NOON] * 2, TIME), values], schema=schema
    )
    whole = np.array(total(digest_rows(table, rows)), dtype=np.uint64)
    parts = [np.array(total(digest_rows(table, rows.slice(n, 1))), dtype=np.uint64) for n in (0, 1)]
    assert (parts[0] + parts[1] == whole).all()
