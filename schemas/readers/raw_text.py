"""The JSON texts of what no schema describes: values where any JSON may stand, and names that are kept as `extra`.

Most are cut from the bytes by a pattern and spelt canonically once for each distinct spelling. A row of which that is not safe is
read whole, one by one, by `schemas.readers.strict_reader`, with the same result.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.readers import numbers, strict_reader
from schemas.readers.compiler import Node
from schemas.readers.verdicts import Limits, Rejection

Mask = NDArray[np.bool_]
_FEW = 8
LONG_NAME = 100
"""A longer name, in characters, is not made part of a pattern, whose size is limited."""

_VALUE = r'(?P<value>\{[^{}]*\}|\[[^\[\]{}]*\]|"[^"\\]*"|-?[0-9][-+0-9.eE]*|true|false)'
"""A value up to its end. A brace inside of a string would cut it short, and leave what is no JSON."""


Path = tuple[str, ...]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Place:
    """Where values stand that no schema describes: Arrow's array for them, and whether the schema does not have the name."""

    path: Path
    array: pa.Array
    foreign: bool
    leaf: Node | None = None

    @property
    def valid(self) -> Mask:
        """bool[n]: rows with a value there."""
        return np.asarray(self.array.is_valid())


@dataclass(frozen=True)
class Block:
    """Rows as bytes (large_binary[n]), and what is known of names in them.

    `inner` are the names inside of undescribed values; `null_token` is bool[n], rows with `null` anywhere in them.
    """

    root: Node
    payload: pa.Array
    inner: set[str]
    null_token: Mask
    limits: Limits


def texts(block: Block, places: Sequence[Place], ok: Mask) -> tuple[list[pa.Array], pa.Array]:
    """The texts at the open leaves, in the order of `places`, and the `extra` texts. Rows that are not valid stop being ok."""
    foreign = [place for place in places if place.foreign]
    opened = [place for place in places if not place.foreign]
    found = {place.path: _Texts(len(ok)) for place in places}
    whole = _explicit_nulls(block, foreign) & ok
    names = Counter(node.name for node in block.root.nodes()) + Counter(place.path[-1] for place in foreign)
    for place in places:
        rows = np.flatnonzero(place.valid & ok & ~whole)
        alone = names[place.path[-1]] == 1 and place.path[-1] not in block.inner and _by_pattern(foreign)
        if alone and (not place.foreign or len(place.path) == 1):
            rows = _cut(block.payload, place, rows, found[place.path])
        whole[rows] = True
    extra = _joined(
        [place.path[0] for place in foreign], [found[place.path].array() for place in foreign], len(ok)
    )
    columns = [*(found[place.path].array() for place in opened), extra]
    if whole.any():
        columns = _with_whole(block, opened, columns, np.flatnonzero(whole), ok)
    return columns[:-1], columns[-1]


def _explicit_nulls(block: Block, foreign: Sequence[Place]) -> Mask:
    """bool[n]: rows that may have null for a value under a foreign name, which Arrow shows like a name that is absent."""
    if not _by_pattern(foreign):
        return block.null_token
    found = np.zeros(len(block.payload), dtype=bool)
    if not foreign:
        return found
    rows = np.flatnonzero(block.null_token)
    names = "|".join(re.escape(place.path[-1]) for place in foreign)
    found[rows] = pc.match_substring_regex(
        block.payload.take(pa.array(rows)), rf'"(?:{names})"\s*:\s*null|\\'
    )
    return found


def _by_pattern(foreign: Sequence[Place]) -> bool:
    """Whether the names are so few, and so short, that patterns can look for them."""
    return len(foreign) <= _FEW and all(len(place.path[-1]) <= LONG_NAME for place in foreign)


class _Texts:
    """A text, or none, for each of n rows; equal texts are held once."""

    def __init__(self, rows: int) -> None:
        self._codes = np.full(rows, -1, dtype=np.int64)
        self._texts: list[str | None] = []

    def put(self, rows: Rows, codes: Rows, texts: Sequence[str | None]) -> None:
        """Give each of `rows` the text that its code stands for."""
        self._codes[rows] = codes + len(self._texts)
        self._texts.extend(texts)

    def array(self) -> pa.Array:
        """string[n]."""
        return pa.array(self._texts, pa.string()).take(pa.array(self._codes, mask=self._codes < 0))


def _cut(payload: pa.Array, place: Place, rows: Rows, into: _Texts) -> Rows:
    """Put the canonical text of the value in each of `rows`, whose name stands nowhere else; the rows where it cannot be cut."""
    if not len(rows):
        return rows
    found = pc.extract_regex(payload.take(pa.array(rows)), rf'"{re.escape(place.path[-1])}"\s*:\s*{_VALUE}')
    spellings = pc.struct_field(found, "value").dictionary_encode()
    canonical = [_canonical(bytes(spelling), place.leaf) for spelling in spellings.dictionary.to_pylist()]
    codes = pc.fill_null(spellings.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    known = np.array([*(text is not None for text in canonical), False])[codes]
    into.put(rows[known], codes[known], canonical)
    return rows[~known]


def _canonical(spelling: bytes, leaf: Node | None) -> str | None:
    try:
        value = numbers.loads(spelling)
    except ValueError:
        return None
    return numbers.dumps(value) if leaf is None else strict_reader.write_text(leaf, value)


def _joined(names: Sequence[str], values: Sequence[pa.Array], rows: int) -> pa.Array:
    """string[n]: the canonical text of objects that have these names, where there is a value; null where there is none."""
    if not names:
        return pa.nulls(rows, pa.string())
    members = [
        pc.fill_null(pc.binary_join_element_wise(f",{numbers.dumps(name)}:", value, ""), "")
        for name, value in sorted(zip(names, values), key=lambda member: member[0])
    ]
    inside = pc.utf8_slice_codeunits(pc.binary_join_element_wise(*members, ""), 1)
    return pc.if_else(
        pc.equal(inside, ""), pa.scalar(None, pa.string()), pc.binary_join_element_wise("{", inside, "}", "")
    )


def _with_whole(
    block: Block, opened: Sequence[Place], columns: Sequence[pa.Array], rows: Rows, ok: Mask
) -> list[pa.Array]:
    """The columns with the texts of `rows` as these documents have them, read one by one."""
    read = [_read_whole(block, opened, row) for row in rows.tolist()]
    ok[rows[np.array([each is None for each in read], dtype=bool)]] = False
    source = np.arange(len(ok))
    source[rows] = len(ok) + np.arange(len(rows))
    texts = [[None] * len(columns) if each is None else each for each in read]
    whole = [pa.array([each[i] for each in texts], pa.string()) for i in range(len(columns))]
    return [pa.concat_arrays(pair).take(pa.array(source)) for pair in zip(columns, whole)]


def _read_whole(block: Block, opened: Sequence[Place], row: int) -> list[str | None] | None:
    """A row's texts at the open leaves and, last, its `extra`; None where it is not valid."""
    document = strict_reader.decode(block.payload[row].as_py(), block.limits, distinct_keys=True)
    if isinstance(document, Rejection):
        return None
    texts: list[str | None] = []
    for place in opened:
        value = strict_reader.find_value(document, place.path)
        text = None if value is None or place.leaf is None else strict_reader.write_text(place.leaf, value)
        if value is not None and text is None:
            return None
        texts.append(text)
    return [*texts, strict_reader.write_extra(block.root, document)]
