"""Compile a JSON Schema (2020-12) to a tree of nodes with Arrow types, their rules as vectorised checks.

A keyword is accepted only if its whole meaning is compiled. Any other is an error at load that names its
place; none is ignored. Numbers are read as float64, and an `integer` is a number without a fraction, as JSON
Schema says, so 8.0 is one. Bounds must be within 2**53, where float64 is exact.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jsonschema import Draft202012Validator, SchemaError
from numpy.typing import NDArray

from schemas.readers.formats import FORMATS

Kind = Literal["number", "integer", "string", "boolean", "struct", "map", "array", "object", "any"]
Check = Callable[[pa.Array], NDArray[np.bool_]]

ANNOTATIONS = frozenset(
    {"$schema", "$id", "$comment", "title", "description", "examples", "default", "deprecated"}
)
KEYWORDS: Mapping[Kind, frozenset[str]] = {
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum"}),
    "string": frozenset({"minLength", "maxLength", "format", "enum"}),
    "boolean": frozenset(),
    "struct": frozenset({"properties", "required"}),
    "map": frozenset({"propertyNames", "additionalProperties"}),
    "array": frozenset({"items"}),
    "object": frozenset(),
    "any": frozenset(),
}
"""What each kind of node understands beside `type` and annotations."""

SCALARS: Mapping[Kind, pa.DataType] = {
    "number": pa.float64(),
    "integer": pa.float64(),
    "string": pa.string(),
    "boolean": pa.bool_(),
}
_TYPES: Mapping[str, Kind] = {
    "number": "number",
    "integer": "integer",
    "string": "string",
    "boolean": "boolean",
    "object": "object",
    "array": "array",
}
_EXACT = 2**53
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


class UnsupportedKeyword(ValueError):  # noqa: N818 (named for what is wrong)
    """A schema uses a keyword, or a value of one, that is not compiled; `str()` names its JSON pointer."""


@dataclass(frozen=True)
class Node:
    """One place in a document: what may be there.

    `required` is what its parent says; `nullable` says that null may take the place of a value. `rules` are
    (keyword, check) pairs: a check takes an array of the node's values without nulls (a map's keys) and
    returns bool[n]. `children` are a struct's properties, or the one node of a map's values or an array's
    items.
    """

    path: tuple[str, ...]
    kind: Kind
    schema: Mapping[str, Any]
    required: bool = False
    nullable: bool = False
    rules: tuple[tuple[str, Check], ...] = ()
    children: tuple["Node", ...] = ()

    @cached_property
    def name(self) -> str:
        """The last step of the path."""
        return self.path[-1]

    @cached_property
    def by_name(self) -> dict[str, "Node"]:
        """A struct's children by name."""
        return {child.name: child for child in self.children}

    @cached_property
    def structs(self) -> dict[str, "Node"]:
        """Those of them that are structs themselves."""
        return {name: child for name, child in self.by_name.items() if child.kind == "struct"}

    @cached_property
    def depth(self) -> int:
        """Brackets that are open at once, at most, in a value that the schema describes in full."""
        own = self.kind in ("struct", "map", "array")
        return own + max((child.depth for child in self.children), default=0)

    @property
    def inferred(self) -> bool:
        """Whether the values have no Arrow type of their own, so that a parser must infer one per block."""
        return self.kind in ("map", "object", "any")

    def nodes(self) -> list["Node"]:
        """The node's children and theirs, structs included."""
        return [node for child in self.children if child.name != "*" for node in (child, *child.nodes())]

    def leaves(self) -> list["Node"]:
        """The node itself, or the leaves of a struct, in the schema's order."""
        return (
            [leaf for child in self.children for leaf in child.leaves()] if self.kind == "struct" else [self]
        )


def compile_schema(schema: Mapping[str, Any]) -> Node:
    """The tree of a schema whose top is an object with properties.

    Raises:
        UnsupportedKeyword: for anything that is not compiled, with its JSON pointer.
    """
    _refuse_invalid(schema)
    root = _compile_node(schema, (), "#", required=True)
    if root.kind != "struct":
        raise UnsupportedKeyword("the top of a schema must be an object with `properties`, at #")
    return root


def _refuse_invalid(schema: Mapping[str, Any]) -> None:
    if schema.get("$schema", _DRAFT) != _DRAFT:
        raise UnsupportedKeyword(f"a schema of {schema['$schema']} (known: {_DRAFT}), at #/$schema")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise UnsupportedKeyword(
            f"{error.message}, at {'/'.join(['#', *map(str, error.absolute_path)])}"
        ) from error


def make_arrow_fields(node: Node) -> list[pa.Field]:
    """The Arrow fields of a struct's children that have a type of their own."""
    return [pa.field(child.name, make_arrow_type(child)) for child in node.children if not child.inferred]


def make_arrow_type(node: Node) -> pa.DataType:
    """The Arrow type that a parser reads the node's values as."""
    if node.kind == "struct":
        return pa.struct(make_arrow_fields(node))
    if node.kind == "array":
        return pa.list_(make_arrow_type(node.children[0]))
    return SCALARS[node.kind]


def _compile_node(
    schema: Mapping[str, Any], path: tuple[str, ...], pointer: str, required: bool = False
) -> Node:
    if not isinstance(schema, Mapping):
        raise UnsupportedKeyword(f"a boolean schema, at {pointer}")
    kind, nullable = _find_kind(schema, pointer)
    for keyword in schema:
        if keyword != "type" and keyword not in ANNOTATIONS and keyword not in KEYWORDS[kind]:
            raise UnsupportedKeyword(f"keyword `{keyword}` of a {kind}, at {pointer}/{keyword}")
    children = _compile_children(kind, schema, path, pointer)
    return Node(
        path,
        kind,
        schema,
        required,
        nullable,
        tuple(_compile_rules(kind, nullable, schema, pointer)),
        children,
    )


def _find_kind(schema: Mapping[str, Any], pointer: str) -> tuple[Kind, bool]:
    types = schema.get("type")
    if types is None:
        if set(schema) - ANNOTATIONS:
            raise UnsupportedKeyword(f"rules without a `type`, at {pointer}")
        return "any", True
    named = [types] if isinstance(types, str) else list(types)
    plain = [name for name in named if name != "null"]
    if len(plain) != 1 or plain[0] not in _TYPES:
        raise UnsupportedKeyword(
            f"`type` {types!r} (one type, and null beside it, can be compiled), at {pointer}/type"
        )
    kind = _TYPES[plain[0]]
    if kind == "object":
        kind = "struct" if "properties" in schema else "map" if "additionalProperties" in schema else "object"
    return kind, len(plain) < len(named)


def _compile_children(
    kind: Kind, schema: Mapping[str, Any], path: tuple[str, ...], pointer: str
) -> tuple[Node, ...]:
    if kind == "struct":
        properties, required = schema["properties"], set(schema.get("required", ()))
        if unknown := sorted(required - set(properties)):
            raise UnsupportedKeyword(f"required names without a property: {unknown}, at {pointer}/required")
        nodes = (
            _compile_node(child, (*path, name), f"{pointer}/properties/{name}", name in required)
            for name, child in properties.items()
        )
        return tuple(nodes)
    if kind == "array" and "items" not in schema:
        raise UnsupportedKeyword(f"an array without `items`, at {pointer}")
    if kind in ("map", "array"):
        keyword = "items" if kind == "array" else "additionalProperties"
        child = _compile_node(schema[keyword], (*path, "*"), f"{pointer}/{keyword}", required=True)
        if child.kind not in SCALARS:
            raise UnsupportedKeyword(f"a {child.kind} inside a {kind}, at {pointer}/{keyword}")
        return (child,)
    return ()


def _compile_rules(
    kind: Kind, nullable: bool, schema: Mapping[str, Any], pointer: str
) -> list[tuple[str, Check]]:
    rules: list[tuple[str, Check]] = []
    if kind in ("number", "integer"):
        rules.append(("type", _is_finite if kind == "number" else _is_integral))
    for keyword in schema:
        if keyword in _COMPARE:
            rules.append((keyword, _compile_comparison(keyword, schema[keyword], pointer)))
        elif keyword in ("minLength", "maxLength"):
            rules.append((keyword, _compile_length(keyword, schema[keyword])))
        elif keyword == "enum":
            rules.append((keyword, _compile_membership(kind, nullable, schema[keyword], pointer)))
        elif keyword == "format":
            if schema[keyword] not in FORMATS:
                raise UnsupportedKeyword(
                    f"format `{schema[keyword]}` (known: {', '.join(FORMATS)}), at {pointer}/format"
                )
            rules.append((keyword, FORMATS[schema[keyword]]))
        elif keyword == "propertyNames":
            rules.append((keyword, _compile_name_length(schema[keyword], f"{pointer}/{keyword}")))
    return rules


_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "minimum": np.greater_equal,
    "maximum": np.less_equal,
    "exclusiveMinimum": np.greater,
    "exclusiveMaximum": np.less,
}


def _compile_comparison(keyword: str, bound: float, pointer: str) -> Check:
    if not abs(bound) < _EXACT:
        raise UnsupportedKeyword(f"bound {bound} outside of 2**53, at {pointer}/{keyword}")
    compare = _COMPARE[keyword]
    return lambda values: np.asarray(compare(np.asarray(values), bound))


def _is_finite(values: pa.Array) -> NDArray[np.bool_]:
    return np.isfinite(np.asarray(values))


def _is_integral(values: pa.Array) -> NDArray[np.bool_]:
    numbers = np.asarray(values)
    return np.asarray(np.isfinite(numbers) & (np.floor(numbers) == numbers))


def _compile_length(keyword: str, bound: int) -> Check:
    compare = np.greater_equal if keyword == "minLength" else np.less_equal
    return lambda values: np.asarray(compare(np.asarray(pc.utf8_length(values)), bound))


def _compile_membership(kind: Kind, nullable: bool, allowed: list[Any], pointer: str) -> Check:
    if nullable and None not in allowed:
        raise UnsupportedKeyword(
            f"an enum without null beside a type with null (say the same in both), at {pointer}/enum"
        )
    values = [value for value in allowed if value is not None]
    python = str if kind == "string" else (int, float)
    if any(isinstance(value, bool) or not isinstance(value, python) for value in values):
        raise UnsupportedKeyword(f"an enum of other values than {kind}s, at {pointer}/enum")
    if kind != "string" and not all(abs(value) < _EXACT for value in values):
        raise UnsupportedKeyword(f"an enum of numbers outside of 2**53, at {pointer}/enum")
    known = pa.array(values, SCALARS[kind])
    return lambda array: np.asarray(pc.is_in(array, known))


def _compile_name_length(schema: Mapping[str, Any], pointer: str) -> Check:
    if set(schema) != {"maxLength"}:
        raise UnsupportedKeyword(f"other rules than `maxLength` on names, at {pointer}")
    return _compile_length("maxLength", schema["maxLength"])
