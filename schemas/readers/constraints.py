"""The column of a leaf, and compiled rules applied to it: which rows' values satisfy the schema.

Both readers (`schemas.readers.fast_reader`, `schemas.readers.strict_reader`) make the same columns: float64
for numbers and integers, string, bool, map<string, scalar>, list<scalar>, and the canonical text as string
where any JSON may be. Null means that there is no value of the right type. Only the reader can tell why, so
it decides whether that is allowed.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.readers import numbers
from schemas.readers.compiler import SCALARS, Node


def choose_column_type(leaf: Node) -> pa.DataType:
    """The Arrow type of a leaf's column."""
    if leaf.kind == "map":
        return pa.map_(pa.string(), SCALARS[leaf.children[0].kind])
    if leaf.kind == "array":
        return pa.list_(SCALARS[leaf.children[0].kind])
    return SCALARS.get(leaf.kind, pa.string())


def write_text(leaf: Node, value: Any) -> str | None:
    """The canonical text of a value where any JSON, or any object, may be; None if it may not be there."""
    return numbers.dumps(value) if leaf.kind == "any" or type(value) is dict else None


def check_rules(leaf: Node, column: pa.Array) -> NDArray[np.bool_]:
    """bool[n]: the rows whose value satisfies every rule of the leaf; null rows do."""
    if leaf.kind == "map":
        own = _check_each(leaf, column.keys)
        return _gather_rows(column, own & _check_elements(leaf.children[0], column.items))
    if leaf.kind == "array":
        return _gather_rows(column, _check_elements(leaf.children[0], column.values))
    return _check_each(leaf, column)


def _check_elements(child: Node, values: pa.Array) -> NDArray[np.bool_]:
    """bool[n]: the elements of a map or list that are allowed."""
    ok = _check_each(child, values)
    return ok if child.nullable or not values.null_count else ok & np.asarray(values.is_valid())


def _check_each(node: Node, values: pa.Array) -> NDArray[np.bool_]:
    """bool[n]: the values that satisfy the node's own rules; nulls do."""
    ok = np.ones(len(values), dtype=bool)
    if not node.rules or not len(values):
        return ok
    valid = np.asarray(values.is_valid()) if values.null_count else None
    present = values if valid is None else values.drop_null()
    for _, check in node.rules:
        if valid is None:
            ok &= check(present)
        else:
            ok[valid] &= check(present)
    return ok


def _gather_rows(nested: pa.Array, ok: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool[n]: the rows of a map or list array all of whose elements are ok."""
    if ok.all():
        return np.ones(len(nested), dtype=bool)
    # Wrong elements so far, at each row's two ends: equal if the row has none.
    wrong = np.concatenate([[0], np.cumsum(~ok)])
    offsets = nested.offsets.to_numpy()
    clean = wrong[offsets[1:]] == wrong[offsets[:-1]]
    return clean | np.asarray(pc.is_null(nested))
