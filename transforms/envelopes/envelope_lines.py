"""One line of an archive: the rule that tells an envelope, which says where its report came from, from a bare
report.

An envelope is a JSON object with exactly the keys `message_id`, `received_at`, `data` and, if it likes,
`source` and `encoding`. Its `data` is the report: an object, whose bytes are kept as they are, or a JSON
string that holds the report's bytes (an escape `\udc80` to `\udcff` is one byte that is not UTF-8, as in
Python's `surrogateescape`). With `encoding`, which is `protobuf`, it is a string with the report's bytes in
base64. An envelope is recognised from outside; what its `data` holds is for validation to judge.

An entry of a stream without the field `data` is archived with all it has under `fields`, in place of `data`:
such a line is rejected (NO_DATA), under the source and the id that it names.
"""

import json
import re
from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import cycle, pairwise
from typing import NamedTuple

import orjson

from transforms.core.message_encodings import PROTOBUF

ARCHIVE = "archive"
"""The source of a message that names none."""

_TEXT = r"[ !#-\[\]-~]"
CANONICAL = (
    rf'^\{{ ?"(?:source": ?"(?P<source>{_TEXT}+)", ?")?message_id": ?"(?P<message_id>{_TEXT}*)", ?'
    rf'"received_at": ?(?:"(?P<received_at>{_TEXT}+)"|null), ?'
    rf'(?:"encoding": ?"(?P<encoding>{PROTOBUF})", ?)?"data": ?(?P<data>[{{"])'
)
"""How envelopes are written as a rule: keys in order, printable ASCII without escapes, after a mark one space
or none.

A pattern for both RE2 and `re`; the key's quote stands before the optional source, which lets RE2 decide at
each byte.
"""

ONE_CANONICAL = re.compile(CANONICAL.encode())

WRONG_TIME = "received_at must be an RFC 3339 date-time or null"
NO_DATA = "the entry has no field data"
"""What is wrong with an entry of a stream that has other fields only."""

_STRING = rb'"(?:[^"\\]+|\\.)*+"?'
_OUTER_MARK = re.compile(rb'(?:[^][{}:,"]+|%b)*+[][{}:,]' % _STRING, re.DOTALL)
_INNER_MARK = re.compile(rb'(?:[^][{}"]+|%b)*+[][{}]' % _STRING, re.DOTALL)
SPACES = b" \t\r"
"""What may be between the tokens of a line."""
_KEYS = {"message_id", "received_at", "data"}
_KEYS_WITH_ENCODING = _KEYS | {"encoding"}
_KEYS_WITHOUT_DATA = {"message_id", "received_at", "fields"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Envelope(NamedTuple):
    """What an envelope says or, where `problem` is not empty, what is wrong with it. `received_at` is not
    parsed yet. `encoding`: that of `data`, None for JSON.

    With the problem NO_DATA it says where the entry came from all the same.
    """

    source: str = ARCHIVE
    message_id: str = ""
    received_at: str | None = None
    data: bytes = b""
    problem: str = ""
    encoding: str | None = None


def write_entry(source: str, message_id: str, received_ms: int, fields: Mapping[bytes, bytes]) -> bytes:
    """The line, without a newline, that an archive holds for an entry of a stream, received at these
    milliseconds since 1970.

    Its `data` is a string, or its `fields` are, for an entry that has no field `data`. A time after the year
    9999 is null.
    """
    received_at = _format_time(received_ms)
    if b"data" in fields:
        return write_envelope(source, message_id, received_at, fields[b"data"])
    texts = {_text(name): _text(value) for name, value in fields.items()}
    return _encode({"source": source, "message_id": message_id, "received_at": received_at, "fields": texts})


def write_envelope(
    source: str, message_id: str, received_at: str | None, data: bytes, encoding: str | None = None
) -> bytes:
    """An envelope's line, without a newline, for a report's bytes; `received_at` in RFC 3339."""
    origin: dict[str, object] = {"source": source, "message_id": message_id, "received_at": received_at}
    if encoding is None:
        return _encode(origin | {"data": _text(data)})
    return _encode(origin | {"encoding": encoding, "data": b64encode(data).decode()})


def _encode(envelope: dict[str, object]) -> bytes:
    try:
        return orjson.dumps(envelope)
    except orjson.JSONEncodeError:  # it cannot write the escapes of bytes that are not UTF-8
        return json.dumps(envelope, separators=(",", ":")).encode()


def _text(octets: bytes) -> str:
    return octets.decode(errors="surrogateescape")


def _format_time(millis: int) -> str | None:
    try:
        moment = _EPOCH + timedelta(milliseconds=millis)
    except OverflowError:
        return None
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def is_blank(line: bytes) -> bool:
    """Whether a line holds nothing but spaces, tabs and carriage returns."""
    return not line.strip(SPACES)


def read_line(line: bytes) -> Envelope | None:
    """The envelope that a line (without its newline) is, or None where it is a bare report, or anything else.

    A line is one if its outermost object has exactly the keys, in any order. Where no such object can be
    seen, since brackets or quotes do not match, a line that begins as CANONICAL says, with an object for
    data, and ends in `}` is one too: what is between is its data, which is no JSON.
    """
    line = line.strip(SPACES)
    members = _split_members(line)
    if members is None:
        return _read_broken(line)
    if members.keys() - {"source"} not in (_KEYS, _KEYS_WITH_ENCODING, _KEYS_WITHOUT_DATA):
        return None
    return _make_envelope(members)


def _read_broken(line: bytes) -> Envelope | None:
    head = ONE_CANONICAL.match(line)
    if not (head and head["data"] == b"{" and head["encoding"] is None and line.endswith(b"}")):
        return None
    source, message_id, received_at = (None if text is None else text.decode() for text in head.groups()[:3])
    return Envelope(source or ARCHIVE, message_id or "", received_at, line[head.start("data") : -1])


def read_string(text: bytes) -> str | None:
    """The string that a JSON text is; None where it is anything else."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, str) else None


def _make_envelope(members: dict[str | None, bytes]) -> Envelope:
    """The envelope whose members have these JSON texts."""
    source = read_string(members.get("source", b'"archive"'))
    if source is None:
        return Envelope(problem="source must be a string")
    message_id = read_string(members["message_id"])
    if message_id is None:
        return Envelope(problem="message_id must be a string")
    received_at = read_string(members["received_at"])
    if received_at is None and members["received_at"] != b"null":
        return Envelope(problem=WRONG_TIME)
    if "fields" in members:
        wrong = NO_DATA if members["fields"].startswith(b"{") else "fields must be an object"
        return Envelope(source, message_id, received_at, problem=wrong)
    if "encoding" in members:
        return _read_encoded(Envelope(source, message_id, received_at), members)
    data = read_data(members["data"])
    if data is None:
        return Envelope(problem="data must be an object or a string")
    return Envelope(source, message_id, received_at, data)


def _read_encoded(origin: Envelope, members: dict[str | None, bytes]) -> Envelope:
    if read_string(members["encoding"]) != PROTOBUF:
        return Envelope(problem=f"encoding must be {PROTOBUF}, or left out of an envelope of JSON")
    text = read_string(members["data"])
    data = None if text is None else decode_octets(text.encode())
    if data is None:
        return Envelope(problem=f"data must be a string in base64, since encoding is {PROTOBUF}")
    return origin._replace(data=data, encoding=PROTOBUF)


def decode_octets(text: bytes) -> bytes | None:
    """The bytes that a text in base64 stands for; None where it is anything else."""
    if len(text) % 4:  # Python takes some of these
        return None
    try:
        return a2b_base64(text, strict_mode=True) if text else b""
    except ValueError:
        return None


def _split_members(line: bytes) -> dict[str | None, bytes] | None:
    """The JSON text of each member of the object `line`, seen from outside; None where it is no object.

    A member whose name is not a string is under None; of two with one name the last counts.
    """
    marks = _find_outer_marks(line)
    if marks is None or any(line[at] != mark for at, mark in zip(marks, cycle(b":,"))) or len(marks) % 2 == 0:
        return None
    texts = [line[before + 1 : after].strip(SPACES) for before, after in pairwise([0, *marks, len(line) - 1])]
    return {read_string(name): value for name, value in zip(texts[::2], texts[1::2])}


def _find_outer_marks(line: bytes) -> list[int] | None:
    """Where the colons and commas of the object `line` itself are, not those of what it holds; None where it
    is no object."""
    if not (line.startswith(b"{") and line.endswith(b"}")):
        return None
    marks: list[int] = []
    at = depth = 1
    while depth and (step := (_OUTER_MARK if depth == 1 else _INNER_MARK).match(line, at)):
        at = step.end()
        mark = line[at - 1]
        if mark in b":,":
            marks.append(at - 1)
        else:
            depth += 1 if mark in b"{[" else -1
    return marks if depth == 0 and at == len(line) else None


def read_data(text: bytes) -> bytes | None:
    """The report's bytes from the JSON text of `data`; None where that is neither an object nor a string."""
    if text.startswith(b"{"):
        return text
    if not text.startswith(b'"'):
        return None
    string = read_string(text)
    try:
        if string is None:
            string = json.loads(text.decode(errors="surrogateescape"))
        return string.encode(errors="surrogateescape")
    except ValueError:
        return None
