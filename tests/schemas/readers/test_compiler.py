"""Schemas compile with their whole meaning or not at all."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from schemas import registry
from schemas.readers.compiler import Node, UnsupportedKeyword, compile_schema
from schemas.readers.constraints import check_rules, choose_column_type
from schemas.registry import UnknownSchema, list_versions, load

Json = dict[str, Any]
TEXT = {"type": "string"}
MOMENT, ID = "2025-10-22T12:00:00Z", "10000000-0000-4000-8000-000000000000"


def document(**properties: Any) -> Json:
    return {"type": "object", "properties": properties}


def leaf(schema: Json) -> Node:
    """The compiled node of a property `a` that has this schema."""
    return compile_schema(document(a=schema)).leaves()[0]


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "string", "pattern": "x"}, "keyword `pattern` of a string, at #/properties/a/pattern"),
        (
            {"type": "number", "multipleOf": 2},
            "keyword `multipleOf` of a number, at #/properties/a/multipleOf",
        ),
        ({"type": "number", "maxLength": 2}, "keyword `maxLength` of a number, at #/properties/a/maxLength"),
        ({"type": "boolean", "enum": [True]}, "keyword `enum` of a boolean, at #/properties/a/enum"),
        (
            {"type": "array", "items": TEXT, "maxItems": 3},
            "keyword `maxItems` of a array, at #/properties/a/maxItems",
        ),
        ({"type": "string", "format": "email"}, "format `email` .*, at #/properties/a/format"),
        ({"type": "number", "minimum": 2**53}, "bound 9007199254740992 .*, at #/properties/a/minimum"),
        ({"type": "number", "maximum": True}, "True .*, at #/properties/a/maximum"),
        (
            {"type": "integer", "enum": [1, "x"]},
            "an enum of other values than integers, at #/properties/a/enum",
        ),
        (
            {"type": "integer", "enum": [1, True]},
            "an enum of other values than integers, at #/properties/a/enum",
        ),
        (
            {"type": "string", "enum": ["x", 1]},
            "an enum of other values than strings, at #/properties/a/enum",
        ),
        ({"type": ["string", "null"], "enum": ["x"]}, "an enum without null .*, at #/properties/a/enum"),
        ({"type": "number", "enum": [2**53]}, "an enum of numbers outside .*, at #/properties/a/enum"),
        ({"type": "string", "minLength": 1.5}, "1.5 is not .*, at #/properties/a/minLength"),
        ({"type": ["string", "number"]}, "`type` .*, at #/properties/a/type"),
        ({"type": "null"}, "`type` .*, at #/properties/a/type"),
        ({"type": "text"}, "'text' .*, at #/properties/a/type"),
        ({"minimum": 1}, "rules without a `type`, at #/properties/a$"),
        ({"$ref": "#/$defs/x"}, "rules without a `type`, at #/properties/a$"),
        (True, "a boolean schema, at #/properties/a$"),
        ({"type": "array"}, "an array without `items`, at #/properties/a$"),
        (
            {"type": "array", "items": {"type": "array", "items": TEXT}},
            "an? array .* at #/properties/a/items",
        ),
        (
            {"type": "object", "additionalProperties": {"type": "object"}},
            "an? object .* at #/properties/a/additionalProperties",
        ),
        (
            {"type": "object", "additionalProperties": False},
            "a boolean schema, at #/properties/a/additionalProperties",
        ),
        (
            {"type": "object", "additionalProperties": TEXT | {"pattern": "x"}},
            "at #/properties/a/additionalProperties/pattern",
        ),
        (
            {"type": "object", "additionalProperties": TEXT, "propertyNames": {"pattern": "x"}},
            "at #/properties/a/propertyNames",
        ),
        (document(b={"type": "number", "multipleOf": 2}), "at #/properties/a/properties/b/multipleOf"),
        (
            document(b={}) | {"required": ["c"]},
            r"required names without a property: \['c'\], at #/properties/a/required",
        ),
        (document(b={}) | {"additionalProperties": False}, "keyword `additionalProperties` of a struct"),
    ],
)
def test_what_is_not_compiled_fails_with_its_place(schema: Any, problem: str) -> None:
    with pytest.raises(UnsupportedKeyword, match=problem):
        compile_schema(document(a=schema))


@pytest.mark.parametrize(
    "keyword",
    [
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "if",
        "then",
        "else",
        "const",
        "$ref",
        "$dynamicRef",
        "$defs",
        "$anchor",
        "dependentRequired",
        "dependentSchemas",
        "patternProperties",
        "unevaluatedProperties",
        "minProperties",
        "maxProperties",
        "readOnly",
        "typo",
    ],
)
def test_no_keyword_is_ever_ignored(keyword: str) -> None:
    with pytest.raises(UnsupportedKeyword) as raised:
        compile_schema(document(a={}) | {keyword: {}})
    assert str(raised.value).endswith(f"at #/{keyword}")


@pytest.mark.parametrize(
    "top", [{}, {"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "object"}]
)
def test_the_top_must_be_an_object_with_properties(top: Json) -> None:
    with pytest.raises(
        UnsupportedKeyword, match="the top of a schema must be an object with `properties`, at #"
    ):
        compile_schema(top)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "number"}, [0.0, -1.5, 1e308], [float("nan"), float("inf"), float("-inf")]),
        ({"type": "integer"}, [8.0, -1.0, 1e300], [8.5, float("inf")]),
        ({"type": "number", "minimum": 0}, [0.0, -0.0], [-5e-324]),
        ({"type": "number", "maximum": 1}, [1.0], [1.0000000000000002]),
        ({"type": "number", "exclusiveMinimum": 0}, [5e-324], [0.0, -0.0]),
        ({"type": "number", "exclusiveMaximum": 1}, [0.9999999999999999], [1.0]),
        ({"type": "integer", "enum": [1, 25, None]}, [1.0, 25.0], [2.0]),
        ({"type": "string", "enum": ["x", "y"]}, ["x"], ["", "X"]),
        ({"type": "string", "minLength": 2}, ["éé", "abc"], ["", "é"]),
        ({"type": "string", "maxLength": 2}, ["", "éé", "😀😀"], ["abc"]),
        ({"type": "string", "format": "uuid"}, [ID, ID.upper()], ["", ID[1:]]),
        ({"type": "string", "format": "date-time"}, [MOMENT], [MOMENT[:-1]]),
        ({"type": "boolean"}, [True, False], []),
        ({"type": "array", "items": {"type": "string"}}, [[], ["a"]], [["a", None]]),
        ({"type": "array", "items": {"type": ["string", "null"]}}, [["a", None]], []),
        ({"type": "array", "items": {"type": "number", "minimum": 0}}, [[], [0.0, 1.0]], [[1.0, -1.0]]),
        (
            {"type": "object", "additionalProperties": {"type": "number"}},
            [[], [("k", 1.0)]],
            [[("k", None)], [("k", 1e400)]],
        ),
        (
            {
                "type": "object",
                "additionalProperties": {"type": "string", "maxLength": 1},
                "propertyNames": {"maxLength": 2},
            },
            [[("éé", "x")]],
            [[("abc", "x")], [("a", "xx")], [("a", "x"), ("b", "xx")]],
        ),
    ],
)
def test_each_keyword_judges_a_column(schema: Json, good: list[Any], bad: list[Any]) -> None:
    node = leaf(schema)
    column = pa.array([*good, None, *bad], choose_column_type(node))
    assert check_rules(node, column).tolist() == [True] * (len(good) + 1) + [False] * len(bad)


def test_annotations_say_nothing_about_validity() -> None:
    plain = leaf({"type": "number"})
    told = leaf(
        {
            "type": "number",
            "title": "A",
            "description": "a",
            "examples": [1],
            "default": 0,
            "deprecated": True,
        }
    )
    assert [keyword for keyword, _ in told.rules] == [keyword for keyword, _ in plain.rules] == ["type"]


def test_leaves_keep_the_order_of_the_schema_and_know_what_may_lack() -> None:
    inner = document(c={"type": ["number", "null"]}, d={"type": "string"}) | {"required": ["d"]}
    root = compile_schema(document(b={}, a=inner) | {"required": ["a"]})
    found = [(node.path, node.kind, node.required, node.nullable) for node in root.leaves()]
    assert found == [
        (("b",), "any", False, True),
        (("a", "c"), "number", False, True),
        (("a", "d"), "string", True, False),
    ]
    assert (root.by_name["a"].required, list(root.structs)) == (True, ["a"])


def test_a_schema_is_loaded_in_its_newest_version_unless_told() -> None:
    assert load("kpi_report") is load("kpi_report")
    assert load("kpi_report", 1).document["$id"] == "urn:kpiflow:kpi_report:1"
    assert load("kpi_report").version == max(list_versions()["kpi_report"])


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that stands for the schemas' own."""
    monkeypatch.setattr(registry.resources, "files", lambda package: tmp_path)
    for cached in (list_versions, load):
        cached.cache_clear()
    yield tmp_path
    for cached in (list_versions, load):
        cached.cache_clear()


def test_versions_count_as_numbers(shelf: Path) -> None:
    for number in (1, 2, 10):
        (shelf / f"odd.v{number}.json").write_text(json.dumps(document(a={"title": str(number)})))
    (shelf / "registry.py").write_text("")
    assert list_versions() == {"odd": (1, 2, 10)}
    assert (load("odd").version, load("odd", 2).document["properties"]["a"]["title"]) == (10, "2")


@pytest.mark.parametrize(("name", "version"), [("odd", 3), ("even", None), ("", None)])
def test_an_unknown_schema_is_told_from_those_there_are(shelf: Path, name: str, version: int | None) -> None:
    (shelf / "odd.v1.json").write_text(json.dumps(document(a={})))
    with pytest.raises(UnknownSchema, match=rf"no schema {name} v\d; there are odd v1"):
        load(name, version)


def test_a_file_with_an_unsupported_keyword_fails_when_it_is_loaded(shelf: Path) -> None:
    (shelf / "odd.v1.json").write_text(json.dumps(document(a={"type": "string", "pattern": "x"})))
    with pytest.raises(UnsupportedKeyword, match="#/properties/a/pattern"):
        load("odd")
