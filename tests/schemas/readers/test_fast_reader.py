"""The fast reader accepts only what is valid, whatever stands beside it, and accepts what is usual."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.readers import fast_reader, numbers, strict_reader
from schemas.readers.compiler import compile_schema
from schemas.readers.verdicts import Accepted, MessageLimits
from schemas.registry import load
from tests.builders import payload, report

ROOT = load("kpi_report").root
CONTEXT = report()["execution_context"]


def block(*written: Any) -> pa.Array:
    """Documents, texts or bytes as the payloads of a block."""
    return pa.array([payload(each) + b"\n" for each in written], pa.large_binary())


def read(*written: Any, limits: MessageLimits | None = None) -> Accepted:
    return fast_reader.read_block(ROOT, block(*written), limits or MessageLimits()).accepted


def accepted(*written: Any) -> list[int]:
    return read(*written).rows.tolist()


def rows(found: Accepted) -> list[tuple[int, list[Any], str | None]]:
    """Each accepted row: its place, what the leaves hold, its extra."""
    columns = [column.to_pylist() for column in found.columns]
    return [
        (place, list(cells), extra)
        for place, extra, *cells in zip(found.rows.tolist(), found.extra.to_pylist(), *columns)
    ]


def twice(name: str) -> str:
    """A valid report with a name that stands twice."""
    return json.dumps(report())[:-1] + f', "{name}": 0.5, "{name}": 0.5}}'


def test_valid_reports_are_accepted_with_their_columns() -> None:
    found = read(report(1, latency_ms=1), report(2, accuracy=1, custom_metrics={"b": 1, "a": 0.5}))
    leaves = {leaf.path: column.to_pylist() for leaf, column in zip(ROOT.leaves(), found.columns)}
    assert found.rows.tolist() == [0, 1]
    assert (leaves["latency_ms",], leaves["accuracy",]) == ([1.0, 120.0], [0.9, 1.0])
    assert leaves["custom_metrics",] == [None, [("a", 0.5), ("b", 1.0)]]
    assert leaves["execution_context", "available_cores"] == [8.0, 8.0]


@pytest.mark.parametrize(
    "wrong",
    [
        "{", "", "[]", "null", '{"a":1}{"b":2}', b'{"a":"\xff"}', '{"a":NaN}', "{}",
        twice("accuracy"), twice("odd"), json.dumps(report(odd={"x": 1}))[:-2] + ', "x": 2}}',
        report(accuracy=1.5), report(accuracy="1"), report(accuracy=True), report(accuracy=None),
        report(accuracy=...), report(network_bytes=1.5), report(task_id="x"), report(execution_context=None),
        report(execution_context=[CONTEXT]), report(execution_context=CONTEXT | {"hostname": None}),
        report(execution_context=CONTEXT | {"gpu_info": "text"}), report(custom_metrics={"k": None}),
        report(custom_metrics={"k": "1"}), report(custom_metrics=[1]), report(odd=json.loads("[" * 40 + "]" *
        40)), report(error_details=json.loads("[" * 40 + "]" * 40)),
    ],
)  # fmt: skip
def test_what_is_not_valid_is_never_accepted_and_costs_no_neighbour(wrong: Any) -> None:
    assert accepted(wrong) == []
    assert accepted(report(1), wrong, report(2, custom_metrics={"k": 1}), report(3)) == [0, 2, 3]


def test_a_foreign_name_in_every_row_stays_on_the_fast_path() -> None:
    found = read(
        *(
            report(i, zone=f"z{i % 3}", build={"id": i}, execution_context=CONTEXT | {"rack": i})
            for i in range(50)
        )
    )
    assert found.rows.tolist() == list(range(50))
    assert found.extra[4].as_py() == '{"build":{"id":4},"execution_context":{"rack":4},"zone":"z1"}'


def test_an_explicit_null_under_an_unknown_name_is_left_to_the_strict_reader() -> None:
    found = read(report(1, zone=None), report(2), report(3, zone="a"), report(4, note="x"))
    assert found.rows.tolist() == [1, 2, 3]
    assert found.extra.to_pylist() == [None, '{"zone":"a"}', '{"note":"x"}']


def test_a_value_that_may_lack_but_not_be_null_is_vouched_for_only_where_no_null_can_hide() -> None:
    root = compile_schema(
        {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "string"}}}
    )

    def accepted_by_it(*written: str) -> list[int]:
        return fast_reader.read_block(root, block(*written), MessageLimits()).accepted.rows.tolist()

    assert accepted_by_it("{}", '{"a":null}', '{"b":"x"}', '{"a":1,"b":"null"}') == [0, 2, 3]
    assert accepted_by_it('{"b":"null"}', '{"a":2}') == [1]


def test_values_of_varying_types_under_one_name_are_never_taken_for_each_other() -> None:
    values: list[Any] = [1, "x", {"y": 1}, [1], True, None, 1.5, "1"]
    found = read(*(report(i, zone=values[i % len(values)]) for i in range(64)))
    held = dict(zip(found.rows.tolist(), found.extra.to_pylist()))
    assert held
    assert held == {place: numbers.dumps({"zone": values[place % len(values)]}) for place in held}


@pytest.mark.parametrize("inside", ["top", "custom_metrics", "odd", "error_details", "execution_context"])
def test_of_names_without_end_only_the_frequent_ones_become_columns(inside: str) -> None:
    names = [{f"job_{i}_ms": 1} for i in range(2000)]
    odd = [report(i, **(own if inside == "top" else {inside: (CONTEXT if inside == "execution_context" else
    {}) | own}))
           for i, own in enumerate(names)]  # fmt: skip
    assert len(accepted(*odd)) < 256
    assert accepted(*odd[:5]) == [0, 1, 2, 3, 4]
    usual = [report(i, custom_metrics={"a": i}) for i in range(2000)]
    found = accepted(*usual, *odd[:100], *usual)
    foreign = inside in ("top", "execution_context")  # more names of no schema than are cut
    assert found == [*range(2000), *([] if foreign else range(2000, 2100)), *range(2100, 4100)]


def test_a_few_rows_of_many_names_are_left_to_the_strict_reader() -> None:
    wide = report(1, custom_metrics={f"k{i}": 1 for i in range(500)})
    usual = [report(i, custom_metrics={"a": i}) for i in range(1000)]
    assert accepted(*usual, wide, *usual) == [*range(1000), *range(1001, 2001)]


@pytest.mark.parametrize("name", ['k{}\\"ms', "k{}\\\\", "k{}\\u0041", "k{}é" + "x" * 99])
def test_names_are_counted_whatever_is_in_them(name: str) -> None:
    odd = [
        json.dumps(report(i))[:-1] + f',"custom_metrics":{{"{name.format(i)}" : 1}}}}' for i in range(1000)
    ]
    assert len(accepted(*odd)) < 256


def test_rows_that_break_the_parser_are_found_among_a_thousand() -> None:
    written: list[Any] = [report(i, zone=f"z{i % 5}", custom_metrics={"a": i}) for i in range(1000)]
    written[7], written[500], written[999] = "{", '{"a":1}{"b":2}', report(accuracy="x")
    found = read(*written)
    assert sorted(set(range(1000)) - set(found.rows.tolist())) == [7, 500, 999]


def test_rows_that_were_parsed_are_known_to_repeat_no_name() -> None:
    written = block(report(), report(accuracy=2), twice("accuracy"), "{")
    assert fast_reader.read_block(ROOT, written, MessageLimits()).distinct.tolist() == [
        True,
        True,
        False,
        False,
    ]


def test_a_row_that_is_oversize_is_not_parsed() -> None:
    length = len(payload(report()))
    assert read(report(), report(odd="x"), limits=MessageLimits(payload_bytes=length)).rows.tolist() == [0]


def test_no_row_is_accepted_under_a_limit_of_depth_that_the_schema_itself_exceeds() -> None:
    assert ROOT.depth == 3
    assert read(report(), limits=MessageLimits(depth=3)).rows.tolist() == [0]
    assert read(report(), limits=MessageLimits(depth=2)).rows.tolist() == []


def test_an_empty_block_has_the_columns_of_one_that_is_not() -> None:
    found = read()
    assert (len(found.rows), len(found.extra)) == (0, 0)
    assert [column.type for column in found.columns] == [column.type for column in read(report()).columns]


def test_a_slice_of_a_block_is_read_like_a_block_of_its_own() -> None:
    whole = block(*(report(i, zone=i) for i in range(10)), "{", report(10))
    assert rows(fast_reader.read_block(ROOT, whole[3:9], MessageLimits()).accepted) == rows(
        read(*(report(i, zone=i) for i in range(3, 9)))
    )
    assert fast_reader.read_block(ROOT, whole[9:], MessageLimits()).accepted.rows.tolist() == [0, 2]


POOL = [
    report(1),
    report(2, network_bytes=5, gpu_utilization=None, priority=None),
    report(3, custom_metrics={"a": 1}),
    report(4, custom_metrics={"b": 1.5, "a": -0.0}),
    report(5, custom_metrics={}),
    report(6, custom_metrics={"a": None}),
    report(7, error_details={"code": [1, {"a": "}"}]}),
    report(8, error_details="null"),
    report(9, error_details=None),
    report(10, zone=1),
    report(11, zone="1"),
    report(12, zone=None),
    report(13, zone={"y": [None, 2**70]}),
    report(
        14, execution_context=CONTEXT | {"rack": 1, "gpu_info": {"x": None}, "network_interfaces": ["a", "b"]}
    ),
    report(15, execution_context=CONTEXT | {"network_interfaces": ["a", None]}),
    report(16, latency_ms="1"),
    report(17, accuracy=None),
    json.dumps(report(18), indent=1).replace("\n", " "),
    json.dumps(dict(reversed(report(19, zone=2).items()))),
    json.dumps(report(20, zone='\\u00e9"')).replace("accuracy", "\\u0061ccuracy"),
    twice("zone"),
    "{",
    '{"a":1}{"a":2}',
    b'{"a":"\xff"}',
    "",
]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(range(len(POOL))), min_size=1, max_size=12), st.data())
def test_what_stands_beside_a_row_does_not_change_what_it_holds(
    places: list[int], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(places) - 1))
    end = data.draw(st.integers(start + 1, len(places)))
    whole = block(*(POOL[place] for place in places))
    for place, cells, extra in rows(fast_reader.read_block(ROOT, whole[start:end], MessageLimits()).accepted):
        alone = read(POOL[places[start + place]])
        assert rows(alone) == [(0, cells, extra)]


@pytest.mark.parametrize("written", POOL)
def test_a_row_that_is_accepted_holds_what_the_strict_reader_finds(written: Any) -> None:
    for _, cells, extra in rows(read(written)):
        document = strict_reader.decode(payload(written), MessageLimits())
        assert isinstance(document, dict)
        columns, failing = strict_reader.read_columns(ROOT, [document])
        assert failing.tolist() == [-1]
        assert [column[0].as_py() for column in columns] == cells
        assert strict_reader.write_extra(ROOT, document) == extra


def test_many_of_the_pool_are_accepted() -> None:
    assert len(np.concatenate([read(each).rows for each in POOL])) > len(POOL) // 3
