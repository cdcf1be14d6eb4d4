"""The lines of many envelopes at once: the same bytes as `envelope_lines.write_envelope` gives, in a third of
its time."""

from binascii import b2a_base64

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from transforms.core.message_encodings import read_encodings
from transforms.envelopes.envelope_lines import write_envelope

_QUOTE, _BACKSLASH, _NEWLINE = b'"\\\n'
_FEW = 64
"""Rows that are written one by one: what the columns cost for a few rows is more than they save."""


def write_envelopes(rows: pa.RecordBatch) -> memoryview:
    """The lines of the envelopes of RAW rows of one source, each with its newline.

    A payload of printable ASCII needs two escapes only, which are made in all of them together. The others
    are written one by one. Payloads that are not JSON become base64.
    """
    encodings = pc.unique(read_encodings(rows)).to_pylist()
    if rows.num_rows < _FEW or rows["received_at"].null_count or len(encodings) > 1:
        return memoryview(b"".join(_write_each(rows)))
    encoding = "" if encodings[0] is None else f'"encoding":"{encodings[0]}",'
    octets, offsets = _view(_encode_payloads(rows["payload"]) if encoding else rows["payload"])
    plain = _find_plain(octets, offsets)
    source = orjson.dumps(rows["source"][0].as_py())
    lines = pc.binary_join_element_wise(
        _constant(b'{"source":' + source + b',"message_id":"'),
        rows["message_id"].cast(pa.large_binary()),
        _constant(b'","received_at":"'),
        _format_times(rows["received_at"]).cast(pa.large_binary()),
        _constant(f'",{encoding}"data":"'.encode()),
        _escape(octets, offsets),
        _constant(b""),
    )
    if not plain.all():
        others = _write_each(rows.take(pa.array(np.flatnonzero(~plain))))
        lines = pc.replace_with_mask(lines, pa.array(~plain), pa.array(others, pa.large_binary()))
    octets, offsets = _view(lines)
    return octets[offsets[0] : offsets[-1]].data


def _write_each(rows: pa.RecordBatch) -> list[bytes]:
    columns = (
        rows["source"].to_pylist(),
        rows["message_id"].to_pylist(),
        _format_times(rows["received_at"]).to_pylist(),
        pc.binary_slice(rows["payload"], 0, -1).to_pylist(),
        read_encodings(rows).to_pylist(),
    )
    return [write_envelope(*values) + b"\n" for values in zip(*columns)]


def _encode_payloads(payload: pa.Array) -> pa.Array:
    """The payloads in base64, each with its newline."""
    return pa.array([b2a_base64(octets[:-1]) for octets in payload.to_pylist()], pa.large_binary())


def _format_times(times: pa.Array) -> pa.Array:
    """string[n]: timestamps (us, UTC, from 1970 to 9999) in RFC 3339, which strftime gives a hundred times as
    slowly."""
    texts = pc.binary_replace_slice(times.cast(pa.timestamp("us")).cast(pa.string()), 10, 11, "T")
    return pc.binary_join_element_wise(texts, "Z", "")


def _view(values: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes of large_binary[n] without nulls, and its offsets (int64[n + 1]) into them."""
    _, offsets, octets = values.buffers()
    view = np.frombuffer(offsets, np.int64)[values.offset : values.offset + len(values) + 1]
    return np.frombuffer(octets, np.uint8), view


def _find_plain(octets: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool[n]: which payloads are printable ASCII, but for the newline at their end."""
    part = octets[offsets[0] : offsets[-1]]
    odd = np.flatnonzero((part < 32) | (part > 126)) + offsets[0]
    return np.diff(np.searchsorted(odd, offsets)) == 1


def _escape(octets: NDArray[np.uint8], offsets: NDArray[np.int64]) -> pa.Array:
    """Payloads as they are inside a JSON string, each with the end of its envelope."""
    part = octets[offsets[0] : offsets[-1]]
    escaped = part.tobytes().replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b'"}\n')
    growth = np.zeros(len(offsets), np.int64)
    for mark, more in ((_QUOTE, 1), (_BACKSLASH, 1), (_NEWLINE, 2)):
        growth += more * np.searchsorted(np.flatnonzero(part == mark) + offsets[0], offsets)
    buffers = [None, pa.py_buffer(offsets - offsets[0] + growth), pa.py_buffer(escaped)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


def _constant(octets: bytes) -> pa.Scalar:
    return pa.scalar(octets, pa.large_binary())
