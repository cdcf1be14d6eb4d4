"""The JSON form of one Protocol Buffers payload: the JSON object that says the same.

Its properties are the fields that are present, under their names. A number without a fraction is written as
an integer, bytes as base64, a Value or Struct as the JSON that it stands for. Members of
`extra` are properties of the object that `extra` is in. A field that the .proto file does not have is a
property too, `#` and its number: an integer, base64, or an array of these if it is repeated. A map or list
without an entry is absent, unless the schema requires it.

What JSON cannot hold makes a form that is no JSON, which the strict reader rejects like any other: NaN and
infinities (`json`), a text that is not UTF-8 (`utf8`), a name that is in an object twice (`duplicate_key`).
"""

from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from json.encoder import encode_basestring
from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from schemas.protobuf.layouts import EXTRA, Field, Layout, Shape, load_layout, load_raw_class
from schemas.readers.compiler import Node
from schemas.readers.verdicts import OVERSIZE, MessageLimits, Rejection

PROTOBUF = "protobuf"
"""The reason of a payload that is no message of its type."""

OPEN_BYTES = 1 << 20
"""How long an agent may be without its program, in bytes: each byte of the rest may cost a hundred."""

Member = tuple[bytes, bytes]
"""The JSON texts of a name and its value."""

_EXACT = 2.0**53
_FIXED_BYTES = {1: 8, 5: 4}
"""The length of a value by its wire type."""
_STRUCT, _VALUE, _LIST = (
    load_raw_class(f"google.protobuf.{name}") for name in ("Struct", "Value", "ListValue")
)


class TooDeep(ValueError):  # noqa: N818 (named for what is wrong)
    """A Struct or Value is nested deeper than the limit."""


def write_json(kind: str, root: Node, payload: bytes, limits: MessageLimits) -> bytes | Rejection:
    """The JSON form of a payload, which need not be valid JSON; or why there is none.

    `root`: the schema of the kind. The reason is `oversize`, `protobuf` or `depth`, the first that applies.
    """
    if oversize := limits.oversize(len(payload)):
        return oversize
    layout = load_layout(kind)
    if len(payload) > OPEN_BYTES and exceeds_open_bytes(layout, payload):
        return Rejection(OVERSIZE, f"what is not of the type bytes is more than {OPEN_BYTES} bytes")
    try:
        message = layout.raw.FromString(payload)
        required = [
            layout.by_name[node.name].json_name
            for node in root.children
            if node.required and node.kind == "map"
        ]
        return _join(_list_members(layout, message, required, limits.depth))
    except TooDeep:
        return Rejection("depth", f"nested deeper than {limits.depth}")
    except DecodeError:
        return Rejection(PROTOBUF, f"no {layout.name} message{_guess_cause(payload)}")


def exceeds_open_bytes(layout: Layout, payload: bytes) -> bool:
    """Whether the fields of a message that has fields of the type bytes are, without these, more than
    OPEN_BYTES. A payload that cannot be decoded does not count."""
    numbers = [field.number for field in layout.fields if field.shape == "bytes"]
    place = total = 0
    while numbers and total <= OPEN_BYTES and place < len(payload):
        start = place
        try:
            tag, place = _read_varint(payload, place)
            length = 0
            if tag & 7 == 2:
                length, place = _read_varint(payload, place)
            elif tag & 7 == 0:
                _, place = _read_varint(payload, place)
        except IndexError:
            return False
        place += length or _FIXED_BYTES.get(tag & 7, 0)
        total += 0 if tag >> 3 in numbers else place - start
    return total > OPEN_BYTES


def _read_varint(octets: bytes, place: int) -> tuple[int, int]:
    """The integer at a place, and the place behind it. Raises IndexError at the end."""
    value = shift = 0
    while octets[place] > 127 and shift < 70:
        value |= (octets[place] & 127) << shift
        place, shift = place + 1, shift + 7
    return value | octets[place] << shift, place + 1


def read_struct(octets: bytes, depth: int) -> list[Member]:
    """The members of an encoded Struct, whose values may have `depth` open brackets.

    Raises:
        DecodeError: it is none.
        TooDeep: it is nested deeper.
    """
    return [
        (write_text(entry.key), write_value(entry.value, depth))
        for entry in _STRUCT.FromString(octets).fields
    ]


def write_struct(octets: bytes, depth: int) -> bytes:
    """The JSON text of an encoded Struct. Raises: as `read_struct` does, whose depth is one less."""
    if depth < 1:
        raise TooDeep
    return _join(read_struct(octets, depth - 1))


def write_value(octets: bytes, depth: int) -> bytes:
    """The JSON text of an encoded Value with at most `depth` open brackets; null if no kind is set.

    A level takes one call of Python's stack, which has room for the depth that settings allow.

    Raises: as `read_struct` does.
    """
    value = _VALUE.FromString(octets)
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return write_text(value.string_value)
    if kind == "number_value":
        return _write_number(value.number_value)
    if kind == "bool_value":
        return b"true" if value.bool_value else b"false"
    if kind in (None, "null_value"):
        return b"null"
    if depth < 1:
        raise TooDeep
    parts = []
    if kind == "list_value":
        for each in _LIST.FromString(value.list_value).values:
            parts.append(write_value(each, depth - 1))  # noqa: PERF401 (a comprehension is a call too)
        return b"[" + b",".join(parts) + b"]"
    for entry in _STRUCT.FromString(value.struct_value).fields:
        parts.append(write_text(entry.key) + b":" + write_value(entry.value, depth - 1))  # noqa: PERF401
    return b"{" + b",".join(parts) + b"}"


def write_text(octets: bytes) -> bytes:
    """The JSON text of a string, whose bytes need not be UTF-8."""
    return encode_basestring(octets.decode(errors="surrogateescape")).encode(errors="surrogateescape")


def _join(members: Sequence[Member]) -> bytes:
    return b"{" + b",".join([name + b":" + value for name, value in members]) + b"}"


def _write_number(value: float) -> bytes:
    """The shortest text of the number; an integer that float64 holds exactly has no fraction."""
    return b"%d" % value if value.is_integer() and abs(value) < _EXACT else repr(value).encode()


_SCALARS: dict[Shape, Callable[[Any], bytes]] = {
    "string": write_text,
    "double": _write_number,
    "int64": lambda value: b"%d" % value,
    "bool": lambda value: b"true" if value else b"false",
    "bytes": lambda value: b'"' + b64encode(value) + b'"',
}


def _list_members(layout: Layout, message: Any, required: Sequence[bytes], depth: int) -> list[Member]:
    """The members of the object that a raw message is, which may have `depth` open brackets."""
    if depth < 1:
        raise TooDeep
    members: list[Member] = []
    for descriptor, value in message.ListFields():
        field = layout.by_name[descriptor.name]
        if field.name == EXTRA:
            members += read_struct(value, depth - 1)
        else:
            members.append((field.json_name, _write_field(field, value, depth - 1)))
    members += _list_unknown(message)
    names = {name for name, _ in members} if required else set()
    return members + [(name, b"{}") for name in required if name not in names]


def _write_field(field: Field, value: Any, depth: int) -> bytes:
    if field.item is not None:
        return _write_repeated(field, _SCALARS[field.item], value, depth)
    if field.layout is not None:
        return _join(_list_members(field.layout, value, (), depth))
    if field.shape == "struct":
        return write_struct(value, depth)
    return write_value(value, depth) if field.shape == "value" else _SCALARS[field.shape](value)


def _write_repeated(field: Field, write: Callable[[Any], bytes], values: Any, depth: int) -> bytes:
    if depth < 1:
        raise TooDeep
    if field.shape == "list":
        return b"[" + b",".join([write(value) for value in values]) + b"]"
    return _join([(write_text(entry.key), write(entry.value)) for entry in values])


def _list_unknown(message: Any) -> Iterator[Member]:
    """The fields that the message's type does not have, or that are encoded as another type than theirs."""
    found: dict[int, list[bytes]] = {}
    unknown: Any = UnknownFieldSet(message)
    for field in unknown:
        data = field.data
        text = b"%d" % data if isinstance(data, int) else b"null"
        found.setdefault(field.field_number, []).append(
            _SCALARS["bytes"](data) if isinstance(data, bytes) else text
        )
    for number, texts in found.items():
        yield b'"#%d"' % number, texts[0] if len(texts) == 1 else b"[" + b",".join(texts) + b"]"


def _guess_cause(payload: bytes) -> str:
    """What is probably wrong with a payload that cannot be decoded."""
    if payload.lstrip()[:1] in (b"{", b"["):
        return ": it looks like JSON; leave out --encoding if the stream holds JSON"
    return ": its bytes are damaged, or of another type"
