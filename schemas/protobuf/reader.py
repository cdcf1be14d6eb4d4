"""Payloads of Protocol Buffers as the columns of a schema's leaves: the fast and the strict reader of this
encoding, with the verdicts, columns and reasons of the JSON form (`schemas.protobuf.json_form`).

The fast one converts all rows of a block at once, in Rust. It only ever *accepts*: a row counts if its
columns, encoded again, are its bytes, so that they hold all of it, and if they are valid. What was dropped or
joined on the way (a field that is not known, one that is there twice) makes other bytes. The strict one
writes the JSON form of every other row, one by one, for the strict reader of JSON.
"""

from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from schemas.protobuf.json_form import read_struct, write_json, write_struct, write_value
from schemas.protobuf.layouts import EXTRA, Field, Layout, is_message, load_converter, load_layout
from schemas.readers import numbers, strict_reader
from schemas.readers.compiler import Node
from schemas.readers.constraints import choose_column_type
from schemas.readers.leaf_columns import check_column, find_leaves, unsign_zero
from schemas.readers.parser_guards import find_bounds
from schemas.readers.verdicts import Accepted, Mask, MessageLimits, Rejected, Rejection, Rows, join_accepted

_LONG_ROW = 1 << 14
"""Longer rows, in bytes, are left to the strict reader: others are not slowed by them."""
_FEW = 8
"""So few rows, one of which cannot be converted, are left to the strict reader."""
_NO_LIMIT = 1 << 62
"""The size of a JSON form has no limit of its own: that of its payload has one."""


def read_block(kind: str, root: Node, payload: pa.Array, limits: MessageLimits) -> Accepted:
    """The rows of a block that are valid for certain; `payload` is large_binary[n], each with one newline
    behind its bytes, and `root` the schema of the kind."""
    _, starts, ends = find_bounds(payload)
    rows = np.flatnonzero(ends - starts - 1 <= min(limits.payload_bytes, _LONG_ROW))
    if root.depth > limits.depth:
        rows = rows[:0]
    octets = pc.binary_slice(payload.take(pa.array(rows)) if len(rows) < len(payload) else payload, 0, -1)
    parts = list(_convert(kind, rows, octets.cast(pa.binary())))
    if not parts:
        return join_accepted(root, [])
    struct = pa.concat_arrays([part.struct for part in parts])
    converted = _Converted(np.concatenate([part.rows for part in parts]), struct)
    return _accept(root, load_layout(kind), converted, limits)


def read_rows(
    kind: str, root: Node, payload: pa.Array, rows: Rows, limits: MessageLimits
) -> tuple[Accepted, Rejected]:
    """Some rows of a block: the valid ones as columns, and why each of the others is not valid."""

    forms = (
        write_json(kind, root, payload[row].as_py().removesuffix(b"\n"), limits) for row in rows.tolist()
    )
    unlimited = MessageLimits(_NO_LIMIT, limits.depth)
    decoded = [
        form if isinstance(form, Rejection) else strict_reader.decode(form, unlimited) for form in forms
    ]
    return strict_reader.judge_documents(root, rows, decoded)


class _Converted(NamedTuple):
    """Rows that were converted together, and their columns: a struct array of the message's fields."""

    rows: Rows
    struct: pa.StructArray


def _convert(kind: str, rows: Rows, octets: pa.Array) -> Iterator[_Converted]:
    """The rows whose columns are all that their bytes (binary[m]) say.

    One row that is no message fails the conversion of all. Such rows are then found one by one. If
    the two libraries do not agree on one, the rows are halved until it is among few.
    """
    if not len(rows):
        return
    converter = load_converter(kind)
    try:
        batch = converter.array_to_record_batch(octets)
    except ValueError:
        known = pa.array([is_message(kind, each) for each in octets.to_pylist()], pa.bool_())
        if known.false_count:
            yield from _convert(kind, rows[np.asarray(known)], octets.filter(known))
        elif len(rows) > _FEW:
            half = len(rows) // 2
            yield from _convert(kind, rows[:half], octets[:half])
            yield from _convert(kind, rows[half:], octets[half:])
        return
    again = converter.record_batch_to_array(batch)
    exact = np.asarray(pc.equal(again.cast(octets.type), octets))
    struct = batch.to_struct_array()
    if exact.all():
        yield _Converted(rows, struct)
    else:
        yield _Converted(rows[exact], struct.filter(pa.array(exact)))


def _accept(root: Node, layout: Layout, converted: _Converted, limits: MessageLimits) -> Accepted:
    """The valid ones of the rows."""
    rows, struct = converted
    valid = np.ones(len(rows), bool)
    no_null = np.zeros(len(rows), bool)
    shaped = _shape_message(root, layout, struct, valid)
    columns = []
    for leaf, array in find_leaves(root, shaped, np.ones(len(rows), bool), valid):
        if leaf.kind in ("any", "object"):
            columns.append(_read_texts(array, _write_open(leaf, limits), valid))
        else:
            columns.append(check_column(leaf, array, no_null, valid))
    extra = _read_texts(struct.field(EXTRA), _write_extra(root, limits), valid)
    return Accepted(rows, columns, extra).filter(valid)


def _shape_message(node: Node, layout: Layout, struct: pa.StructArray, valid: Mask) -> pa.StructArray:
    """The fields of a message in the types of the schema's leaves; a Struct and a Value stay bytes.

    What the strict reader must see stops being valid: an inner `extra`, a map that repeats a name.
    """
    inner = dict(zip((field.name for field in struct.type), struct.flatten()))
    arrays, fields = [], []
    for field in layout.fields:
        array = inner[field.name]
        if field.name == EXTRA:
            valid &= np.asarray(array.is_null()) | (len(node.path) == 0)
            continue
        child = node.by_name[field.name]
        arrays.append(_shape_field(child, field, array, valid))
        fields.append(pa.field(field.name, arrays[-1].type))
    mask = struct.is_null() if struct.null_count else None
    return pa.StructArray.from_arrays(arrays, fields=fields, mask=mask)


def _shape_field(node: Node, field: Field, array: pa.Array, valid: Mask) -> pa.Array:
    if field.layout is not None:
        return _shape_message(node, field.layout, array, valid)
    if field.shape == "map":
        return _shape_map(node, array, valid)
    if field.shape == "list":
        return _build_nested(node, array.offsets.to_numpy(), array.values)
    if field.shape == "bytes":
        return _read_texts(array, lambda octets: b64encode(octets).decode(), valid)
    return array.cast(pa.float64(), safe=False) if field.shape == "int64" else array


def _shape_map(node: Node, array: pa.Array, valid: Mask) -> pa.Array:
    """A map array with the names of each row in order, as a leaf has it."""
    offsets = array.offsets.to_numpy()
    row = np.repeat(np.arange(len(array)), np.diff(offsets))
    keys = array.keys[offsets[0] : offsets[-1]].dictionary_encode()
    rank = np.argsort(pc.array_sort_indices(keys.dictionary).to_numpy())[keys.indices.to_numpy()]
    order = np.lexsort((rank, row))
    twice = (np.diff(rank[order]) == 0) & (np.diff(row[order]) == 0)
    valid[row[order][1:][twice]] = False
    places = pa.array(order + offsets[0])
    entries = array.keys.take(places), unsign_zero(array.items.take(places))
    return _build_nested(node, offsets - offsets[0], *entries)


def _build_nested(node: Node, offsets: NDArray[np.int32], *values: pa.Array) -> pa.Array:
    """The map or list array of a leaf; an empty one is null, unless the schema requires it."""
    empty = (np.diff(offsets) == 0) & (not node.required)
    kind = pa.MapArray if node.kind == "map" else pa.ListArray
    masked = pa.array(offsets, pa.int32(), mask=np.append(empty, False))
    return kind.from_arrays(masked, *values, type=choose_column_type(node))


def _read_texts(array: pa.Array, write: Callable[[bytes], str | None], valid: Mask) -> pa.Array:
    """string[n]: what `write` makes of each encoded Struct or Value, of equal ones once.

    Where it raises ValueError, or DecodeError, the row stops being valid.
    """
    encoded = array.dictionary_encode()
    texts: list[str | None] = []
    known = []
    for octets in encoded.dictionary.to_pylist():
        try:
            texts.append(write(octets))
            known.append(True)
        except (ValueError, DecodeError):
            texts.append(None)
            known.append(False)
    codes = pc.fill_null(encoded.indices, len(texts)).to_numpy(zero_copy_only=False)
    valid &= np.array([*known, True])[codes]
    return pa.array([*texts, None], pa.string()).take(pa.array(codes))


def _write_open(leaf: Node, limits: MessageLimits) -> Callable[[bytes], str | None]:
    """What writes the canonical text of a Struct or Value that the schema does not describe further. It
    raises ValueError where a name is in it twice."""
    write = write_struct if leaf.kind == "object" else write_value

    def write_canonical(octets: bytes) -> str | None:
        value = strict_reader.load_distinct(write(octets, limits.depth - len(leaf.path)))
        return None if value is None else numbers.dumps(value)

    return write_canonical


def _write_extra(root: Node, limits: MessageLimits) -> Callable[[bytes], str | None]:
    """What writes the canonical text of `extra`. It raises ValueError where a member is a property of the
    schema, or is there twice."""

    def write_canonical(octets: bytes) -> str | None:
        members = read_struct(octets, limits.depth - 1)
        found = {numbers.loads(name): strict_reader.load_distinct(value) for name, value in members}
        if len(found) < len(members) or found.keys() & root.by_name.keys():
            raise ValueError("only the strict reader can tell")
        return numbers.dumps(found) if found else None

    return write_canonical
