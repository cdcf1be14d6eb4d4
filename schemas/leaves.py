"""From what Arrow's parser made of a block to the columns of a schema's leaves, and which rows they may stand for.

Arrow gives null both for a name that is absent and for one that is `null`. Where the schema takes both alike, nothing is lost;
where it does not, a row counts only if its bytes show that it holds no `null` there.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas import documents
from schemas.checks import column_type, satisfied
from schemas.compiler import Node

Mask = NDArray[np.bool_]
_FEW = 8


def read(
    root: Node, struct: pa.StructArray, payload: pa.Array, limits: documents.Limits
) -> tuple[list[pa.Array], pa.Array, Mask]:
    """The columns of the root's leaves, the `extra` texts, and bool[n]: the rows that are valid for certain.

    `struct` holds a block's rows as Arrow read them, `payload` (large_binary[n]) their bytes.
    """
    ok = np.ones(len(struct), dtype=bool)
    found = list(_leaves(root, struct, np.ones(len(struct), dtype=bool), ok))
    foreign = list(_foreign(root, struct))
    opened = [array for leaf, array in found if leaf.kind in ("any", "object")]
    block = _Block(payload, names=_names([array.type for array in opened] + [array.type for _, array in foreign]))
    columns = [block.column(leaf, array, ok) for leaf, array in found]
    strange = block.rows_with(foreign)
    rows = np.flatnonzero((strange | _any_valid(opened, len(struct))) & ok)
    extra = block.texts(root, [leaf for leaf, _ in found], columns, rows, ok, limits)
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


def _foreign(node: Node, struct: pa.StructArray) -> Iterator[tuple[str, pa.Array]]:
    """The names that the schema does not have, with Arrow's array for each."""
    for place, field in enumerate(struct.type):
        child = node.by_name.get(field.name)
        if child is None:
            yield field.name, struct.field(place)
        elif child.kind == "struct":
            yield from _foreign(child, struct.field(place))


def _any_valid(arrays: list[pa.Array], rows: int) -> Mask:
    found = np.zeros(rows, dtype=bool)
    for array in arrays:
        if array.null_count < rows:
            found |= np.asarray(array.is_valid())
    return found


def _names(types: list[pa.DataType]) -> set[str]:
    """Every name at any depth of inferred types."""
    inner = [field for type_ in types for field in ([type_.value_field] if pa.types.is_list(type_) else _fields(type_))]
    return {field.name for field in inner} | (_names([field.type for field in inner]) if inner else set())


def _fields(type_: pa.DataType) -> list[pa.Field]:
    return list(type_) if pa.types.is_struct(type_) else []


@dataclass(frozen=True)
class _Block:
    """The bytes of the rows; `names` are those inside of values that the schema does not describe."""

    payload: pa.Array
    names: set[str]

    @cached_property
    def null_token(self) -> Mask:
        """bool[n]: rows with `null` anywhere in them; in the others a null value is an absent one."""
        return np.asarray(pc.match_substring(self.payload, "null"))

    def column(self, leaf: Node, array: pa.Array, ok: Mask) -> pa.Array:
        """The leaf's column; texts of open places are filled in by `texts`."""
        if leaf.kind in ("any", "object"):
            return pa.nulls(len(array), pa.string())
        column = self._map(leaf, array, ok) if leaf.kind == "map" else array
        ok &= satisfied(leaf, column)
        if column.null_count and not leaf.nullable and not leaf.required:
            ok &= np.asarray(column.is_valid()) | ~self.null_token
        return column

    def _map(self, leaf: Node, array: pa.Array, ok: Mask) -> pa.Array:
        """A struct of every name in the block as a map of the names each row has, in the names' order."""
        present = np.asarray(array.is_valid())
        type_ = column_type(leaf)
        fields = sorted(array.type, key=lambda field: field.name) if pa.types.is_struct(array.type) else []
        if not pa.types.is_struct(array.type) or not all(_holds(field.type, type_.item_type) for field in fields):
            ok &= ~present
            return pa.nulls(len(array), type_)
        cells = [array.field(field.name).cast(type_.item_type) for field in fields]
        filled = np.array([cell.is_valid() for cell in cells], dtype=bool).reshape(len(cells), len(array)).T
        doubtful = present & ~filled.all(axis=1)
        if doubtful.any():
            ok[np.flatnonzero(doubtful)[self._may_hold_null(leaf, doubtful)]] = False
        row, place = np.nonzero(filled & present[:, None])
        names = pa.array([field.name for field in fields], pa.string()).take(pa.array(place))
        items = pa.concat_arrays([*cells, pa.array([], type_.item_type)]).take(pa.array(place * len(array) + row))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(array)))])
        return pa.MapArray.from_arrays(pa.array(offsets, pa.int32(), mask=np.append(~present, False)), names, items, type=type_)

    def _may_hold_null(self, leaf: Node, rows: Mask) -> Mask:
        """bool[number of rows]: whose map may hold a name with null for a value, which Arrow shows like a name that is absent.

        A map written with nothing but numbers holds none. To find it by its name, the name must not stand elsewhere.
        """
        unsure = self.null_token[rows]
        if leaf.children[0].kind not in ("number", "integer") or leaf.name in self.names or not unsure.any():
            return unsure
        numbers_only = rf'"{re.escape(leaf.name)}"\s*:\s*\{{\s*("[^"\\{{}}]*"\s*:\s*[-+0-9.eE]+\s*,?\s*)*\}}'
        return unsure & ~np.asarray(pc.match_substring_regex(self.payload.filter(pa.array(rows)), numbers_only))

    def rows_with(self, foreign: list[tuple[str, pa.Array]]) -> Mask:
        """bool[n]: rows that have a value, or perhaps an explicit null, under a foreign name."""
        found = _any_valid([array for _, array in foreign], len(self.payload))
        if len(foreign) > _FEW:
            return found | self.null_token
        for name, array in foreign:
            doubtful = np.flatnonzero(np.asarray(array.is_null()) & self.null_token & ~found)
            if len(doubtful):
                rows = self.payload.take(pa.array(doubtful))
                spelt = pc.or_(pc.match_substring(rows, f'"{name}"'), pc.match_substring(rows, "\\"))
                found[doubtful[np.asarray(spelt)]] = True
        return found

    def texts(
        self, root: Node, leaves: list[Node], columns: list[pa.Array], rows: NDArray[np.int64], ok: Mask, limits: documents.Limits
    ) -> pa.Array:
        """The `extra` texts, and into `columns` the texts of open places: `rows`, which have such values, are read one by one."""
        places = [i for i, leaf in enumerate(leaves) if leaf.kind in ("any", "object")]
        texts: dict[int, list[str | None]] = {place: [None] * len(ok) for place in [*places, -1]}
        for row in rows.tolist():
            payload = self.payload[row].as_py()
            document = documents.decode(payload, limits, distinct_keys=True)
            if isinstance(document, documents.Rejection):
                ok[row] = False
                continue
            texts[-1][row] = documents.extra(root, document)
            for place in places:
                value = _value(document, leaves[place].path)
                text = None if value is None else documents.text(leaves[place], value)
                texts[place][row] = text
                ok[row] &= (text is None) == (value is None)
        for place in places if len(rows) else ():
            columns[place] = pa.array(texts[place], pa.string())
        return pa.array(texts[-1], pa.string())


def _holds(type_: pa.DataType, item: pa.DataType) -> bool:
    """Whether values that Arrow inferred as `type_` are right for a map of `item`."""
    numeric = pa.types.is_integer(type_) or pa.types.is_floating(type_)
    return pa.types.is_null(type_) or (numeric if pa.types.is_floating(item) else type_ == item)


def _value(document: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        document = document.get(step) if isinstance(document, dict) else None
    return document
