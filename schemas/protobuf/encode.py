"""JSON documents as Protocol Buffers payloads, for tests and generated messages.

The JSON form of what comes out (`schemas.protobuf.json_form`) is the document: what a field cannot hold, a
value of another type or a name that the .proto file does not have, goes into `extra`. Null is left out where
the schema takes it for absent.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from schemas.protobuf.layouts import EXTRA, Field, Layout, load_layout, load_raw_class
from schemas.readers import numbers
from schemas.readers.compiler import Node

_STRUCT, _VALUE, _LIST = (
    load_raw_class(f"google.protobuf.{name}") for name in ("Struct", "Value", "ListValue")
)
Members = Iterable[tuple[str, Any]]
"""Names and values of a JSON object."""
_EXACT = 2**53
_INT64 = range(-(2**63), 2**63)


def encode_document(kind: str, root: Node, document: Mapping[str, Any], repeated: Members = ()) -> bytes:
    """The payload of a document of a kind, whose schema is `root`; `repeated`: further members of `extra`.

    Raises:
        ValueError: it has a text that is not Unicode, or an integer that is no double; or it lacks a map or
            list that the schema requires, which a message cannot: without an entry it is empty.
    """
    return _encode(_encode_message(load_layout(kind), root, document, repeated))


def encode_value(value: Any) -> bytes:
    """JSON as an encoded Value. Raises: as `encode_document` does."""
    if value is None:
        return _encode(_VALUE(null_value=0))
    if isinstance(value, bool):
        return _encode(_VALUE(bool_value=value))
    if isinstance(value, str):
        return _encode(_VALUE(string_value=value.encode()))
    if isinstance(value, list):
        return _encode(_VALUE(list_value=_encode(_LIST(values=[encode_value(each) for each in value]))))
    if isinstance(value, Mapping):
        return _encode(_VALUE(struct_value=encode_struct(value.items())))
    return _encode(_VALUE(number_value=_as_double(value)))


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(str(error)) from error


def _as_double(value: float) -> float:
    """The number as a double, if its shortest text means the same number."""
    number = _as_float(value)
    if isinstance(value, int) and abs(value) > _EXACT:
        written, exact = numbers.loads(repr(number).encode()), numbers.loads(str(value).encode())
        if numbers.dumps(written) != numbers.dumps(exact):
            raise ValueError(f"{value} is no double")
    return number


def encode_struct(members: Members) -> bytes:
    """The members of a JSON object as an encoded Struct. Raises: as `encode_document` does."""
    struct = _STRUCT()
    for name, value in members:
        struct.fields.add(key=name.encode(), value=encode_value(value))
    return _encode(struct)


def _encode(message: Any) -> bytes:
    octets: bytes = message.SerializeToString()
    return octets


def _encode_message(layout: Layout, node: Node, document: Mapping[str, Any], repeated: Members = ()) -> Any:
    message, extra = layout.raw(), list[tuple[str, Any]]()
    fields = {field.name: field for field in layout.fields if field.name != EXTRA}
    for name, field in fields.items():
        if field.shape in ("map", "list") and node.by_name[name].required and name not in document:
            raise ValueError(f"no message lacks {name}: without an entry it is empty")
    for name, value in document.items():
        child = node.by_name.get(name)
        if value is None and child is not None and child.nullable:
            continue
        if child is None or not _put(message, fields[name], child, value):
            extra.append((name, value))
    extra += repeated
    if extra:
        message.extra = encode_struct(extra)
    return message


def _put(message: Any, field: Field, node: Node, value: Any) -> bool:
    """Set a field, if it can hold the value."""
    if field.layout is not None:
        if not isinstance(value, Mapping):
            return False
        getattr(message, field.name).CopyFrom(_encode_message(field.layout, node, value))
        return True
    if field.shape == "map":
        return _put_map(message, field, node, value)
    if field.shape == "list":
        if not isinstance(value, list) or not (value or node.required):
            return False
        if not all(isinstance(each, str) for each in value):
            return False
        getattr(message, field.name).extend(each.encode() for each in value)
        return True
    encoded = _encode_single(field, value)
    if encoded is not None:
        setattr(message, field.name, encoded)
    return encoded is not None


def _put_map(message: Any, field: Field, node: Node, value: Any) -> bool:
    if not isinstance(value, Mapping) or not (value or node.required):
        return False
    item = replace(field, shape=field.item or "string", item=None)
    entries = [(name.encode(), _encode_single(item, each)) for name, each in value.items()]
    if any(encoded is None for _, encoded in entries):
        return False
    for name, encoded in entries:
        getattr(message, field.name).add(key=name, value=encoded)
    return True


def _encode_single(field: Field, value: Any) -> Any:
    """The value as a field of a raw message takes it; None if the field cannot hold it."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if field.shape == "value":
        return encode_value(value)
    if field.shape == "struct":
        return encode_struct(value.items()) if isinstance(value, Mapping) else None
    if field.shape == "string":
        return value.encode() if isinstance(value, str) else None
    if field.shape == "bool":
        return value if isinstance(value, bool) else None
    if field.shape == "double":
        return _as_float(value) if is_number else None
    if field.shape == "int64":
        is_integer = is_number and (isinstance(value, int) or value.is_integer())
        return int(value) if is_integer and int(value) in _INT64 else None
    return _decode_bytes(value)


def _decode_bytes(value: Any) -> bytes | None:
    """The bytes that a base64 text stands for, if they are written as that text again."""
    try:
        octets = b64decode(value, validate=True) if isinstance(value, str) else None
    except ValueError:
        return None
    return octets if octets is None or b64encode(octets).decode() == value else None
