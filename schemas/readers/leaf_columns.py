"""Second step of the fast reader: the columns of a schema's leaves from what Arrow parsed, rules checked.

Arrow gives null both for a name that is absent and for one that is `null`. Where the schema takes both alike,
nothing is lost. Where it does not, a row counts as valid only if its bytes show that it has no `null` there.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.readers.compiler import Node
from schemas.readers.constraints import check_rules, choose_column_type
from schemas.readers.verdicts import Mask, Rows


@dataclass(frozen=True)
class LeafPlace:
    """Where values are that no schema describes, and Arrow's array for them, of any type.

    `leaf` is the schema's node for any JSON, or any object; None for a name that the schema does not have.
    """

    path: tuple[str, ...]
    array: pa.Array
    leaf: Node | None = None

    @property
    def name(self) -> str:
        """The last step of the path."""
        return self.path[-1]

    @property
    def valid(self) -> Mask:
        """bool[n]: rows with a value there."""
        return np.asarray(self.array.is_valid())


class Leaves(NamedTuple):
    """Rows that Arrow parsed together, as columns.

    `payload` is large_binary[n]. `columns` has one for each leaf of the schema; those of `places` are null,
    since their texts are not yet known. `inner_names` are the names inside of undescribed values. `has_null`
    is bool[n], rows with the word `null` anywhere in their bytes; `valid` is bool[n], rows that break no rule
    so far.
    """

    payload: pa.Array
    columns: list[pa.Array]
    places: list[LeafPlace]
    inner_names: set[str]
    has_null: Mask
    valid: Mask


def read_leaves(root: Node, struct: pa.StructArray, payload: pa.Array) -> Leaves:
    """The columns of the root's leaves, from rows as Arrow parsed them and their bytes (large_binary[n])."""
    valid = np.ones(len(struct), dtype=bool)
    found = list(find_leaves(root, struct, np.ones(len(struct), dtype=bool), valid))
    foreign = list(_find_foreign(root, struct))
    inferred = [array.type for leaf, array in found if leaf.inferred] + [
        place.array.type for place in foreign
    ]
    inner_names = _collect_names(inferred)
    has_null = np.asarray(pc.match_substring_regex(payload, "null"))
    columns = []
    for leaf, array in found:
        if leaf.kind == "map":
            array = _read_map(leaf, array, _Bytes(payload, inner_names, has_null), valid)
        columns.append(check_column(leaf, array, has_null, valid))
    described = [LeafPlace(leaf.path, array, leaf) for leaf, array in found if leaf.kind in ("any", "object")]
    return Leaves(payload, columns, described + foreign, inner_names, has_null, valid)


def find_leaves(
    node: Node, struct: pa.StructArray, reached: Mask, valid: Mask
) -> Iterator[tuple[Node, pa.Array]]:
    """Each leaf with Arrow's array for it; rows that lack something required stop being valid.

    `reached` is bool[n]: rows in which the struct itself is present.
    """
    for child in node.children:
        place = struct.type.get_field_index(child.name)
        array = struct.field(place) if place >= 0 else pa.nulls(len(struct))
        present = np.asarray(array.is_valid())
        if child.required:
            valid &= present | ~reached
        if child.kind == "struct":
            yield from find_leaves(child, array, present, valid)
        else:
            yield child, array


def _find_foreign(node: Node, struct: pa.StructArray) -> Iterator[LeafPlace]:
    """The names that the schema does not have."""
    for number, field in enumerate(struct.type):
        child = node.by_name.get(field.name)
        if child is None:
            yield LeafPlace((*node.path, field.name), struct.field(number))
        elif child.kind == "struct":
            yield from _find_foreign(child, struct.field(number))


def _collect_names(types: list[pa.DataType]) -> set[str]:
    """Every name at any depth of inferred types."""
    inner = [
        field
        for type_ in types
        for field in ([type_.value_field] if pa.types.is_list(type_) else _list_fields(type_))
    ]
    below = _collect_names([field.type for field in inner]) if inner else set()
    return {field.name for field in inner} | below


def _list_fields(type_: pa.DataType) -> list[pa.Field]:
    return list(type_) if pa.types.is_struct(type_) else []


def check_column(leaf: Node, array: pa.Array, has_null: Mask, valid: Mask) -> pa.Array:
    """The leaf's column, all null where any JSON may be; rows that break a rule stop being valid."""
    if leaf.kind in ("any", "object"):
        return pa.nulls(len(array), pa.string())
    column = array if leaf.kind == "map" else unsign_zero(array)
    valid &= check_rules(leaf, column)
    if column.null_count and not leaf.nullable and not leaf.required:
        valid &= np.asarray(column.is_valid()) | ~has_null
    return column


class _Bytes(NamedTuple):
    """What `_read_map` needs to know of the rows' bytes; the fields are those of `Leaves`."""

    payload: pa.Array
    inner_names: set[str]
    has_null: Mask


def _read_map(leaf: Node, array: pa.Array, text: _Bytes, valid: Mask) -> pa.Array:
    """A struct of every name in the block, as a map of the names that each row has, sorted by name."""
    present = np.asarray(array.is_valid())
    type_ = choose_column_type(leaf)
    fields = sorted(array.type, key=lambda field: field.name) if pa.types.is_struct(array.type) else []
    if not pa.types.is_struct(array.type) or not all(_fits(field.type, type_.item_type) for field in fields):
        valid &= ~present
        return pa.nulls(len(array), type_)
    # An unsafe cast, since an integer beyond 2**53 becomes the nearest float.
    cells = [array.field(field.name).cast(type_.item_type, safe=False) for field in fields]
    has_cell = np.array([cell.is_valid() for cell in cells], dtype=bool).reshape(len(cells), len(array)).T
    doubtful = np.flatnonzero(present & ~has_cell.all(axis=1) & text.has_null)
    valid[doubtful[_may_hold_null(leaf, text, doubtful)]] = False
    # The cells are column after column in one array: cell (row, place) is at place * n + row.
    row, place = np.nonzero(has_cell & present[:, None])
    names = pa.array([field.name for field in fields], pa.string()).take(pa.array(place))
    joined = pa.concat_arrays([*cells, pa.array([], type_.item_type)])
    items = unsign_zero(joined.take(pa.array(place * len(array) + row)))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(array)))])
    nullable = pa.array(offsets, pa.int32(), mask=np.append(~present, False))
    return pa.MapArray.from_arrays(nullable, names, items, type=type_)


def unsign_zero(values: pa.Array) -> pa.Array:
    """The values, -0.0 as 0.0: it is one number, however it is spelt."""
    if pa.types.is_list(values.type) and pa.types.is_floating(values.type.value_type):
        mask = values.is_null() if values.null_count else None
        return pa.ListArray.from_arrays(values.offsets, unsign_zero(values.values), mask=mask)
    return pc.add(values, 0.0) if pa.types.is_floating(values.type) else values


def _may_hold_null(leaf: Node, text: _Bytes, doubtful: Rows) -> Mask:
    """bool[m]: which rows may have a map with null for a value, which Arrow shows like an absent name.

    A map written with nothing but numbers holds none. To find it by its name, the name must be nowhere else.
    """
    if (
        leaf.children[0].kind not in ("number", "integer")
        or leaf.name in text.inner_names
        or not len(doubtful)
    ):
        return np.ones(len(doubtful), dtype=bool)
    entry = r'"[^"\\{}]*"\s*:\s*[-+0-9.eE]+\s*,?\s*'
    numbers_only = rf'"{re.escape(leaf.name)}"\s*:\s*\{{\s*({entry})*\}}'
    return ~np.asarray(pc.match_substring_regex(text.payload.take(pa.array(doubtful)), numbers_only))


def _fits(type_: pa.DataType, item: pa.DataType) -> bool:
    """Whether values that Arrow inferred as `type_` are right for a map of `item`."""
    numeric = pa.types.is_integer(type_) or pa.types.is_floating(type_)
    return pa.types.is_null(type_) or (numeric if pa.types.is_floating(item) else type_ == item)
