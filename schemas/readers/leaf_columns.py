"""From what Arrow's parser made of a block to the columns of a schema's leaves, and which rows they may stand for.

Arrow gives null both for a name that is absent and for one that is `null`. Where the schema takes both alike, nothing is lost;
where it does not, a row counts only if its bytes show that it holds no `null` there.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.readers.compiler import Node
from schemas.readers.constraints import check_rules, choose_column_type
from schemas.readers.raw_text import Block, Place, texts
from schemas.readers.verdicts import Limits

Mask = NDArray[np.bool_]


def read(
    root: Node, struct: pa.StructArray, payload: pa.Array, limits: Limits
) -> tuple[list[pa.Array], pa.Array, Mask]:
    """The columns of the root's leaves, the `extra` texts, and bool[n]: the rows that are valid for certain.

    `struct` holds a block's rows as Arrow read them, `payload` (large_binary[n]) their bytes.
    """
    ok = np.ones(len(struct), dtype=bool)
    found = list(_leaves(root, struct, np.ones(len(struct), dtype=bool), ok))
    foreign = list(_foreign(root, struct))
    inner = _names(
        [array.type for leaf, array in found if leaf.inferred] + [place.array.type for place in foreign]
    )
    null_token = np.asarray(pc.match_substring_regex(payload, "null"))
    columns = [_column(leaf, array, _Rows(payload, inner, null_token), ok) for leaf, array in found]
    opened = [i for i, (leaf, _) in enumerate(found) if leaf.kind in ("any", "object")]
    places = [Place(found[i][0].path, found[i][1], foreign=False, leaf=found[i][0]) for i in opened] + foreign
    described, extra = texts(Block(root, payload, inner, null_token, limits), places, ok)
    for i, column in zip(opened, described):
        columns[i] = column
    return columns, extra, ok


def _leaves(node: Node, struct: pa.StructArray, reached: Mask, ok: Mask) -> Iterator[tuple[Node, pa.Array]]:
    """Each leaf with Arrow's array for it; rows that lack something required stop being ok."""
    for child in node.children:
        place = struct.type.get_field_index(child.name)
        array = struct.field(place) if place >= 0 else pa.nulls(len(struct))
        present = np.asarray(array.is_valid())
        if child.required:
            ok &= present | ~reached
        if child.kind == "struct":
            yield from _leaves(child, array, present, ok)
        else:
            yield child, array


def _foreign(node: Node, struct: pa.StructArray) -> Iterator[Place]:
    """The names that the schema does not have."""
    for place, field in enumerate(struct.type):
        child = node.by_name.get(field.name)
        if child is None:
            yield Place((*node.path, field.name), struct.field(place), foreign=True)
        elif child.kind == "struct":
            yield from _foreign(child, struct.field(place))


def _names(types: list[pa.DataType]) -> set[str]:
    """Every name at any depth of inferred types."""
    inner = [
        field
        for type_ in types
        for field in ([type_.value_field] if pa.types.is_list(type_) else _fields(type_))
    ]
    return {field.name for field in inner} | (_names([field.type for field in inner]) if inner else set())


def _fields(type_: pa.DataType) -> list[pa.Field]:
    return list(type_) if pa.types.is_struct(type_) else []


class _Rows(NamedTuple):
    """The bytes of rows, the names inside of values that no schema describes, and which rows have `null` anywhere in them."""

    payload: pa.Array
    inner: set[str]
    null_token: Mask


def _column(leaf: Node, array: pa.Array, rows: _Rows, ok: Mask) -> pa.Array:
    """The leaf's column, all null where any JSON may stand; rows that break a rule stop being ok."""
    if leaf.kind in ("any", "object"):
        return pa.nulls(len(array), pa.string())
    column = _map(leaf, array, rows, ok) if leaf.kind == "map" else _positive_zero(array)
    ok &= check_rules(leaf, column)
    if column.null_count and not leaf.nullable and not leaf.required:
        ok &= np.asarray(column.is_valid()) | ~rows.null_token
    return column


def _map(leaf: Node, array: pa.Array, rows: _Rows, ok: Mask) -> pa.Array:
    """A struct of every name in the block as a map of the names each row has, in the names' order."""
    present = np.asarray(array.is_valid())
    type_ = choose_column_type(leaf)
    fields = sorted(array.type, key=lambda field: field.name) if pa.types.is_struct(array.type) else []
    if not pa.types.is_struct(array.type) or not all(_holds(field.type, type_.item_type) for field in fields):
        ok &= ~present
        return pa.nulls(len(array), type_)
    cells = [
        array.field(field.name).cast(type_.item_type, safe=False) for field in fields
    ]  # the nearest float of an integer
    filled = np.array([cell.is_valid() for cell in cells], dtype=bool).reshape(len(cells), len(array)).T
    doubtful = np.flatnonzero(present & ~filled.all(axis=1) & rows.null_token)
    ok[doubtful[_may_hold_null(leaf, rows, doubtful)]] = False
    row, place = np.nonzero(filled & present[:, None])
    names = pa.array([field.name for field in fields], pa.string()).take(pa.array(place))
    items = _positive_zero(
        pa.concat_arrays([*cells, pa.array([], type_.item_type)]).take(pa.array(place * len(array) + row))
    )
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(array)))])
    return pa.MapArray.from_arrays(
        pa.array(offsets, pa.int32(), mask=np.append(~present, False)), names, items, type=type_
    )


def _positive_zero(values: pa.Array) -> pa.Array:
    """The values, -0.0 as 0.0: it is one number, however it is spelt."""
    if pa.types.is_list(values.type) and pa.types.is_floating(values.type.value_type):
        mask = values.is_null() if values.null_count else None
        return pa.ListArray.from_arrays(values.offsets, _positive_zero(values.values), mask=mask)
    return pc.add(values, 0.0) if pa.types.is_floating(values.type) else values


def _may_hold_null(leaf: Node, rows: _Rows, doubtful: NDArray[np.int64]) -> Mask:
    """bool[m]: which of the rows may have a map that holds null for a value, which Arrow shows like a name that is absent.

    A map written with nothing but numbers holds none. To find it by its name, the name must not stand elsewhere.
    """
    if leaf.children[0].kind not in ("number", "integer") or leaf.name in rows.inner or not len(doubtful):
        return np.ones(len(doubtful), dtype=bool)
    numbers_only = rf'"{re.escape(leaf.name)}"\s*:\s*\{{\s*("[^"\\{{}}]*"\s*:\s*[-+0-9.eE]+\s*,?\s*)*\}}'
    return ~np.asarray(pc.match_substring_regex(rows.payload.take(pa.array(doubtful)), numbers_only))


def _holds(type_: pa.DataType, item: pa.DataType) -> bool:
    """Whether values that Arrow inferred as `type_` are right for a map of `item`."""
    numeric = pa.types.is_integer(type_) or pa.types.is_floating(type_)
    return pa.types.is_null(type_) or (numeric if pa.types.is_floating(item) else type_ == item)
