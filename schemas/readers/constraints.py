"""Compiled rules applied to columns: which rows of a leaf's values satisfy its schema.

A leaf's *column* is what both readers (`schemas.readers.fast_reader`, `schemas.readers.strict_reader`) produce: float64 for numbers and integers, string,
bool, map<string, scalar>, list<scalar>, and, for places that may hold any JSON, its canonical text as string. Null means that no
value of the right type stands there; whether that is allowed is the reader's to judge, since only it can tell why.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.readers.compiler import SCALARS, Node


def choose_column_type(leaf: Node) -> pa.DataType:
    """The Arrow type of a leaf's column."""
    if leaf.kind == "map":
        return pa.map_(pa.string(), SCALARS[leaf.children[0].kind])
    if leaf.kind == "array":
        return pa.list_(SCALARS[leaf.children[0].kind])
    return SCALARS.get(leaf.kind, pa.string())


def check_rules(leaf: Node, column: pa.Array) -> NDArray[np.bool_]:
    """bool[n]: the rows whose value keeps every rule of the leaf; null rows do."""
    if leaf.kind == "map":
        own = _each(leaf, column.keys)
        return _all_of(column, own & _elements(leaf.children[0], column.items))
    if leaf.kind == "array":
        return _all_of(column, _elements(leaf.children[0], column.values))
    return _each(leaf, column)


def _elements(child: Node, values: pa.Array) -> NDArray[np.bool_]:
    """bool[n]: the elements of a map or list that may stand there."""
    ok = _each(child, values)
    return ok if child.nullable or not values.null_count else ok & np.asarray(values.is_valid())


def _each(node: Node, values: pa.Array) -> NDArray[np.bool_]:
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


def _all_of(nested: pa.Array, ok: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool[n]: the rows of a map or list array none of whose elements is not ok."""
    if ok.all():
        return np.ones(len(nested), dtype=bool)
    wrong = np.concatenate([[0], np.cumsum(~ok)])
    offsets = nested.offsets.to_numpy()
    clean = wrong[offsets[1:]] == wrong[offsets[:-1]]
    return clean | np.asarray(pc.is_null(nested))
