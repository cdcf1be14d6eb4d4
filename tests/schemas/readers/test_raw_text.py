"""Texts of what no schema describes: cut from the bytes where that is safe, and the same as reading the whole
document."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from schemas.readers import fast_reader, numbers, strict_reader
from schemas.readers.verdicts import MessageLimits, join_accepted
from schemas.registry import load
from tests.builders import payload, report

ROOT = load("kpi_report").root
CONTEXT = report()["execution_context"]


def block(*written: Any) -> pa.Array:
    return pa.array([payload(each) + b"\n" for each in written], pa.large_binary())


def held(*written: Any) -> list[tuple[str | None, str | None, str | None]]:
    """error_details, gpu_info and extra of each row, by both readers; all rows must be accepted."""
    payloads = block(*written)
    fast, distinct = fast_reader.read_block(ROOT, payloads, MessageLimits())
    left = np.setdiff1d(np.arange(len(written)), fast.rows)
    strict, rejected = strict_reader.read_rows(ROOT, payloads, left, MessageLimits(), distinct)
    assert rejected.rejections == []
    found = join_accepted(ROOT, [fast, strict])
    columns = {leaf.name: column.to_pylist() for leaf, column in zip(ROOT.leaves(), found.columns)}
    texts = zip(columns["error_details"], columns["gpu_info"], found.extra.to_pylist())
    return [text for _, text in sorted(zip(found.rows.tolist(), texts), key=lambda row: row[0])]


def accepted(*written: Any) -> list[int]:
    """The rows of which the fast reader cuts the texts."""
    return fast_reader.read_block(ROOT, block(*written), MessageLimits()).accepted.rows.tolist()


def test_usual_values_are_cut_and_unusual_ones_left_to_the_strict_reader() -> None:
    usual = [1, -1.5e-7, True, "x", [], [1, 2], {}, {"a": [1]}]
    unusual = ["\\", {"a": {}}, {"a": "}"}, [{}], None]
    for name in ("error_details", "odd"):
        for value in usual:
            assert accepted(report(**{name: value})) == [0], (name, value)
        for value in unusual[: 5 if name == "odd" else 4]:
            assert accepted(report(**{name: value}), report(1, **{name: value})) == [], (name, value)
    assert accepted(report(error_details=None)) == [0]


def test_names_that_are_many_or_long_or_in_two_places_are_left_to_the_strict_reader() -> None:
    assert accepted(report(**{f"n{place}": 1 for place in range(16)})) == [0]
    assert accepted(report(**{f"n{place}": 1 for place in range(17)}), report(1)) == [1]
    assert accepted(report(**{"n" * 101: 1}), report(1)) == [1]
    assert accepted(report(rack=1, execution_context=CONTEXT | {"rack": 2}), report(1)) == [1]


@pytest.mark.parametrize("name", ["error_details", "odd"])
def test_what_may_be_nested_too_deep_is_left_to_the_strict_reader(name: str) -> None:
    def nested(depth: int) -> dict[str, Any]:
        return {"a": json.loads("[" * depth + "]" * depth)}

    assert accepted(report(**{name: nested(30)})) == [0]
    assert accepted(report(**{name: nested(31)})) == []


def test_a_null_is_left_to_the_strict_reader_only_where_it_may_be_under_a_foreign_name() -> None:
    null = report(priority=None, gpu_utilization=None, execution_context=CONTEXT | {"gpu_info": None})
    assert accepted(null, report(zone="a")) == [0, 1]
    assert accepted(null, report(zone=None), report(zone="a")) == [0, 2]
    assert accepted(null | {"zone": "null"}, null | {"note": {"a": None}}) == []
    # A name of the schema, but in another place.
    assert accepted(report(hostname=None), null, report(hostname="a")) == [1]
    assert held(report(hostname=None), report(hostname="a"))[0][2] == '{"hostname":null}'


@pytest.mark.parametrize(
    "value",
    [
        1,
        -1.5,
        1e-7,
        1e300,
        True,
        "x",
        "",
        {},
        [],
        {"b": 1, "a": [2]},
        "}",
        '"',
        "\\",
        "é",
        {"a": "}"},
        {"a": {"b": {}}},
    ],
)
def test_any_value_becomes_its_canonical_text(value: Any) -> None:
    text = numbers.dumps(numbers.loads(json.dumps(value).encode()))
    assert held(report(error_details=value)) == [(text, None, None)]
    assert held(report(odd=value)) == [(None, None, f'{{"odd":{text}}}')]


def test_spelling_does_not_show_in_the_text() -> None:
    plain = report(1, error_details={"b": [1.0, 2], "a": "é"}, zone="é")
    spelt = json.dumps(plain, indent=2, ensure_ascii=True).replace("\n", " ")
    reordered = dict(reversed(plain.items())) | {"error_details": {"a": "é", "b": [1.0, 2]}}
    assert len(set(held(plain, spelt, reordered))) == 1


@pytest.mark.parametrize(
    "trap",
    [
        {"custom_metrics": {"error_details": 1.0}},
        {"odd": {"error_details": {"inner": 1}}},
        {"odd": '"error_details": 7'},
        {"source_layer": '"error_details":{"fake":1}'},
        {"execution_context": CONTEXT | {"error_details": 3}},
    ],
)
def test_a_name_that_stands_elsewhere_too_is_not_cut_from_there(trap: dict[str, Any]) -> None:
    for document in (
        report(error_details={"real": 1}) | trap,
        trap | report(error_details={"real": 1}) | trap,
    ):
        assert held(document)[0][0] == '{"real":1}'
    assert held(report() | trap)[0][0] is None


def test_absent_and_null_are_one_where_the_schema_takes_any_value_and_two_where_it_has_no_name() -> None:
    assert held(report(1), report(2, error_details=None)) == [(None, None, None)] * 2
    assert held(report(1), report(2, odd=None)) == [(None, None, None), (None, None, '{"odd":null}')]


def test_a_null_beside_a_value_is_kept_whatever_the_name_looks_like() -> None:
    assert held(report(1, **{"a.b*": None, "zone": 1}), report(2, **{"a.b*": 1})) == [
        (None, None, '{"a.b*":null,"zone":1}'),
        (None, None, '{"a.b*":1}'),
    ]


@pytest.mark.parametrize("name", ["é", "a.b", "(", "[x]*", " ", ""])
def test_a_null_under_any_name_is_kept_however_it_is_spaced(name: str) -> None:
    wide = json.dumps(report(**{name: None}), separators=(" , ", " \t:  "), ensure_ascii=False)
    extra = f'{{"{name}":null}}'
    assert [row[-1] for row in held(report(**{name: 1}), report(**{name: None}), wide)] == [
        f'{{"{name}":1}}',
        extra,
        extra,
    ]


def test_a_null_under_a_name_spelt_with_escapes_is_kept() -> None:
    escaped = json.dumps(report(1, odd=None)).replace("odd", "\\u006fdd")
    assert held(escaped, report(2, odd=1))[0][2] == '{"odd":null}'


@pytest.mark.parametrize("number", ["12345678901234567890", "1180591620717411303424"])
def test_digits_beyond_64_bits_are_kept(number: str) -> None:
    big = json.dumps(report(odd=0))[:-2] + number + "}"
    assert held(big) == [(None, None, f'{{"odd":{number}}}')]


def test_foreign_names_come_in_order() -> None:
    assert held(report(1, z=1, b=2, a=3), report(2, é=1, Z=2))[0][2] == '{"a":3,"b":2,"z":1}'
    assert held(report(1, z=1, b=2, a=3), report(2, é=1, Z=2))[1][2] == '{"Z":2,"é":1}'


def test_many_foreign_names_come_in_order_with_their_nulls() -> None:
    names = {f"n{i:02}": i for i in reversed(range(12))}
    text = "{" + ",".join(f'"n{i:02}":{i}' for i in range(12)) + "}"
    assert held(report(1, **names), report(2, n03=None))[0][2] == text
    assert held(report(1, **names), report(2, n03=None))[1][2] == '{"n03":null}'


def test_foreign_names_inside_of_a_struct_are_cut_too() -> None:
    inside = [report(i, execution_context=CONTEXT | {"rack": i, "Bay": "x"}, zone="z", a=[i]) for i in (1, 2)]
    assert accepted(*inside, report(3)) == [0, 1, 2]
    assert [row[2] for row in held(*inside, report(3))] == [
        f'{{"a":[{i}],"execution_context":{{"Bay":"x","rack":{i}}},"zone":"z"}}' for i in (1, 2)
    ] + [None]


def test_foreign_names_inside_of_a_struct_are_joined_with_those_beside_it() -> None:
    both = report(execution_context=CONTEXT | {"rack": {"row": 1}, "gpu_info": {"z": 1, "a": 2}}, zone="x")
    assert held(both) == [(None, '{"a":2,"z":1}', '{"execution_context":{"rack":{"row":1}},"zone":"x"}')]
