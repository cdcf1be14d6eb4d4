"""The vectorised formats, and their twins for one string."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.readers.formats import (
    FORMATS,
    is_encoded,
    is_uuid,
    make_format_checker,
    parse_date_time,
    parse_uuid,
)

MOMENT = datetime(2024, 2, 29, 21, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-02-29T21:59:59Z", MOMENT),
        ("2024-02-29t21:59:59z", MOMENT),
        ("2024-02-29T23:59:59+02:00", MOMENT),
        ("2024-03-01T00:29:59+02:30", MOMENT),
        ("2024-02-28T22:00:59-23:59", datetime(2024, 2, 29, 21, 59, 59, tzinfo=UTC)),
        ("2024-02-29T21:59:59.1Z", MOMENT.replace(microsecond=100_000)),
        ("2024-02-29T21:59:59.123456789Z", MOMENT.replace(microsecond=123_456)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999999Z", datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    ],
)
def test_a_date_time_is_read_to_the_microsecond_with_its_offset(text: str, moment: datetime) -> None:
    assert parse_date_time(pa.array([text])).to_pylist() == [moment]


@pytest.mark.parametrize(
    "text",
    [
        "2023-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2024-13-01T00:00:00Z",
        "2024-00-01T00:00:00Z",
        "2024-01-32T00:00:00Z",
        "2024-01-01T24:00:00Z",
        "2024-01-01T00:60:00Z",
        "2024-01-01T00:00:60Z",
        "2024-01-01T00:00:00",
        "2024-01-01T00:00:00.Z",
        "2024-01-01T00:00:00.1234567890Z",
        "2024-01-01T00:00:00+0100",
        "2024-01-01T00:00:00+24:00",
        "2024-01-01T00:00:00+01:60",
        "2024-01-01T00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "2024-1-01T00:00:00Z",
        "2024-01-01T00:00:0xZ",
        "2024-01-01",
        "x",
    ],
)
def test_what_is_no_date_time_is_null(text: str) -> None:
    assert parse_date_time(pa.array([text, None, ""])).null_count == 3


def test_slices_and_empty_arrays_are_read_as_they_stand() -> None:
    texts = pa.array(["x", "2024-02-29T21:59:59Z", None, "2024-02-29T21:59:59.5Z"])
    assert parse_date_time(texts[1:]).to_pylist() == [MOMENT, None, MOMENT.replace(microsecond=500_000)]
    assert len(parse_date_time(texts[:0])) == len(parse_uuid(texts[:0])[0]) == 0


@given(st.uuids())
def test_a_uuid_is_its_two_halves_in_either_case(uuid: st.SearchStrategy) -> None:
    words, valid = parse_uuid(pa.array([str(uuid), str(uuid).upper()]))
    assert valid.all()
    assert [(int(high) << 64) | int(low) for high, low in words] == [uuid.int] * 2


def test_texts_shorter_than_a_format_are_refused_beside_those_that_are_not() -> None:
    uuid, moment = "01234567-89AB-cdef-0123-456789abcdef", "2025-01-01T00:00:00Z"
    for texts in (["x"], ["", None], [uuid, "x"], ["x", uuid, uuid[1:]], [None, uuid]):
        assert parse_uuid(pa.array(texts, pa.string()))[1].tolist() == [text == uuid for text in texts]
    for texts in (["2"], ["", None], [moment, "2"], ["2", moment, moment[1:]], [None, moment]):
        assert parse_date_time(pa.array(texts, pa.string())).is_valid().to_pylist() == [
            text == moment for text in texts
        ]


def test_what_is_no_uuid_is_refused() -> None:
    good = "12345678-1234-1234-1234-123456789abc"
    texts = [
        good[:-1],
        good + "0",
        good.replace("-", ""),
        good.replace("a", "g"),
        f"{{{good}}}",
        "",
        None,
        good.replace("-", "é", 1),
    ]
    np.testing.assert_array_equal(is_uuid(pa.array(texts)), [False] * len(texts))


def test_base64_is_padded_and_on_one_line():
    good = ["", "QQ==", "QUI=", "QUJD", "+/+/QQ=="]
    assert is_encoded(pa.array(good)).all()
    wrong = ["Q", "QQ", "QQ=", "QUI", "QUJDQ", "=", "QQ==QQ==", "QU JD", "QUJD\n", "-_-_", "QUJÄ"]
    assert not is_encoded(pa.array(wrong)).any()


@given(
    st.text(alphabet="0123456789-:TtZz.+ é", max_size=30)
    | st.from_regex(
        r"[0-9]{4}-[0-1][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9]"
        r"(\.[0-9]{0,10})?([Zz]|[+-][0-2][0-9]:[0-6][0-9])",
        fullmatch=True,
    )
    | st.from_regex(r"([A-Za-z0-9+/]{4})*[A-Za-z0-9+/]{0,4}={0,2}", fullmatch=True)
    | st.from_regex(r"[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-gA-G]{12}", fullmatch=True)
)
def test_the_check_of_one_string_agrees_with_that_of_many(text: str) -> None:
    checker = make_format_checker()
    for name, check in FORMATS.items():
        assert checker.conforms(text, name) == bool(check(pa.array([text]))[0])
