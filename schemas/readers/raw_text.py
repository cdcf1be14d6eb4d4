"""Third step of the fast reader: the JSON texts of what no schema describes, cut from the bytes of each row.

These are values where any JSON may be, and names that the schema does not have, which are kept as `extra`. A
value is cut by a pattern, and each distinct spelling is written canonically once. A row for which that is not
safe is not valid for certain: the strict reader reads it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.readers import numbers
from schemas.readers.compiler import Node
from schemas.readers.constraints import write_text
from schemas.readers.leaf_columns import LeafPlace, Leaves
from schemas.readers.verdicts import Mask, MessageLimits, Rows

Path = tuple[str, ...]

_MOST_FOREIGN = 16
"""Names beside the schema's that are cut, at most: each costs a pass over the rows that have it."""
_LONG_NAME = 100
"""A longer name, in characters, is not made part of a pattern, whose size is limited."""
_VALUE = r'(?P<value>\{[^{}]*\}|\[[^\[\]{}]*\]|"[^"\\]*"|-?[0-9][-+0-9.eE]*|true|false)'
"""A value up to its end. A brace inside of a string would cut it short, and leave what is no JSON."""


def cut_texts(root: Node, leaves: Leaves, limits: MessageLimits) -> tuple[list[pa.Array], pa.Array, Mask]:
    """The columns of all leaves, `extra` (string[n]), and bool[n]: the rows that are valid for certain."""
    foreign = [place for place in leaves.places if place.leaf is None]
    names = Counter(node.name for node in root.nodes()) + Counter(place.name for place in foreign)
    valid = leaves.valid & ~_find_foreign_nulls(root, leaves, foreign)
    texts: dict[Path, pa.Array] = {}
    for place in leaves.places:
        rows = np.flatnonzero(place.valid & valid)
        # Only a name that is nowhere else can be found by looking for it.
        alone = names[place.name] == 1 and place.name not in leaves.inner_names
        few = place.leaf is not None or len(foreign) <= _MOST_FOREIGN
        if alone and few and len(place.name) <= _LONG_NAME:
            texts[place.path], rows = _cut(leaves.payload, place, rows, limits)
        else:
            texts[place.path] = pa.nulls(len(valid), pa.string())
        valid[rows] = False
    columns = [texts.get(leaf.path, column) for leaf, column in zip(root.leaves(), leaves.columns)]
    extra = _join_members(foreign if len(foreign) <= _MOST_FOREIGN else [], texts, len(valid))
    return columns, extra, valid


def _find_foreign_nulls(root: Node, leaves: Leaves, foreign: Sequence[LeafPlace]) -> Mask:
    """bool[n]: rows that may have null under a foreign name, which Arrow shows like an absent name.

    These are rows that have the word `null` more often than as the value of one of the schema's own names.
    """
    found = np.zeros(len(leaves.valid), dtype=bool)
    rows = np.flatnonzero(leaves.has_null & leaves.valid)
    if not foreign or not len(rows):
        return found
    own = {node.name for node in root.nodes()} - {place.name for place in foreign}
    pattern = rf'"(?:{"|".join(map(re.escape, sorted(own)))})"\s*:\s*null'
    text = leaves.payload.take(pa.array(rows))
    found[rows] = np.asarray(
        pc.not_equal(pc.count_substring(text, "null"), pc.count_substring_regex(text, pattern))
    )
    return found


def _cut(payload: pa.Array, place: LeafPlace, rows: Rows, limits: MessageLimits) -> tuple[pa.Array, Rows]:
    """string[n]: the canonical text of the value in each of `rows`; and rows where it cannot be cut."""
    found = pc.extract_regex(payload.take(pa.array(rows)), rf'"{re.escape(place.name)}"\s*:\s*{_VALUE}')
    spellings = pc.struct_field(found, "value").dictionary_encode()
    canonical = [_write_canonical(text, place, limits) for text in spellings.dictionary.to_pylist()]
    codes = pc.fill_null(spellings.indices, -1).to_numpy(zero_copy_only=False)
    known = np.array([*(text is not None for text in canonical), False])[codes]
    code_of_row = np.full(len(payload), -1, dtype=np.int64)
    code_of_row[rows[known]] = codes[known]
    texts = pa.array(canonical, pa.string()).take(pa.array(code_of_row, mask=code_of_row < 0))
    return texts, rows[~known]


def _write_canonical(spelling: bytes, place: LeafPlace, limits: MessageLimits) -> str | None:
    """The canonical text of a value; None if it is no JSON, not allowed, or perhaps nested too deep."""
    if len(place.path) + spelling.count(b"[") + spelling.count(b"{") > limits.depth:
        return None
    try:
        value = numbers.loads(spelling)
    except ValueError:
        return None
    return numbers.dumps(value) if place.leaf is None else write_text(place.leaf, value)


def _join_members(
    places: Sequence[LeafPlace], texts: Mapping[Path, pa.Array], rows: int, depth: int = 0
) -> pa.Array:
    """string[n]: the canonical text of objects that hold these places, if there is a value; else null.

    `texts` has the values, string[n], by path. Places that share the first name beyond `depth` are in one
    inner object.
    """
    if not places:
        return pa.nulls(rows, pa.string())
    members = []
    for name, group in groupby(sorted(places, key=lambda place: place.path), lambda place: place.path[depth]):
        inner = list(group)
        whole = len(inner[0].path) == depth + 1
        value = texts[inner[0].path] if whole else _join_members(inner, texts, rows, depth + 1)
        member = pc.binary_join_element_wise(f",{numbers.dumps(name)}:", value, "")
        members.append(pc.fill_null(member, ""))
    inside = pc.utf8_slice_codeunits(pc.binary_join_element_wise(*members, ""), 1)
    joined = pc.binary_join_element_wise("{", inside, "}", "")
    return pc.if_else(pc.equal(inside, ""), pa.scalar(None, pa.string()), joined)
