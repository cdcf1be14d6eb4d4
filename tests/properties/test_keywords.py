"""Every keyword on its own: a small schema is refused at load, or judges every value as the jsonschema
library does."""

import itertools
import json
from typing import Any

import pyarrow as pa
import pytest
from jsonschema import Draft202012Validator

from schemas.readers import fast_reader, strict_reader
from schemas.readers.compiler import UnsupportedKeyword, compile_schema
from schemas.readers.formats import make_format_checker
from schemas.readers.verdicts import MessageLimits

Json = dict[str, Any]
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    1.0,
    1.5,
    2,
    -0.0,
    7.25,
    2**53,
    2**53 + 1,
    1e300,
    "",
    "a",
    "ab",
    "one",
    "null",
    "1",
    [],
    [1],
    ["a"],
    ["a", None],
    [None],
    {},
    {"k": 1},
    {"k": "v"},
    {"k": None},
    {"kk": 1.5},
    [True],
    [1, "a"],
    {"k": 1, "kk": 1},
]
RULES: dict[str, list[Json]] = {
    "string": [
        {},
        {"enum": ["one", "a"]},
        {"enum": []},
        {"enum": ["one", None]},
        {"enum": ["one", 1]},
        {"enum": [None]},
        {"enum": "one"},
        {"const": "a"},
        {"minLength": 1},
        {"minLength": 1.0},
        {"minLength": 1.5},
        {"minLength": "1"},
        {"maxLength": 1},
        {"maxLength": -1},
        {"pattern": "a"},
        {"format": "uuid"},
        {"format": "email"},
        {"format": 1},
        {"minimum": 3},
        {"contentEncoding": "base64"},
    ],
    "number": [
        {},
        {"enum": [1, 2]},
        {"enum": [1, True]},
        {"enum": [0]},
        {"enum": [1, None]},
        {"enum": []},
        {"enum": [1.5]},
        {"const": 1},
        {"enum": [2**53]},
        {"enum": [2**53 + 1]},
        {"minimum": 1},
        {"minimum": 1.5},
        {"maximum": 1},
        {"exclusiveMinimum": 1},
        {"exclusiveMaximum": 1.5},
        {"minimum": "1"},
        {"minimum": None},
        {"minimum": True},
        {"minimum": 2**53},
        {"multipleOf": 2},
        {"exclusiveMinimum": True, "minimum": 1},
        {"format": "uuid"},
    ],
    "boolean": [{}, {"enum": [True]}, {"const": True}],
    "object": [
        {},
        {"additionalProperties": {"type": "number"}},
        {"additionalProperties": {"type": ["number", "null"]}},
        {"additionalProperties": {"type": "string", "minLength": 2}},
        {"additionalProperties": {"type": "number", "enum": [1]}},
        {"additionalProperties": True},
        {"additionalProperties": False},
        {"properties": {"k": {"type": "number"}}},
        {"properties": {"k": {"type": "number"}}, "required": ["k"]},
        {"properties": {"k": {}}, "required": ["k"]},
        {"properties": {"k": {"type": "number"}}, "additionalProperties": False},
        {"properties": {"k": {}}},
        {"required": ["k"]},
        {"propertyNames": {"maxLength": 1}, "additionalProperties": {"type": "number"}},
        {"propertyNames": {"maxLength": 1}},
        {"minProperties": 1},
        {"maxProperties": 1},
        {"dependentRequired": {"k": ["kk"]}},
        {"dependentSchemas": {"k": {}}},
        {"patternProperties": {"k": {}}},
        {"properties": {"k": True}},
        {"properties": {"k": {"type": ["number", "null"]}}, "required": ["k"]},
        {"properties": {"k": {"type": ["string", "null"], "enum": ["v"]}}},
        {"properties": {"k": {"type": "number"}}, "required": "k"},
        {"properties": {}},
        {"additionalProperties": {"type": "number"}, "required": ["k"]},
        {"unevaluatedProperties": False},
        {"properties": {"k": {"type": "number"}}, "required": ["k", "kk"]},
        {"enum": [{}]},
    ],
    "array": [
        {},
        {"items": {"type": "string"}},
        {"items": {"type": ["string", "null"]}},
        {"items": {"type": ["string", "null"], "enum": ["a"]}},
        {"items": {"type": "number"}},
        {"items": {"type": "string", "minLength": 2}},
        {"items": True},
        {"prefixItems": [{}]},
        {"items": {"type": "string"}, "minItems": 1},
        {"items": {"type": "string"}, "uniqueItems": True},
        {"contains": {}},
        {"items": {"type": "boolean"}},
        {"items": {"type": "integer"}},
    ],
}
RULES["integer"] = RULES["number"]
OTHERS: list[Json] = [
    {"$ref": "#"},
    {"anyOf": [{}]},
    {"allOf": [{}]},
    {"not": {}},
    {"if": {}},
    {"const": 1},
    {"enum": [1]},
    {},
    {"default": 1},
    {"type": []},
    {"type": ["string", "string"]},
    {"type": "strin"},
    {"type": 1},
    {"type": "null"},
    {"type": ["number", "integer"]},
]


def small(name: str) -> list[Json]:
    types = [name, [name, "null"]]
    return [{"type": type_, **rule} for type_, rule in itertools.product(types, RULES[name])]


def whole(schema: Json, required: bool) -> Json:
    return {
        "type": "object",
        "properties": {"a": schema, "z": {"type": "string"}},
        "required": ["a"] if required else [],
    }


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("name", [*RULES, ""])
def test_a_keyword_means_what_json_schema_says_or_is_refused_at_load(name: str, required: bool) -> None:
    compiled, refused = 0, []
    for schema in [whole(each, required) for each in (small(name) if name else OTHERS)]:
        try:
            root = compile_schema(schema)
        except UnsupportedKeyword as error:
            refused.append(str(error))
            continue
        compiled += 1
        oracle = Draft202012Validator(schema, format_checker=make_format_checker())
        oracle.check_schema(schema)
        texts = [json.dumps(document).encode() for document in [{}, *({"a": value} for value in VALUES)]]
        _, failing = strict_reader.read_columns(
            root, [strict_reader.decode(text, MessageLimits()) for text in texts]
        )  # type: ignore[misc]
        for text, strict in zip(texts, (failing < 0).tolist()):
            expected = oracle.is_valid(json.loads(text))
            fast = (
                len(
                    fast_reader.read_block(
                        root, pa.array([text + b"\n"], pa.large_binary()), MessageLimits()
                    ).accepted.rows
                )
                > 0
            )
            assert (strict, fast or expected) == (expected, expected), (schema, text)
    assert compiled
    assert all(", at #/properties/a" in error for error in refused)
