"""The Protocol Buffers messages of each kind, `schemas/proto/kpiflow/v1/*.proto`, as data: what a payload may
hold, and the classes and the converter that read it.

The descriptors come from a FileDescriptorSet that is checked in beside the .proto files. After a change of
these, make it again (`pip install grpcio-tools`):

    python -m grpc_tools.protoc --proto_path=schemas/proto --include_imports \\
        --descriptor_set_out=schemas/proto/kpiflow.v1.binpb schemas/proto/kpiflow/v1/*.proto

Payloads are read under two other descriptions of the same bytes. Arrow has no recursive types, so the
*columns* of a message have each Struct and Value as bytes. In the *raw* classes texts are bytes too, and a
map is a list of its entries: UTF-8 that is wrong and names that are repeated can be seen, and nothing is
nested deeper than the messages of this package are.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import Any, Literal

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError

PACKAGE = "kpiflow.v1"
MESSAGES = {
    "kpi_report": "KpiReport",
    "task": "Task",
    "execution_result": "ExecutionResult",
    "agent": "Agent",
    "system_health": "SystemHealth",
}
"""The message of each kind, by the name of the kind's schema."""
EXTRA = "extra"
"""The field whose members are properties of the message itself: those that the schema does not have, and
values of another type than that of their field."""

Shape = Literal["string", "double", "int64", "bool", "bytes", "message", "struct", "value", "map", "list"]
_Form = Literal["typed", "columns", "raw"]
"""Which of the descriptions of the same bytes: that of the .proto files, or one of those above."""
_OPEN: dict[str, Shape] = {"google.protobuf.Struct": "struct", "google.protobuf.Value": "value"}
_SCALARS: dict[int, Shape] = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_BYTES: "bytes",
}


@dataclass(frozen=True)
class Field:
    """A field: its name, which is that of the JSON property, its number, and what it holds.

    `item`: of a map or list, what each value is. `layout`: that of a message.
    """

    name: str
    number: int
    shape: Shape
    item: Shape | None = None
    layout: "Layout | None" = None

    @cached_property
    def json_name(self) -> bytes:
        """The JSON text of its name."""
        return f'"{self.name}"'.encode()


@dataclass(frozen=True)
class Layout:
    """A message: its full name, its fields in the order of their numbers, and its raw class."""

    name: str
    fields: tuple[Field, ...]
    raw: Any

    @cached_property
    def by_name(self) -> dict[str, Field]:
        """The fields by name."""
        return {field.name: field for field in self.fields}


@cache
def load_layout(kind: str) -> Layout:
    """The layout of the message of a kind."""
    return _describe(_find_message("typed", kind))


@cache
def load_class(kind: str) -> Any:
    """The message class of a kind as its .proto file describes it."""
    return message_factory.GetMessageClass(_find_message("typed", kind))


@cache
def load_raw_class(name: str) -> Any:
    """The raw class of a message, by its full name; also of those of google/protobuf/struct.proto."""
    return message_factory.GetMessageClass(_load_pool("raw").FindMessageTypeByName(name))


@cache
def load_converter(kind: str) -> Any:
    """What converts payloads of a kind to their columns, and back."""
    import ptars  # what only encodes, or reads single payloads, does not need it

    message = _find_message("columns", kind)
    return ptars.HandlerPool([message.file]).get_for_message(message)


def is_message(kind: str, octets: bytes) -> bool:
    """Whether bytes are a message of a kind, whatever its Structs and Values hold."""
    try:
        _load_column_class(kind).FromString(octets)
    except DecodeError:
        return False
    return True


@cache
def _load_column_class(kind: str) -> Any:
    return message_factory.GetMessageClass(_find_message("columns", kind))


def _find_message(form: _Form, kind: str) -> Descriptor:
    """The description of the message of a kind."""
    return _load_pool(form).FindMessageTypeByName(f"{PACKAGE}.{MESSAGES[kind]}")


def _describe(message: Descriptor) -> Layout:
    fields = sorted(message.fields, key=lambda field: field.number)
    return Layout(message.full_name, tuple(map(_describe_field, fields)), load_raw_class(message.full_name))


def _describe_field(field: FieldDescriptor) -> Field:
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        return Field(field.name, field.number, "map", _SCALARS[inner.fields_by_name["value"].type])
    if field.is_repeated:
        return Field(field.name, field.number, "list", _SCALARS[field.type])
    if inner is None:
        return Field(field.name, field.number, _SCALARS[field.type])
    if inner.full_name in _OPEN:
        return Field(field.name, field.number, _OPEN[inner.full_name])
    return Field(field.name, field.number, "message", layout=_describe(inner))


@cache
def _load_pool(form: _Form) -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    octets = resources.files("schemas").joinpath(f"proto/{PACKAGE}.binpb").read_bytes()
    for file in FileDescriptorSet.FromString(octets).file:
        for message in file.message_type:
            if form == "raw" or (form == "columns" and file.package == PACKAGE):
                _hide_inner(message, form == "raw")
        pool.Add(file)
    return pool


def _hide_inner(message: DescriptorProto, raw: bool) -> None:
    """Describe the fields of a message so that each Struct and Value is bytes; if `raw`, texts and entries of
    maps too."""
    for nested in message.nested_type:
        _hide_inner(nested, raw)
        if raw:
            nested.options.ClearField("map_entry")
    for field in message.field:
        if (
            field.type_name.startswith(".google.protobuf.")
            and field.type == FieldDescriptorProto.TYPE_MESSAGE
        ):
            if field.type_name.endswith("Entry"):
                continue
            field.type = FieldDescriptorProto.TYPE_BYTES
            field.ClearField("type_name")
            if field.label != FieldDescriptorProto.LABEL_REPEATED and not field.HasField("oneof_index"):
                _make_optional(message, field)
        elif raw and field.type == FieldDescriptorProto.TYPE_STRING:
            field.type = FieldDescriptorProto.TYPE_BYTES


def _make_optional(message: DescriptorProto, field: FieldDescriptorProto) -> None:
    """Give a field presence of its own, as every message has."""
    field.oneof_index = len(message.oneof_decl)
    field.proto3_optional = True
    message.oneof_decl.add(name=f"_{field.name}")
