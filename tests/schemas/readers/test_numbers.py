"""Numbers by their value: one spelling for each, whatever the digits, the exponent and the zeros it was
written with."""

import json
import re
from fractions import Fraction

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.readers.numbers import dumps, loads
from schemas.registry import load
from tests.builders import NOON, messages, report
from transforms.validation.validate import MessageRules, judge_block

SCHEMA = load("kpi_report")


@pytest.mark.parametrize(
    ("spellings", "text"),
    [
        (["1", "1.0", "1e0", "10e-1", "0.1E1", "1.000e+00"], "1"),
        (["100", "1e2", "100.0", "1E+2"], "100"),
        (["0", "-0", "-0.0", "0e5", "-0e-9", "0.00"], "0"),
        (["56.0", "56"], "56"),
        (["1e-7", "0.0000001", "0.10e-6"], "1e-7"),
        (["9007199254740993", "9007199254740993.0", "9.007199254740993e15"], "9007199254740993"),
        (["9007199254740992.0", "9007199254740992"], "9007199254740992"),
        (["12345678901234567890", "12345678901234567890.0"], "12345678901234567890"),
        (["1" + "0" * 30, "1e30", "1.0E+30"], "1e+30"),
        (["0.1", "0.10", "1e-1"], "0.1"),
        (["0.1000000000000000055511151231257827"], "1.000000000000000055511151231257827e-1"),
        (["1e-400", "0.1e-399"], "1e-400"),
    ],
)
def test_equal_numbers_have_one_text(spellings: list[str], text: str) -> None:
    assert {dumps(loads(spelling.encode())) for spelling in spellings} == {text}
    assert {dumps(loads(f'{{"b": [{each}], "a": {each}}}'.encode())) for each in spellings} == {
        f'{{"a":{text},"b":[{text}]}}'
    }


@pytest.mark.parametrize("number", ["1e400", "-1e309", "1" * 400])
def test_a_number_beyond_float64_is_an_error(number: str) -> None:
    with pytest.raises(ValueError, match=r"infinity|beyond"):
        loads(f'{{"a": {number}, "b": 1.0}}'.encode())


def test_digits_in_a_text_are_no_number() -> None:
    text = '{"a":": 1.0, -0, 1e5, 1.2.3.4.5.6.7.8.9.10, 99999999999999999999"}'
    assert dumps(loads(text.encode())) == text


NUMBERS = st.builds(
    lambda sign, whole, fraction, exponent: sign + whole + fraction + exponent,
    st.sampled_from(["", "-"]),
    st.sampled_from(["0", "1", "10", "100", "9007199254740993", "123456789012345678"])
    | st.integers(0, 10**22).map(str),
    st.sampled_from(["", ".0", ".5", ".50", ".000", ".1", ".10000000000000000", ".10000000000000001"]),
    st.sampled_from(["", "", "e0", "E+2", "e-2", "e-17", "e21", "e22", "e-23", "e280"]),
)


def respelt(number: str, zeros: int) -> str:
    """The same value with the point moved and more zeros."""
    mantissa, _, exponent = number.lower().partition("e")
    whole, _, fraction = mantissa.partition(".")
    return f"{whole}{fraction}{'0' * zeros}e{int(exponent or 0) - len(fraction) - zeros}".replace(
        "e", ".0e" if zeros % 2 else "e"
    )


def is_json(number: str) -> bool:
    return not re.match("-?0[0-9]", number)


@settings(max_examples=400, deadline=None)
@given(st.lists(NUMBERS, min_size=2, max_size=6), st.integers(0, 5))
@example(["0.5", "5e-1"], 3)
def test_two_numbers_share_a_text_exactly_when_they_are_equal(numbers: list[str], zeros: int) -> None:
    moved = [each for each in (respelt(number, zeros) for number in numbers) if is_json(each)]
    texts = [(Fraction(each), dumps(loads(each.encode()))) for each in numbers + moved]
    for value, text in texts:
        assert Fraction(text) == value
        assert all((value == other) == (text == its) for other, its in texts)


def ids(spellings: list[str]) -> list[str]:
    """The report_id of a report for each spelling, which stands wherever any JSON may stand."""
    written = [
        json.dumps(report(odd="N", error_details={"a": "N"}) | {"deep": [{"x": "N"}]}).replace('"N"', each)
        for each in spellings
    ]
    reports, _ = judge_block(messages(written, NOON), SCHEMA, MessageRules())
    assert reports.num_rows == len(spellings)
    order = pa.compute.sort_indices(reports["message_id"])
    return reports["report_id"].take(order).to_pylist()


@settings(max_examples=60, deadline=None)
@given(st.lists(NUMBERS, min_size=2, max_size=8))
def test_two_reports_are_one_exactly_when_their_numbers_are_equal(numbers: list[str]) -> None:
    found = list(zip(map(Fraction, numbers), ids(numbers)))
    assert all((value == other) == (one == two) for value, one in found for other, two in found)


@settings(max_examples=60, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=8))
def test_a_number_of_a_described_field_is_its_float_without_a_sign_of_zero(numbers: list[str]) -> None:
    written = [json.dumps(report(custom_metrics={"a": "N"})).replace('"N"', each) for each in numbers]
    awkward = [each.replace("{", '{"\\u006fdd": null, ', 1) for each in written]
    for lines in (written, awkward):
        reports, _ = judge_block(messages(lines, NOON), SCHEMA, MessageRules())
        found = dict(zip(reports["message_id"].to_pylist(), reports["custom_metrics"].to_pylist()))
        assert [repr(found[f"m{place}"][0][1]) for place in range(len(numbers))] == [
            repr(float(each) + 0.0) for each in numbers
        ]


def test_minus_zero_is_zero_in_either_reader() -> None:
    lines = [json.dumps(report(accuracy="N")).replace('"N"', each) for each in ("-0", "-0.0", "-0e1", "0")]
    awkward = [each.replace("{", '{"\\u006fdd": null, ', 1) for each in lines]
    for written in (lines, awkward):
        reports, _ = judge_block(messages(written, NOON), SCHEMA, MessageRules())
        assert [repr(value) for value in reports["accuracy"].to_pylist()] == ["0.0"] * 4
        assert len(set(reports["report_id"].to_pylist())) == 1
