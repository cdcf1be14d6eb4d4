"""Digests of sets of rows: what a derived file was made of, so that a change of it is noticed.

The digest of a set is the sum of the digests of its rows, modulo 2**64 in each of two words. It does not
depend on the order of rows or on how they are cut into files, and those of parts add up. Of each stored file
the sums by *grain* are kept: GRAIN of the time at which a row becomes effective. So what counts for a derived
file, all rows up to a moment, is a sum over few numbers, and what comes later changes nothing.
"""

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.tables import REPORTS, SYSTEM_HEALTH, TIME, Table
from transforms.core.grouping import Ints, group_rows
from transforms.core.hashing import Words, combine_words, fingerprint_rows, read_hex

GRAIN = 10_000_000
"""Microseconds. A file is stale, too, if another row becomes effective in the same grain as its last one."""
NO_GRAIN = -(1 << 38)
"""The grain of rows whose time is unknown: before all others."""
_ID_LENGTH = 32


class Grains(NamedTuple):
    """The rows of a file by grain, arrays of one length.

    `numbers` (int64): effective_at // GRAIN, or that of the table's own clock. `received` (bool): whether the
    rows have a received_at. `sums` (uint64[n, 2]): digest of these rows. `counts` (int64): how many.
    """

    numbers: Ints
    received: NDArray[np.bool_]
    sums: Words
    counts: Ints


def list_digest_columns(table: Table) -> list[str]:
    """The columns of a table that `digest_rows` reads: those that tell one row's content from another's."""
    received = [name for name in table.schema.names if name == "received_at"]
    return list(dict.fromkeys([*_list_identity(table), *_list_clock(table), *received]))


def digest_rows(table: Table, rows: pa.RecordBatch) -> Grains:
    """The rows by grain. Null clocks have NO_GRAIN."""
    clock = pc.coalesce(*(rows[name] for name in _list_clock(table))).cast(pa.int64())
    moments = pc.fill_null(clock, NO_GRAIN * GRAIN).to_numpy(zero_copy_only=False)
    received = np.ones(rows.num_rows, dtype=bool)
    if "received_at" in rows.schema.names:
        received = np.asarray(rows["received_at"].is_valid())
    words = [*_read_words(table, rows), moments.view(np.uint64)]
    digests = combine_words(words, rows.num_rows)
    numbers = moments // GRAIN
    groups = group_rows(numbers * 2 + received)
    return Grains(
        numbers[groups.picks],
        received[groups.picks],
        np.stack([groups.total(digests[:, word]) for word in (0, 1)], axis=1).reshape(-1, 2),
        np.bincount(groups.ids, minlength=len(groups.picks)).astype(np.int64),
    )


def digest_inputs(name: str, version: int, settings: Mapping[str, Any], sums: Mapping[str, Words]) -> str:
    """The digest of everything that a derived file is made of, 32 hex digits.

    `sums`: of each input the digest of its rows and their number, uint64[3].
    """
    content = {"table": name, "version": version, "settings": dict(settings)}
    content["inputs"] = {each: [int(word) for word in words] for each, words in sums.items()}
    return blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def _list_clock(table: Table) -> list[str]:
    """The column with the time from which a row counts; a further one counts where it is null."""
    if table.name == REPORTS.name:
        return ["received_at", "recorded_at"]
    wanted = ("effective_at", "time_window_end", "received_at", table.time)
    return [next(name for name in wanted if name in table.schema.names)]


def _list_identity(table: Table) -> list[str]:
    """The columns that tell a row's content: its key, the fingerprint of it, and its revision; or all."""
    names = table.schema.names
    if table.name == REPORTS.name:
        return ["report_id", "revision"]
    if "version" in table.key:
        return ["version"]
    if table.name == SYSTEM_HEALTH.name:
        return list(table.key)
    return [*table.key, "revision"] if "revision" in names else list(names)


def _read_words(table: Table, rows: pa.RecordBatch) -> list[Words]:
    """Words that are equal for equal contents, uint64[n] each."""
    words: list[Words] = []
    for name in _list_identity(table):
        column = rows[name]
        if name in ("report_id", "version") and _are_ids(column):
            words += list(read_hex(column).T)
        elif pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or column.type == TIME:
            number = column.view(pa.int64()) if pa.types.is_float64(column.type) else column.cast(pa.int64())
            words.append(pc.fill_null(number, NO_GRAIN).to_numpy(zero_copy_only=False).view(np.uint64))
        else:
            words += list(fingerprint_rows([_write_texts(column)]).T)
    return words


def _write_texts(column: pa.Array) -> pa.Array:
    """Texts that are equal for equal values of a column of any type; few columns are no texts themselves."""
    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        return column
    return pa.array([json.dumps(value, default=str) for value in column.to_pylist()], pa.string())


def _are_ids(column: pa.Array) -> bool:
    lengths = pc.min_max(pc.binary_length(column)).as_py()
    return column.null_count == 0 and lengths == {"min": _ID_LENGTH, "max": _ID_LENGTH}
