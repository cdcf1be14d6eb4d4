"""Lines longer than any line that holds a payload of the allowed size: they are skipped, and never in memory
whole.

Such a line is `oversize`, and an excerpt is all that is kept of it. It is an envelope if its first KEPT_BYTES
name all keys of one, `data` (or `fields`) as the last, and if it ends behind one string or, where an object
begins there, in a brace. Else it is a bare line. Its id, time and excerpt are those that a shorter line of
the kind has, which is decoded whole.
"""

import hashlib
import re
from typing import NamedTuple, SupportsInt

import orjson
import pyarrow as pa

from schemas.kinds import find_kind
from schemas.readers.formats import parse_date_time
from schemas.tables import TIME
from transforms.core.excerpt import KEPT_BYTES, Excerpt
from transforms.core.message_encodings import ENCODING, PROTOBUF
from transforms.core.record_batches import append_columns
from transforms.envelopes.envelope_lines import ARCHIVE, SPACES, decode_octets, is_blank, read_data
from transforms.sources.archives.envelope_chunks import REJECTED

ESCAPE = 6
"""The most bytes of a line that one byte of a payload takes: as `\\u0000` does."""

_NAMES = {"message_id", "received_at"}
_SPACE, _TEXT = r"[ \t\r]*+", r'"(?:[^"\\]++|\\.)*+"'
_HEAD = re.compile(
    rf"""{_SPACE}\{{(?P<members>(?:{_SPACE}"(?:source|message_id|received_at|encoding)"{_SPACE}:{_SPACE}(?:{_TEXT}|null){_SPACE},)+)"""
    rf"""{_SPACE}"(?P<name>data|fields)"{_SPACE}:{_SPACE}(?P<mark>["{{])""".encode()
)
_WHOLE_ESCAPES = re.compile(
    rb'(?:[^"\\]++|\\u(?:[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4}|(?![dD][89abAB])[0-9a-fA-F]{4})|\\[^u])*+'
)
"""A JSON string up to its end, or up to an escape or a pair of surrogates that is wrong, or not there to its
end."""
_LONGEST_ESCAPE = 12


def compute_longest_line(payload_bytes: int, begin: bytes = b"") -> int:
    """How long a line may be, in bytes, to be read whole: the data of a longer one is more than
    `payload_bytes`.

    `begin` is what is known of the line: an envelope from a source whose messages may be longer may be longer
    too.
    """
    origin, _ = _parse_head(begin)
    if origin is not None:
        payload_bytes = find_kind(origin.source).limit_payload(payload_bytes)
    return ESCAPE * payload_bytes + 2 * KEPT_BYTES


class _Origin(NamedTuple):
    """What an envelope says of its message, `received_at` as timestamp[us, UTC][1], and which key its payload
    is."""

    source: str
    message_id: str
    received_at: pa.Array
    name: bytes
    encoding: str | None = None


class _Object:
    """An envelope's data from the brace with which it begins, up to the brace that ends the line."""

    def __init__(self) -> None:
        self.excerpt, self._tail = Excerpt(), b""

    def add(self, piece: bytes) -> None:
        text = self._tail + piece
        end = text.rfind(b"}")
        if end < 0 or len(text) - end > KEPT_BYTES:
            end = len(text)
        self.excerpt.add(text[:end])
        self._tail = text[end:]

    def is_whole(self) -> bool:
        return self._tail.rstrip(SPACES) == b"}"


class _String:
    """An envelope's data from the quote with which it begins: what the string unescapes to."""

    def __init__(self) -> None:
        self.excerpt, self._rest = Excerpt(), b""
        self._ended = self._broken = False

    def add(self, piece: bytes) -> None:
        text = self._rest + piece
        if not (self._ended or self._broken):
            match = _WHOLE_ESCAPES.match(text, 1)
            end = match.end() if match else 1
            self._ended = text[end : end + 1] == b'"'
            octets = read_data(text[:end] + b'"')
            self._broken = octets is None or (not self._ended and len(text) - end >= _LONGEST_ESCAPE)
            self._keep(octets or b"")
            text = b'"' + text[end + self._ended :]
        self._broken |= len(text) > KEPT_BYTES
        self._rest = text[: KEPT_BYTES + 1]

    def _keep(self, octets: bytes) -> None:
        self.excerpt.add(octets)

    def is_whole(self) -> bool:
        return self._ended and not self._broken and self._rest[1:].strip(SPACES) == b"}"


class _EncodedString(_String):
    """An encoded envelope's data from the quote with which it begins: what the base64 in it stands for."""

    def __init__(self) -> None:
        super().__init__()
        self._characters = b""

    def _keep(self, octets: bytes) -> None:
        text = self._characters + octets
        end = len(text) - len(text) % 4
        decoded = decode_octets(text[:end])
        self._broken |= decoded is None
        self.excerpt.add(decoded or b"")
        self._characters = text[end:]

    def is_whole(self) -> bool:
        return super().is_whole() and not self._characters


class LongLine:
    """A line, without its newline, that comes in pieces: `first`, of more than KEPT_BYTES, and then
    others."""

    def __init__(self, first: bytes) -> None:
        self.is_blank = True
        self._line, self._digest, self._return = Excerpt(), hashlib.blake2b(digest_size=16), b""
        self._origin, start = _parse_head(first)
        self._data = _choose_data(self._origin, first[start : start + 1])
        self._take(first)
        self._data.add(first[start:])

    def add(self, piece: bytes) -> None:
        """Go on with the next bytes of the line."""
        self._take(piece)
        if self._origin:
            self._data.add(piece)

    def message(self, number: SupportsInt) -> pa.RecordBatch:
        """The line, number `number` of its file, as a row of REJECTED: its payload is what is kept of it, and
        a newline."""
        if self._origin and self._data.is_whole():
            origin, found = self._origin, self._line if self._origin.name == b"fields" else self._data.excerpt
        else:
            message_id = f"{int(number)}-{self._digest.hexdigest()}"
            origin, found = _Origin(ARCHIVE, message_id, pa.nulls(1, TIME), b""), self._line
        columns = [
            [origin.source],
            [origin.message_id],
            origin.received_at,
            [found.head + b"\n"],
            [""],
            [found.length],
            [found.sha256],
        ]
        arrays = [
            each if isinstance(each, pa.Array) else pa.array(each, field.type)
            for each, field in zip(columns, REJECTED)
        ]
        row = pa.RecordBatch.from_arrays(arrays, schema=REJECTED)
        return append_columns(row, [(ENCODING, pa.array([origin.encoding]))]) if origin.encoding else row

    def _take(self, piece: bytes) -> None:
        self._line.add(piece)
        self.is_blank = self.is_blank and is_blank(piece)
        piece = self._return + piece
        self._return = (
            b"\r" if piece.endswith(b"\r") else b""
        )  # if it is the line's end, the id leaves it out
        self._digest.update(piece.removesuffix(b"\r"))


def _parse_head(first: bytes) -> tuple[_Origin | None, int]:
    """What a line that begins so says as an envelope, and where its data begins; None, and its length, if it
    is none."""
    head = _HEAD.match(first, 0, KEPT_BYTES)
    try:
        members = orjson.loads(b"{" + head["members"].rstrip(SPACES + b",") + b"}") if head else {}
    except orjson.JSONDecodeError:
        members = {}
    if (
        head is None
        or members.keys() - {"source", "encoding"} != _NAMES
        or (head["name"] == b"fields" and head["mark"] == b'"')
        or ("encoding" in members and not _names_encoding(members["encoding"], head))
    ):
        return None, len(first)
    source, message_id, moment = members.get("source", ARCHIVE), members["message_id"], members["received_at"]
    times = parse_date_time(pa.array([moment], pa.string()))
    if source is None or message_id is None or (moment is not None and times.null_count):
        return None, len(first)
    origin = _Origin(source, message_id, times, head["name"], members.get("encoding"))
    return origin, head.start("mark")


def _names_encoding(encoding: object, head: re.Match[bytes]) -> bool:
    """Whether an envelope's encoding, and what its data begins with, fit."""
    return encoding == PROTOBUF and head["name"] == b"data" and head["mark"] == b'"'


def _choose_data(origin: _Origin | None, mark: bytes) -> _Object | _String:
    if origin is not None and origin.encoding is not None:
        return _EncodedString()
    return _String() if mark == b'"' else _Object()
