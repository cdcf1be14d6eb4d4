"""A report that is no JSON keeps its own bytes, and its neighbours theirs."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.relay.broken_page import split_reports
from pipelines.relay.errors import Layer4Unavailable
from pipelines.relay.export import parse_broken_page, parse_page
from pipelines.relay.late import read_recorded_at

BROKEN = {
    "a number that JSON has not": b'{"task_id": "x", "v": NaN, "w": [{"a": 1}, {"a": -Infinity}, {"a": 2}]}',
    "a bare word": b'{"task_id": "x", "v": None, "w": {"a": 1}}',
    "a quote too few at the end": b'{"task_id": "x, "v": 1}',
    "a quote too few at the start": b'{"task_id": x", "v": "y"}',
    "the last quote missing": b'{"task_id": "x}',
    "a brace too few": b'{"task_id": "x", "v": {"a": 1}',
    "a brace too many": b'{"task_id": "x"}}',
    "a bracket too few": b'{"task_id": "x", "v": [1, 2}',
    "a bracket too many": b'{"task_id": "x", "v": 1]}',
    "cut in a text": b'{"task_id": "x',
    "cut in a list": b'{"task_id": "x", "v": [1',
    "cut after a name": b'{"task_id": ',
    "a comma too many": b'{"task_id": "x",}',
    "no UTF-8": b'{"task_id": "\xff\xfe"}',
    "a line break in a text": b'{"task_id": "a\nb"}',
    "a bad escape": b'{"task_id": "\\q"}',
    "a word only": b"oops",
    "brackets in brackets": b'{"task_id": %b}' % (b"[" * 20_000 + b"]" * 20_000),
    "a digit too many": b'{"task_id": %b}' % (b"9" * 5000),
}
GOOD = [
    b'{"task_id" : "1",  "v": 1.50, "w": [{"a": 1}, {"a": 2}]}',
    b'{"task_id": "2", "note": "a, {\\"b\\": [}", "u": "\\\\"}',
    b'{"note": ", {", "task_id": "3"}',
    b"7",
    b'{"task_id": "4"}',
]


def make_body(reports: list[bytes], separator: bytes = b", ") -> bytes:
    pagination = b'{"page": 1, "per_page": 9, "total_pages": 1, "total_count": 9}'
    return b'{"timestamp": "t", "kpi_reports": [%b], "pagination": %b}' % (
        separator.join(reports),
        pagination,
    )


@pytest.mark.parametrize("separator", [b",", b", ", b"\n,\n  "])
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_report_keeps_its_bytes_and_costs_its_neighbours_nothing(
    broken: bytes, separator: bytes
) -> None:
    objects = [each for each in GOOD if each[:1] == b"{"]
    for place in range(len(objects) + 1):
        reports = [*objects[:place], broken, *objects[place:]]
        assert split_reports(separator.join(reports)) == [each.strip() for each in reports]


@pytest.mark.parametrize("first", BROKEN.values(), ids=BROKEN)
def test_two_broken_reports_side_by_side_are_two(first: bytes) -> None:
    for second in BROKEN.values():
        if second[:1] == b"{":
            reports = [GOOD[0], first, second, GOOD[-1]]
            assert split_reports(b", ".join(reports)) == [each.strip() for each in reports]


@given(st.lists(st.dictionaries(st.text(), st.recursive(st.floats() | st.text(), st.lists)), max_size=5))
def test_reports_that_are_json_are_split_as_json_says(found: list[object]) -> None:
    reports = [json.dumps(each, ensure_ascii=False).encode() for each in found]
    assert split_reports(b" , ".join(reports)) == reports


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_any_broken_report_of_a_page_can_be_taken(broken: bytes) -> None:
    page = parse_broken_page(make_body([GOOD[0], broken, GOOD[4]]))
    assert page.reports == [GOOD[0], broken.strip(), GOOD[4]]
    assert page.malformed <= {page.digests[1]}
    assert read_recorded_at(broken) is None


def test_a_broken_page_says_the_same_about_itself_and_which_reports_are_no_json() -> None:
    page = parse_broken_page(make_body([GOOD[0], BROKEN["a bare word"], GOOD[4]]))
    assert page.reports == [GOOD[0], BROKEN["a bare word"], GOOD[4]]
    assert (page.per_page, page.total) == (9, 9)
    assert page.malformed == {page.digests[1]}
    assert parse_broken_page(make_body(GOOD)) == parse_page(make_body(GOOD))


@pytest.mark.parametrize("cut", [1, 2, 20, 65, 70, 100])
def test_a_page_that_is_not_complete_has_no_reports(cut: int) -> None:
    with pytest.raises(Layer4Unavailable, match="cannot be read"):
        parse_broken_page(make_body([GOOD[0], BROKEN["a bare word"], GOOD[0]])[:-cut])


def test_a_comma_without_a_report_is_none() -> None:
    assert split_reports(b' {"a": 1}, , {"b": 2} , ') == [b'{"a": 1}', b'{"b": 2}']
