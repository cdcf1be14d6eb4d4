"""Compares two outputs row by row, however the rows got there and however they are cut into files.

Rows are paired by key within the same span of time. If a table has a key several times, its rows are paired
in order. Strings, counts, flags, minima, maxima and percentiles must be equal. Sums of floats differ in their
last bits when the same values are added in another order, so values derived from them (`SUMMED`) may differ
by `TOLERANCE`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.verify.compared_days import ComparedDays
from pipelines.verify.comparison import EXAMPLES, Difference, TableComparison
from pipelines.verify.derived_checks import list_derived_tables
from pipelines.verify.fingerprints import (
    Prints,
    count_fingerprints,
    drop_empty_lists,
    find_among,
    fingerprint_values,
)
from pipelines.verify.output_description import require_output
from pipelines.verify.stored_prints import join_prints
from pipelines.verify.table_scan import list_files, load, partition
from schemas.tables import AGGREGATIONS, RECORD_TABLES, REPORTS, TABLES, Table
from transforms.core.grouping import number_groups, number_repeats
from transforms.core.record_batches import concat, make_empty, widen_type
from transforms.sinks.parquet.output_files import OutputFile

Bools = NDArray[np.bool_]
Track = Callable[[Sequence[Any], str], Iterable[Any]]

TOLERANCE = 1e-9
"""Relative to the larger of two values or, for a deviation, to the mean of the same values if that is larger.
"""
SUMMED = {
    REPORTS.name: {"latency_zscore"},
    AGGREGATIONS.name: {
        *("avg_latency_ms", "latency_stddev", "avg_accuracy", "accuracy_stddev", "avg_cpu_usage"),
        *("avg_memory_mb", "performance_score", "efficiency_ratio"),
    },
}
MEANS = {"latency_stddev": "avg_latency_ms", "accuracy_stddev": "avg_accuracy"}
"""The mean for each deviation. The deviation of equal values is 0 only up to the rounding of their mean."""

ROWS = "rows"
"""Stands for a column if the number of equal rows differs."""
CELLS = 16_000_000
"""Values of one output that are in memory at a time."""


def compare_outputs(
    a: Path, b: Path, identity: bool, track: Track = lambda sequence, _: sequence, empty_is_null: bool = False
) -> dict[str, TableComparison]:
    """Compare two outputs to which no run is writing. With `identity`, the message of each row and its
    revision count too. Derived tables are compared if both outputs have been derived.

    Without `identity`, tables whose key is the message are compared as multisets of their other columns. With
    `empty_is_null` a missing list equals an empty one. Tables of records that both lack are left out.

    Raises:
        WrongUse: one of them is not an output.
        transforms.core.errors.DamagedFile: a file cannot be read.
    """
    outputs = (require_output(a), require_output(b))
    compared, days = {}, ComparedDays(outputs)
    for name, table in TABLES.items():
        if set(table.key) <= set(table.identity) and not identity:
            compared[name] = _compare_multisets(outputs, table, empty_is_null, days)
        else:
            compared[name] = _compare_by_key(outputs, table, identity, track, empty_is_null, days)
    for name, table in list_derived_tables(outputs).items():
        compared[name] = _compare_by_key(outputs, table, identity, track, empty_is_null, days)
    for name, table in (*TABLES.items(), *list_derived_tables(outputs).items()):
        compared[name].compared_from = days.describe(table)
    return {
        name: each
        for name, each in compared.items()
        if each.rows_a or each.rows_b or name not in RECORD_TABLES
    }


def _compare_by_key(
    outputs: tuple[Path, Path],
    table: Table,
    identity: bool,
    track: Track,
    empty_is_null: bool,
    days: ComparedDays,
) -> TableComparison:
    files = partition(*((output, table) for output in outputs))
    result = TableComparison()
    ignored = {*table.key, *(() if identity else table.identity)}
    columns = [name for name in table.schema.names if name not in ignored]
    for span in track(days.choose(table, sorted({*files[0], *files[1]})), table.name):
        _compare_span(table, [each.get(span, []) for each in files], columns, result, empty_is_null)
    return result


def _compare_span(
    table: Table,
    files: Sequence[Sequence[OutputFile]],
    columns: Sequence[str],
    result: TableComparison,
    empty_is_null: bool,
) -> None:
    """Add the rows of one span of time to the result."""
    keys = [_load_rows(each, table, table.key) for each in files]
    pairs, alone = _pair_rows(table, keys)
    for side, (rows, single) in enumerate(zip(keys, alone)):
        for row in rows.take(pa.array(single[:EXAMPLES])).to_pylist():
            present: list[str | None] = ["present" if side == each else None for each in (0, 1)]
            result.explain(Difference(_format_row(row), "", *present))
    differs = np.zeros(pairs.shape[1], dtype=bool)
    for group in _split_columns(columns, max(len(rows) for rows in keys)):
        wanted = dict.fromkeys([*group, *(MEANS[name] for name in group if name in MEANS)])
        left, right = (
            _load_rows(each, table, tuple(wanted)).take(pa.array(at)) for each, at in zip(files, pairs)
        )
        for name in group:
            unequal = _find_unequal(table, name, left, right, empty_is_null)
            differs |= unequal
            for at in np.flatnonzero(unequal)[:EXAMPLES].tolist():
                key = _format_row(keys[0].slice(int(pairs[0, at]), 1).to_pylist()[0])
                result.explain(
                    Difference(key, name, *(_format_value(rows[name][at].as_py()) for rows in (left, right)))
                )
    result.rows_a += len(keys[0])
    result.rows_b += len(keys[1])
    result.only_a += len(alone[0])
    result.only_b += len(alone[1])
    result.different += int(differs.sum())
    result.equal += int((~differs).sum())


def _pair_rows(
    table: Table, keys: Sequence[pa.RecordBatch]
) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """The rows of A and B with the same key, int64[2, n], and the unpaired rows of A and of B.

    Rows with equal keys are paired in order.
    """
    both = concat(keys)
    groups = number_groups(both, table.key)
    split = len(keys[0])
    numbered = [number_repeats(groups[:split]), number_repeats(groups[split:])]
    width = int(max((each.max(initial=0) for each in numbered), default=0)) + 1
    a, b = groups[:split] * width + numbered[0], groups[split:] * width + numbered[1]
    _, in_a, in_b = np.intersect1d(a, b, assume_unique=True, return_indices=True)
    alone = [
        np.setdiff1d(np.arange(len(rows)), paired, assume_unique=True)
        for rows, paired in zip(keys, (in_a, in_b))
    ]
    return np.stack([in_a, in_b]), alone


def _find_unequal(
    table: Table, name: str, left: pa.RecordBatch, right: pa.RecordBatch, empty_is_null: bool
) -> Bools:
    """Where a column differs, bool[n]. Null equals null, NaN equals NaN."""
    a, b = left[name], right[name]
    if a.type != b.type:
        a, b = (column.cast(widen_type(column.type)) for column in (a, b))
    if a.equals(b):
        return np.zeros(len(a), dtype=bool)
    if pa.types.is_nested(a.type):
        return _find_unequal_nested(a, b, empty_is_null)
    if pa.types.is_floating(a.type):
        x, y = (pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False) for column in (a, b))
        unequal = (x != y) & ~(np.isnan(x) & np.isnan(y))
        if name in SUMMED.get(table.name, ()):
            scale = np.maximum(np.abs(x), np.abs(y))
            if name in MEANS:
                scale = np.fmax(
                    scale, np.abs(pc.fill_null(left[MEANS[name]], 0.0).to_numpy(zero_copy_only=False))
                )
            with np.errstate(all="ignore"):  # infinite values, and differences that overflow
                unequal &= ~(np.abs(x - y) <= TOLERANCE * scale)
    else:
        unequal = ~pc.fill_null(pc.equal(a, b), True).to_numpy(zero_copy_only=False)
    return unequal | (np.asarray(a.is_valid()) != np.asarray(b.is_valid()))


def _find_unequal_nested(a: pa.Array, b: pa.Array, empty_is_null: bool) -> Bools:
    """Where two nested columns differ, bool[n], found by halving the spans that are not equal."""
    unequal = np.zeros(len(a), dtype=bool)
    spans = [(0, len(a))]
    while spans:
        start, length = spans.pop()
        if a.slice(start, length).equals(b.slice(start, length)):
            continue
        if length == 1:
            unequal[start] = not empty_is_null or drop_empty_lists(a[start].as_py()) != drop_empty_lists(
                b[start].as_py()
            )
        else:
            half = length // 2
            spans += [(start, half), (start + half, length - half)]
    return unequal


def _compare_multisets(
    outputs: Sequence[Path], table: Table, empty_is_null: bool, days: ComparedDays
) -> TableComparison:
    """Compare a whole table as a multiset of its columns except those of identity."""
    columns = [name for name in table.schema.names if name not in table.identity]
    sets = []

    def read(output: Path) -> Iterator[pa.RecordBatch]:
        files = {file.name.removeprefix(f"{table.name}/"): file for file in list_files(output, table)}
        yield from (load(files[name], table, columns) for name in days.choose(table, files))

    for output in outputs:
        prints = [fingerprint_values(rows, empty_is_null) for rows in read(output)]
        sets.append(join_prints(prints))
    result = TableComparison(rows_a=len(sets[0]), rows_b=len(sets[1]))
    unequal: dict[tuple[int, int], tuple[str, str]] = {}
    for distinct, counts in count_fingerprints(sets):
        surplus = counts[:, 0] - counts[:, 1]
        result.equal += int(counts.min(axis=1).sum())
        result.only_a += int(surplus[surplus > 0].sum())
        result.only_b -= int(surplus[surplus < 0].sum())
        for row in np.flatnonzero(surplus)[: EXAMPLES - len(unequal)].tolist():
            unequal[tuple(distinct[row].tolist())] = (str(counts[row, 0]), str(counts[row, 1]))
    for output in outputs:
        for rows in read(output) if unequal else ():
            _explain_counts(rows, fingerprint_values(rows, empty_is_null), unequal, result)
    return result


def _explain_counts(
    rows: pa.RecordBatch,
    prints: Prints,
    unequal: dict[tuple[int, int], tuple[str, str]],
    result: TableComparison,
) -> None:
    """Explain the unequal fingerprints that are among the rows, and remove them."""
    for row in np.flatnonzero(find_among(prints, np.array([*unequal, (0, 0)], dtype=np.uint64))).tolist():
        if counts := unequal.pop(tuple(prints[row].tolist()), None):
            result.explain(Difference(_format_row(rows.slice(row, 1).to_pylist()[0]), ROWS, *counts))


def _load_rows(files: Sequence[OutputFile], table: Table, columns: Sequence[str]) -> pa.RecordBatch:
    nothing = make_empty(pa.schema([table.schema.field(name) for name in columns]))
    return concat([nothing, *(load(file, table, columns) for file in files)])


def _split_columns(columns: Sequence[str], rows: int) -> Iterator[Sequence[str]]:
    """The columns in groups that fit into memory."""
    size = max(1, CELLS // max(rows, 1))
    for start in range(0, len(columns), size):
        yield columns[start : start + size]


def _format_row(row: dict[str, Any]) -> dict[str, str | None]:
    return {name: _format_value(value) for name, value in row.items()}


def _format_value(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return None if value is None else str(value)
