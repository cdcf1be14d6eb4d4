"""One document at a time: the strict reader that judges exactly, keeps what a column cannot, and explains what is wrong.

`decode` turns bytes into a document or a Rejection, `read_columns` turns documents into the columns of a schema's leaves, `explain`
asks the jsonschema library why a document fails. The fast reader (`schemas.readers.fast_reader`) leaves every row it cannot vouch for to these.
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
from schemas.readers.constraints import check_rules, choose_column_type
from schemas.readers.formats import make_format_checker
from schemas.readers.numbers import NUMBERS
from schemas.readers.verdicts import Limits, Rejection

_STRINGS = re.compile(rb'"(?:[^"\\]+|\\.)*+"?', re.DOTALL)
"""A string, or what a cut-off text begins of one: matched to the end in any case, so each byte is read once."""
_SPACED_COLON = re.compile(rb'"[ \t\r\n]+:')
_BRACKETS = np.zeros(256, dtype=np.int64)
_BRACKETS[[ord("{"), ord("[")]] = 1
_BRACKETS[[ord("}"), ord("]")]] = -1
_PYTHON = {"number": NUMBERS, "integer": NUMBERS, "string": (str,), "boolean": (bool,)}
_MESSAGE_LENGTH = 400
_FEW_ENTRIES = 16
"""Of a map with so few entries jsonschema finds the wrong one sooner than a column of them does."""


def decode(payload: bytes, limits: Limits, distinct_keys: bool = False) -> dict[str, Any] | Rejection:
    """The document of a payload, or why there is none.

    `distinct_keys` says that no object in it is known to repeat a key. The first of these that holds is the reason: `oversize`,
    `depth`, `utf8`, `json` (syntax, NaN, infinities and numbers beyond float64 included), `duplicate_key`, `not_object`.
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
        document = numbers.loads(payload)
        if not (distinct_keys or _plainly_distinct(payload, document)):
            json.loads(payload, object_pairs_hook=_distinct)
    except _RepeatedNameError as error:
        return Rejection(
            "duplicate_key", f"the name {str(error)!r} stands twice in one object", field=str(error)
        )
    except ValueError as error:
        return Rejection("json", str(error)[:_MESSAGE_LENGTH])
    if not isinstance(document, dict):
        return Rejection("not_object", f"a JSON {_json_type(document)}, not an object")
    return document


def find_value(document: Any, path: tuple[str, ...]) -> Any:
    """The value at a path of names, None where there is none."""
    for step in path:
        document = document.get(step) if isinstance(document, dict) else None
    return document


def is_too_deep(payload: bytes, limits: Limits) -> bool:
    """Whether more brackets are open at once, outside of strings, than the limits allow."""
    if payload.count(b"{") + payload.count(b"[") <= limits.depth:
        return False
    steps = _BRACKETS[np.frombuffer(_STRINGS.sub(b"", payload), dtype=np.uint8)]
    return int(np.cumsum(steps).max(initial=0)) > limits.depth


def write_extra(root: Node, document: Mapping[str, Any]) -> str | None:
    """Canonical text of what a document holds beside the schema's properties, structs included; None where there is nothing."""
    found = _extra(root, document)
    return numbers.dumps(found) if found else None


def _extra(node: Node, value: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: inner for name, inner in value.items() if name not in node.by_name}
    for name, child in node.structs.items():
        inner = value.get(name)
        if isinstance(inner, dict) and (nested := _extra(child, inner)):
            found[name] = nested
    return found


_ABSENT = object()
_UNREACHED = object()
"""Stands for a place whose parent is not there, so that nothing is to be judged."""


def read_columns(
    root: Node, documents: Sequence[Mapping[str, Any]]
) -> tuple[list[pa.Array], NDArray[np.int64]]:
    """The columns of the root's leaves, and int64[n]: the first leaf at which each document fails, -1 where it is valid."""
    arrays: list[pa.Array] = []
    failing = np.full(len(documents), -1, dtype=np.int64)
    _descend(root, list(documents), arrays, failing)
    return arrays, failing


def _descend(node: Node, values: list[Any], arrays: list[pa.Array], failing: NDArray[np.int64]) -> None:
    if node.kind != "struct":
        column, wrong = _leaf(node, values)
        _mark(failing, wrong, len(arrays))
        arrays.append(column)
        return
    wrong = np.array([type(value) is not dict and not _may_lack(node, value) for value in values], dtype=bool)
    _mark(failing, wrong, len(arrays))
    for child in node.children:
        inner = [value.get(child.name, _ABSENT) if type(value) is dict else _UNREACHED for value in values]
        _descend(child, inner, arrays, failing)


def _mark(failing: NDArray[np.int64], wrong: NDArray[np.bool_], leaf: int) -> None:
    failing[(failing < 0) & wrong] = leaf


def _may_lack(node: Node, value: Any) -> bool:
    return (
        value is _UNREACHED or (value is _ABSENT and not node.required) or (value is None and node.nullable)
    )


def _leaf(leaf: Node, values: list[Any]) -> tuple[pa.Array, NDArray[np.bool_]]:
    fitting = _fitting(leaf, values)
    lacking = [i for i, fit in enumerate(fitting) if fit is None and not _may_lack(leaf, values[i])]
    column = pa.array(fitting, choose_column_type(leaf))
    wrong = ~check_rules(leaf, column)
    wrong[lacking] = True
    return column, wrong


def _fitting(leaf: Node, values: list[Any]) -> list[Any]:
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
    fits = type(value) is dict and all(_is(child, item) for item in value.values())
    return sorted((name, _scalar(child, item)) for name, item in value.items()) if fits else None


def _fit_array(leaf: Node, value: Any) -> list[Any] | None:
    child = leaf.children[0]
    return (
        [_scalar(child, item) for item in value]
        if type(value) is list and all(_is(child, item) for item in value)
        else None
    )


def _scalar(node: Node, value: Any) -> Any:
    return float(value) + 0.0 if node.kind in ("number", "integer") and value is not None else value


def write_text(leaf: Node, value: Any) -> str | None:
    """The canonical text of a value where any JSON, or any object, may stand; None where it may not."""
    return numbers.dumps(value) if leaf.kind == "any" or type(value) is dict else None


def _is(node: Node, value: Any) -> bool:
    return type(value) in _PYTHON.get(node.kind, ()) or (value is None and node.nullable)


def explain(root: Node, document: Mapping[str, Any], leaf: Node) -> Rejection:
    """What jsonschema says of the place where a document fails: the leaf, or a struct above it."""
    node, value = root, document
    for step in leaf.path:
        if not isinstance(value, dict):
            break
        child = node.by_name[step]
        if step not in value:
            return _rejection((*node.path, step), {"required": [step]}, value)
        node, value = child, value[step]
    if node.kind == "map" and isinstance(value, dict):
        value = _wrong_entry(node, value)
    elif node.kind == "array" and isinstance(value, list):
        (item,) = node.children
        place = int(np.argmax(_leaf(item, value)[1]))
        return _rejection((*node.path, str(place)), item.schema, value[place])
    return _rejection(node.path, node.schema, value)


def _wrong_entry(leaf: Node, value: dict[str, Any]) -> dict[str, Any]:
    """The first entry of a map that breaks a rule, alone: jsonschema takes microseconds an entry, and there may be 100,000."""
    entries = [{name: item} for name, item in value.items()]
    if len(entries) <= _FEW_ENTRIES:
        rule = _validator(orjson.dumps(leaf.schema))
        return next(entry for entry in entries if not rule.is_valid(entry))
    return entries[int(np.argmax(_leaf(leaf, entries)[1]))]


def _rejection(path: tuple[str, ...], schema: Mapping[str, Any], value: Any) -> Rejection:
    error = next(_validator(orjson.dumps(schema)).iter_errors(value))
    field = ".".join((*path, *map(str, error.absolute_path)))
    return Rejection("schema", error.message[:_MESSAGE_LENGTH], field, str(error.validator))


@cache
def _validator(schema: bytes) -> Draft202012Validator:
    return Draft202012Validator(orjson.loads(schema), format_checker=make_format_checker())


def _plainly_distinct(payload: bytes, document: Any) -> bool:
    """Whether no name is repeated for certain: without escapes, and spaces before a colon, each name in the bytes ends in `":`."""
    if b"\\" in payload or _SPACED_COLON.search(payload):
        return False
    return payload.count(b'":') == orjson.dumps(document, default=float).count(b'":')


class _RepeatedNameError(ValueError):
    pass


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        raise _RepeatedNameError(next(name for name, _ in pairs if name in seen or seen.add(name)))  # type: ignore[func-returns-value]
    return found


def _json_type(value: Any) -> str:
    names = {
        list: "array",
        str: "string",
        bool: "boolean",
        int: "number",
        float: "number",
        type(None): "null",
    }
    return names[type(value)]
