"""The rule which row of a key is kept: the kernel and BigQuery's SQL choose as the rule says."""

from functools import cmp_to_key
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.tables import KEPT_ROW, REPORTS
from transforms.core.kept_rows import find_kept
from transforms.sinks.bigquery.merge import ROW, order_best_first

SCHEMA = pa.schema([REPORTS.schema.field(each.column) for each in KEPT_ROW] + [("group", pa.int64())])
Row = dict[str, Any]
rows_of_groups = st.lists(
    st.fixed_dictionaries(
        {
            "revision": st.none() | st.integers(-1, 1),
            "received_at": st.none() | st.integers(0, 1),
            "source": st.sampled_from([None, "b", "ä", "aa"]),
            "message_id": st.sampled_from([None, "5-9", "5-10", "5-1"]),
            "group": st.integers(0, 2),
        }
    ),
    min_size=1,
    max_size=12,
)


def compare(one: Row, other: Row) -> int:
    """Below 0 if the first row is kept: the rule, a term after the other."""
    for each in KEPT_ROW:
        a, b = (
            (len((v or "").encode()), v or "") if each.is_text else v
            for v in (one[each.column], other[each.column])
        )
        nulls = (one[each.column] is not None) - (other[each.column] is not None)
        order = nulls or ((a > b) - (a < b) if one[each.column] is not None else 0)
        if order:
            return -order if each.largest else order
    return 0


@given(rows_of_groups)
@settings(max_examples=200, deadline=None)
def test_the_kernel_keeps_the_row_that_the_rule_says(rows: list[Row]) -> None:
    batch = pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
    kept = np.flatnonzero(find_kept(batch, batch["group"].to_numpy()))
    groups = {row["group"] for row in rows}
    assert sorted(rows[place]["group"] for place in kept) == sorted(groups)
    for place in kept:
        best = min((row for row in rows if row["group"] == rows[place]["group"]), key=cmp_to_key(compare))
        assert compare(best, rows[place]) == 0


@given(rows_of_groups)
@settings(max_examples=50, deadline=None)
def test_the_sql_keeps_the_row_that_the_kernel_keeps(rows: list[Row]) -> None:
    batch = pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
    kept = np.flatnonzero(find_kept(batch, batch["group"].to_numpy()))
    numbered = pa.Table.from_batches([batch.append_column(ROW, pa.array(range(len(rows))))])
    order = order_best_first(REPORTS).replace("BYTE_LENGTH", "strlen")
    with duckdb.connect() as database:
        database.register("numbered", numbered)
        place = f'ROW_NUMBER() OVER (PARTITION BY "group" ORDER BY {order})'
        chosen = database.sql(f"SELECT {ROW} FROM numbered QUALIFY {place} = 1").fetchall()
    assert sorted(row for (row,) in chosen) == kept.tolist()
