"""Entries of a Redis stream as record batches: messages, entries that are none, and what was lost before it
was read."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import LOST, TIME
from transforms.core.record_batches import RAW, make_empty
from transforms.envelopes.envelope_lines import NO_DATA, write_entry
from transforms.redis.entry_ids import ZERO, parse_id
from transforms.sources.archives.envelope_chunks import REJECTED, reject_messages
from transforms.sources.redis.positions import RESET, Loss

DATA = b"data"
"""The field of an entry that holds its message."""
LAST_MILLIS = 253_402_300_799_999
"""The end of the year 9999. An id may be beyond it; its time is then unknown."""

Entry = tuple[bytes, list[bytes]]
"""An id, and names and values in turn, as Redis has them on the wire."""


def split_entries(source: str, entries: Sequence[Entry]) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """The messages (RAW) of a stream's entries, in their order, and the entries that have no field `data`
    (REJECTED).

    The id is the message's id, its milliseconds the time at which it was received. Of two fields `data` the
    last counts.
    """
    data = [fields[1] if len(fields) == 2 and fields[0] == DATA else _data(fields) for _, fields in entries]
    ids = [entry_id for entry_id, _ in entries]
    present = [each for each in data if each is not None]
    if len(present) == len(data):
        return _messages(source, ids, present), make_empty(REJECTED)
    good = [entry_id for entry_id, each in zip(ids, data) if each is not None]
    bad = [entry for entry, each in zip(entries, data) if each is None]
    return _messages(source, good, present), _without_data(source, bad)


def digest_entry(entry: Entry) -> str:
    """16 hex digits that tell an entry from another one with the same id."""
    entry_id, fields = entry
    return blake2b(b"\0".join([entry_id, *fields]), digest_size=8).hexdigest()


def build_gaps(lost: Sequence[tuple[str, Loss]]) -> pa.RecordBatch:
    """Losses of streams as rows of `trimmed`; their time is that of the entry read last before."""
    after = [each.after for _, each in lost]
    times = [None if entry_id == ZERO else entry_id for entry_id in after]
    columns = [
        pa.array([source for source, _ in lost], pa.string()),
        pa.array([each.until for _, each in lost], pa.string()),
        parse_times(pa.array(times, pa.string())),
        pa.array(after, pa.string()),
        pa.array([each.entries for _, each in lost], pa.int64()),
        pa.array([each.reason for _, each in lost], pa.string()),
        pa.array([_revision(each) for _, each in lost], pa.int64()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=LOST)


def parse_times(ids: pa.Array) -> pa.Array:
    """timestamp[us, UTC][n]: the time of each id, string[n]; null beyond the year 9999."""
    millis = pc.replace_substring_regex(ids, "-.*", "").cast(pa.uint64())
    known = pc.if_else(pc.less_equal(millis, pa.scalar(LAST_MILLIS, pa.uint64())), millis, None)
    return pc.multiply(known.cast(pa.int64()), 1000).cast(TIME)


def _revision(loss: Loss) -> int:
    """Grows with a gap: with its entries, or with the end of a reset, since their number is unknown."""
    if loss.reason != RESET:
        return max(1, loss.entries or 0)
    millis, number = parse_id(loss.until)
    return min(10_000 * millis + min(number, 9_999), 2**63 - 1)


def _data(fields: Sequence[bytes]) -> bytes | None:
    return _as_mapping(fields).get(DATA)


def _as_mapping(fields: Sequence[bytes]) -> Mapping[bytes, bytes]:
    return dict(zip(fields[::2], fields[1::2]))


def _messages(source: str, ids: list[bytes], data: list[bytes]) -> pa.RecordBatch:
    names = pa.array(ids, pa.binary()).cast(pa.string())
    return pa.RecordBatch.from_arrays(
        [pa.repeat(pa.scalar(source, pa.string()), len(ids)), names, parse_times(names), _payloads(data)],
        schema=RAW,
    )


def _payloads(data: list[bytes]) -> pa.Array:
    """large_binary[n] of the values, each with a newline at its end, joined in one go."""
    if not data:
        return pa.array([], pa.large_binary())
    lengths = np.fromiter(map(len, data), np.int64, len(data))
    offsets = np.concatenate([[0], np.cumsum(lengths + 1)])
    values = pa.py_buffer(b"\n".join([*data, b""]))
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(data), [None, pa.py_buffer(offsets), values]
    )


def _without_data(source: str, entries: Sequence[Entry]) -> pa.RecordBatch:
    lines = [
        write_entry(source, entry_id.decode(), int(entry_id.partition(b"-")[0]), _as_mapping(fields))
        for entry_id, fields in entries
    ]
    raw = _messages(source, [entry_id for entry_id, _ in entries], lines)
    return reject_messages(raw, pa.repeat(NO_DATA, len(lines)))
