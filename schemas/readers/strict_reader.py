"""The strict reader: one document at a time. It judges exactly and explains what is wrong.

`read_rows` is what it does with a block: `decode` turns bytes into a document or a Rejection, and
`judge_documents` judges these, in whatever encoding they came. `read_columns` turns documents into the
columns of a schema's leaves, `explain` asks the jsonschema library why a document is not valid.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from jsonschema import Draft202012Validator
from numpy.typing import NDArray

from schemas.readers import numbers
from schemas.readers.compiler import Node
from schemas.readers.constraints import check_rules, choose_column_type, write_text
from schemas.readers.formats import make_format_checker
from schemas.readers.numbers import NUMBERS
from schemas.readers.verdicts import Accepted, Mask, MessageLimits, Rejected, Rejection, Rows

_STRINGS = re.compile(rb'"(?:[^"\\]+|\\.)*+"?', re.DOTALL)
"""A string, or the beginning of one at the end of a cut-off text: it always matches to the end, so no byte is
read twice."""
_SPACED_COLON = re.compile(rb'"[ \t\r\n]+:')
_BRACKETS = np.zeros(256, dtype=np.int64)
_BRACKETS[[ord("{"), ord("[")]] = 1
_BRACKETS[[ord("}"), ord("]")]] = -1
_PYTHON = {"number": NUMBERS, "integer": NUMBERS, "string": (str,), "boolean": (bool,)}
_MESSAGE_LENGTH = 400
_FEW_ENTRIES = 16
"""In a map with so few entries jsonschema finds the wrong one faster than a column of them does."""


def read_rows(
    root: Node, payload: pa.Array, rows: Rows, limits: MessageLimits, distinct: Mask
) -> tuple[Accepted, Rejected]:
    """Some rows of a block: the valid ones as columns, and why each of the others is not valid.

    `payload` is large_binary[n]; `distinct`, bool[n], says which rows are known to repeat no name.
    """
    decoded = [
        decode(payload[row].as_py().removesuffix(b"\n"), limits, bool(distinct[row])) for row in rows.tolist()
    ]
    return judge_documents(root, rows, decoded)


def judge_documents(
    root: Node, rows: Rows, decoded: Sequence[dict[str, Any] | Rejection]
) -> tuple[Accepted, Rejected]:
    """Some rows of a block, each with its document or why there is none: as `read_rows` gives them."""
    documents = [each for each in decoded if not isinstance(each, Rejection)]
    columns, failing = read_columns(root, documents)
    leaves, failures = root.leaves(), iter(failing.tolist())
    verdicts: list[Rejection | None] = []
    for each in decoded:
        if isinstance(each, Rejection):
            verdicts.append(each)
        else:
            leaf = next(failures)
            verdicts.append(explain(root, each, leaves[leaf]) if leaf >= 0 else None)
    valid = np.array([verdict is None for verdict in verdicts], dtype=bool)
    fitting = failing < 0
    extra = [write_extra(root, document) for document, fits in zip(documents, fitting.tolist()) if fits]
    accepted = Accepted(
        rows[valid], [column.filter(pa.array(fitting)) for column in columns], pa.array(extra, pa.string())
    )
    return accepted, Rejected(rows[~valid], [verdict for verdict in verdicts if verdict is not None])


def decode(payload: bytes, limits: MessageLimits, distinct_keys: bool = False) -> dict[str, Any] | Rejection:
    """The document of a payload, or why there is none.

    `distinct_keys`: it is known that no object in it repeats a key. The reason is the first of these that
    applies: `oversize`, `depth`, `utf8`, `json` (also NaN, infinities and numbers beyond float64),
    `duplicate_key`, `not_object`.
    """
    if oversize := limits.oversize(len(payload)):
        return oversize
    if is_too_deep(payload, limits):
        return Rejection("depth", f"nested deeper than {limits.depth}")
    try:
        payload.decode()
    except UnicodeDecodeError as error:
        return Rejection("utf8", f"invalid UTF-8 at byte {error.start}: {error.reason}")
    try:
        document = numbers.loads(payload) if distinct_keys else load_distinct(payload)
    except _RepeatedNameError as error:
        return Rejection(
            "duplicate_key", f"the name {str(error)!r} stands twice in one object", field=str(error)
        )
    except ValueError as error:
        return Rejection("json", str(error)[:_MESSAGE_LENGTH])
    if not isinstance(document, dict):
        return Rejection("not_object", f"a JSON {_name_type(document)}, not an object")
    return document


def load_distinct(text: bytes) -> Any:
    """The value of a JSON text. Raises ValueError if it is none, or repeats a name in an object."""
    value = numbers.loads(text)
    if not _is_plainly_distinct(text, value):
        json.loads(text, object_pairs_hook=_build_distinct)
    return value


def is_too_deep(payload: bytes, limits: MessageLimits) -> bool:
    """Whether more brackets are open at once, outside of strings, than the limits allow."""
    if payload.count(b"{") + payload.count(b"[") <= limits.depth:
        return False
    steps = _BRACKETS[np.frombuffer(_STRINGS.sub(b"", payload), dtype=np.uint8)]
    return int(np.cumsum(steps).max(initial=0)) > limits.depth


def write_extra(root: Node, document: Mapping[str, Any]) -> str | None:
    """The canonical text of what a document has beside the schema's properties, in structs too; or None."""
    found = _find_extra(root, document)
    return numbers.dumps(found) if found else None


def _find_extra(node: Node, value: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: inner for name, inner in value.items() if name not in node.by_name}
    for name, child in node.structs.items():
        inner = value.get(name)
        if isinstance(inner, dict) and (nested := _find_extra(child, inner)):
            found[name] = nested
    return found


_ABSENT = object()
_UNREACHED = object()
"""The value at a place whose parent is absent: there is nothing to judge."""


def read_columns(
    root: Node, documents: Sequence[Mapping[str, Any]]
) -> tuple[list[pa.Array], NDArray[np.int64]]:
    """The columns of the root's leaves, and int64[n]: the first wrong leaf of each document, else -1."""
    arrays: list[pa.Array] = []
    failing = np.full(len(documents), -1, dtype=np.int64)
    _read_node(root, list(documents), arrays, failing)
    return arrays, failing


def _read_node(node: Node, values: list[Any], arrays: list[pa.Array], failing: NDArray[np.int64]) -> None:
    if node.kind != "struct":
        column, wrong = _read_leaf(node, values)
        _mark_failing(failing, wrong, len(arrays))
        arrays.append(column)
        return
    wrong = np.array([type(value) is not dict and not _may_lack(node, value) for value in values], dtype=bool)
    _mark_failing(failing, wrong, len(arrays))
    for child in node.children:
        inner = [value.get(child.name, _ABSENT) if type(value) is dict else _UNREACHED for value in values]
        _read_node(child, inner, arrays, failing)


def _mark_failing(failing: NDArray[np.int64], wrong: NDArray[np.bool_], leaf: int) -> None:
    failing[(failing < 0) & wrong] = leaf


def _may_lack(node: Node, value: Any) -> bool:
    return (
        value is _UNREACHED or (value is _ABSENT and not node.required) or (value is None and node.nullable)
    )


def _read_leaf(leaf: Node, values: list[Any]) -> tuple[pa.Array, NDArray[np.bool_]]:
    fitting = _fit_values(leaf, values)
    lacking = [i for i, fit in enumerate(fitting) if fit is None and not _may_lack(leaf, values[i])]
    column = pa.array(fitting, choose_column_type(leaf))
    wrong = ~check_rules(leaf, column)
    wrong[lacking] = True
    return column, wrong


def _fit_values(leaf: Node, values: list[Any]) -> list[Any]:
    """The values as the leaf's column holds them, None where the type is another."""
    if leaf.kind in ("number", "integer"):
        return [
            float(value) + 0.0 if type(value) in NUMBERS else None for value in values
        ]  # + 0.0: -0.0 is 0.0
    if leaf.kind in _PYTHON:
        (type_,) = _PYTHON[leaf.kind]
        return [value if type(value) is type_ else None for value in values]
    fit = {"map": _fit_map, "array": _fit_array}.get(leaf.kind, write_text)
    there = (None, _ABSENT, _UNREACHED)
    return [None if value in there else fit(leaf, value) for value in values]


def _fit_map(leaf: Node, value: Any) -> list[tuple[str, Any]] | None:
    child = leaf.children[0]
    fits = type(value) is dict and all(_has_type(child, item) for item in value.values())
    return sorted((name, _fit_scalar(child, item)) for name, item in value.items()) if fits else None


def _fit_array(leaf: Node, value: Any) -> list[Any] | None:
    child = leaf.children[0]
    return (
        [_fit_scalar(child, item) for item in value]
        if type(value) is list and all(_has_type(child, item) for item in value)
        else None
    )


def _fit_scalar(node: Node, value: Any) -> Any:
    return float(value) + 0.0 if node.kind in ("number", "integer") and value is not None else value


def _has_type(node: Node, value: Any) -> bool:
    return type(value) in _PYTHON.get(node.kind, ()) or (value is None and node.nullable)


def explain(root: Node, document: Mapping[str, Any], leaf: Node) -> Rejection:
    """What jsonschema says of the place where a document fails: the leaf, or a struct above it."""
    node, value = root, document
    for step in leaf.path:
        if not isinstance(value, dict):
            break
        child = node.by_name[step]
        if step not in value:
            return _ask_jsonschema((*node.path, step), {"required": [step]}, value)
        node, value = child, value[step]
    if node.kind == "map" and isinstance(value, dict):
        value = _find_wrong_entry(node, value)
    elif node.kind == "array" and isinstance(value, list):
        (item,) = node.children
        place = int(np.argmax(_read_leaf(item, value)[1]))
        return _ask_jsonschema((*node.path, str(place)), item.schema, value[place])
    return _ask_jsonschema(node.path, node.schema, value)


def _find_wrong_entry(leaf: Node, value: dict[str, Any]) -> dict[str, Any]:
    """The first entry of a map that breaks a rule, alone.

    jsonschema takes microseconds for an entry, and there may be 100,000.
    """
    entries = [{name: item} for name, item in value.items()]
    if len(entries) <= _FEW_ENTRIES:
        rule = _make_validator(orjson.dumps(leaf.schema))
        return next(entry for entry in entries if not rule.is_valid(entry))
    return entries[int(np.argmax(_read_leaf(leaf, entries)[1]))]


def _ask_jsonschema(path: tuple[str, ...], schema: Mapping[str, Any], value: Any) -> Rejection:
    error = next(_make_validator(orjson.dumps(schema)).iter_errors(value))
    field = ".".join((*path, *map(str, error.absolute_path)))
    return Rejection("schema", error.message[:_MESSAGE_LENGTH], field, str(error.validator))


@cache
def _make_validator(schema: bytes) -> Draft202012Validator:
    return Draft202012Validator(orjson.loads(schema), format_checker=make_format_checker())


def _is_plainly_distinct(payload: bytes, document: Any) -> bool:
    """Whether it is certain that no name is repeated.

    Without escapes, and spaces before a colon, each name in the bytes ends in `":`: they are counted.
    """
    if b"\\" in payload or _SPACED_COLON.search(payload):
        return False
    return payload.count(b'":') == orjson.dumps(document, default=float).count(b'":')


class _RepeatedNameError(ValueError):
    pass


def _build_distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _RepeatedNameError(name)
            seen.add(name)
    return found


def _name_type(value: Any) -> str:
    names = {
        list: "array",
        str: "string",
        bool: "boolean",
        int: "number",
        float: "number",
        type(None): "null",
    }
    return names[type(value)]
