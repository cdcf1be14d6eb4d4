"""The rule of one line: what is an envelope, what is a bare report, what is an envelope that breaks the
rule."""

import json

import pytest

from transforms.envelopes.envelope_lines import NO_DATA, Envelope, is_blank, read_line, write_entry

REPORT = b'{"task_id": "t", "latency_ms": 1.50}'


@pytest.mark.parametrize(
    "line",
    [
        b'{"source":"s","message_id":"1-0","received_at":"2026-01-01T00:00:00Z","data":%b}',
        b'{ "source": "s", "message_id": "1-0", "received_at": "2026-01-01T00:00:00Z", "data": %b}',
        b'{"data": %b, "received_at": "2026-01-01T00:00:00Z", "message_id": "1-0", "source": "s"}',
        b'\t{ "message_id"\t:"1-0", "data":  %b , "source":"s","received_at":"2026-01-01T00:00:00Z"} \r',
        b'{"source":"s","mess\\u0061ge_id":"1-0","received_at":"2026-01-01T00:00:00Z","data":%b}',
        b'{"source":"\\u0073","message_id":"1-0","received_at":"2026-01-01T00:00:00\\u005a","data":%b}',
    ],
)
def test_an_object_with_exactly_the_keys_is_an_envelope_however_it_is_written(line: bytes) -> None:
    assert read_line(line % REPORT) == Envelope("s", "1-0", "2026-01-01T00:00:00Z", REPORT)


def test_the_source_may_be_left_out_and_the_time_be_null() -> None:
    assert read_line(b'{"message_id":"1-0","received_at":null,"data":{}}') == Envelope(
        "archive", "1-0", None, b"{}"
    )


def test_the_bytes_of_data_are_kept_as_they_are() -> None:
    data = b'{"a": 1e400, "a":NaN,"b":[1 ,{"}":"]"}],"\xff":"\\ud800"}'
    for line in (
        b'{"message_id":"m","received_at":null,"data":%b}',
        b'{"data":%b,"message_id":"m","received_at":null}',
    ):
        assert read_line(line % data) == Envelope(message_id="m", data=data)


@pytest.mark.parametrize("data", [b"{", b'{"a":{"b":1}', b'{"a":1} {"b":2}', b"{]}"])
def test_a_line_that_begins_as_envelopes_do_is_one_even_if_its_data_is_no_json(data: bytes) -> None:
    assert read_line(b'{"message_id":"m","received_at":null,"data":%b}' % data) == Envelope(
        message_id="m", data=data
    )


@pytest.mark.parametrize(
    "octets", [b'{"a":1}', b"no JSON", b"", b"two\nlines\\", "über".encode(), b"\xff\x00\xc3"]
)
def test_data_as_a_string_gives_back_the_bytes_that_it_was_written_from(octets: bytes) -> None:
    text = json.dumps(octets.decode(errors="surrogateescape")).encode()
    assert read_line(b'{"message_id":"m","received_at":null,"data":%b}' % text) == Envelope(
        message_id="m", data=octets
    )


def test_raw_bytes_that_are_not_utf_8_pass_through_a_string() -> None:
    assert read_line(b'{"message_id":"m","received_at":null,"data":"a\xffb"}') == Envelope(
        message_id="m", data=b"a\xffb"
    )


@pytest.mark.parametrize(
    "line",
    [
        REPORT,
        b"",
        b"{}",
        b"}",
        b"[1]",
        b"\x00\xff",
        b"null",
        b'{"message_id":"m","received_at":null}',
        b'{"data":{"a":{},"message_id":"m","received_at":null}',
        b'{"message_id":"m","received_at":null,"data":1}}',
        b'{"data":{},"message_id":"m","received_at":null,"more":1}',
        b'{"message_id":"m","received_at":null,"data":{"a":1},"more":{}}',
        b'{"data":{},"message_id":"m","received_at":null},{}',
        b'{"data":{},"message_id":"m","received_at":null,}',
        b'{"data":{},"message_id":"m","received_at":null,source:"s"}',
        b'{"data":{},"message_id","m","received_at":null}',
        b'[{"data":{},"message_id":"m","received_at":null}]',
        b'{"x":{"data":{},"message_id":"m","received_at":null}}',
        b'{"data":{},"message_id":"m","received_at":"}',
    ],
)
def test_any_other_line_is_bare(line: bytes) -> None:
    assert read_line(line) is None


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        (b'"source":null,"message_id":"m","received_at":null,"data":{}', "source must be a string"),
        (b'"source":["s"],"message_id":"m","received_at":null,"data":{}', "source must be a string"),
        (b'"message_id":17,"received_at":null,"data":{}', "message_id must be a string"),
        (b'"message_id":"\\ud800","received_at":null,"data":{}', "message_id must be a string"),
        (
            b'"message_id":"m","received_at":1700000000,"data":{}',
            "received_at must be an RFC 3339 date-time or null",
        ),
        (b'"message_id":"m","received_at":null,"data":[1]', "data must be an object or a string"),
        (b'"message_id":"m","received_at":null,"data":"\\ud800"', "data must be an object or a string"),
        (b'"message_id":"m","received_at":null,"data":"\\x"', "data must be an object or a string"),
    ],
)
def test_an_envelope_with_a_wrong_type_says_which(members: bytes, problem: str) -> None:
    assert read_line(b"{%b}" % members) == Envelope(problem=problem)


def test_only_json_whitespace_makes_a_line_blank() -> None:
    assert [is_blank(line) for line in (b"", b" \t\r", b"\x0b", b"\x00", b" x")] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "text", [b'"' + b'\\"' * 300_000, b"[" * 300_000, b'{"a":' * 100_000, b'"",' * 300_000]
)
def test_a_long_line_that_is_no_json_is_decided_in_one_pass(text: bytes) -> None:
    assert read_line(b'{"data":%b}' % text) is None


@pytest.mark.parametrize("octets", [b'{"a":1}', b"\xff\x00\xc3\n", "\ud800 ü".encode(errors="surrogatepass")])
def test_the_line_of_an_entry_holds_its_data_to_the_byte(octets: bytes) -> None:
    line = write_entry("ü", "1761134400007-3", 1_761_134_400_007, {b"more": b"1", b"data": octets})
    assert read_line(line) == Envelope("ü", "1761134400007-3", "2025-10-22T12:00:00.007000Z", octets)


def test_the_line_of_an_entry_without_data_says_what_it_had_and_whose_it_is() -> None:
    line = write_entry("s", "1-0", 1, {b"a": b"\xff", b'"': b""})
    assert json.loads(line)["fields"] == {"a": "\udcff", '"': ""}
    assert read_line(line) == Envelope("s", "1-0", "1970-01-01T00:00:00.001000Z", problem=NO_DATA)


def test_an_entry_of_a_time_after_every_calendar_has_none() -> None:
    assert read_line(write_entry("s", f"{2**63}-0", 2**63, {b"data": b"{}"})) == Envelope(
        "s", f"{2**63}-0", None, b"{}"
    )
