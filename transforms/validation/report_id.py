"""report_id: what makes two messages the same report; line_ids: what makes two bare lines the same message.

A report_id is two 64-bit sums over the typed columns of a report, written as 32 hex digits: independent of batch, process,
platform, key order and spacing. Every column contributes words w (uint64), each mixed to
x = mix(w + KEY * (slot + 1)), where slots count the words of a report in the order below
and mix is the finaliser of SplitMix64 (Steele, Lea, Flood 2014). Modulo 2**64:

    first = mix(sum of x)        second = mix(sum of x * (2 * slot + MULTIPLIER))

A float is its IEEE bits (-0.0 as 0.0), an integer and a time (us) two's complement, a UUID two words, a text the two big-endian
words of its BLAKE2b-128, a null NULL. A map is its length and the sum over its entries of mix(mix(k1) + k2 + mix(value)), so that
the order of names does not matter; a list its length and the sum over its items of mix(mix(t1) + t2 + KEY * position). A change of
any of this is a new schema version: `docs/architecture.md` holds test vectors.
"""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.readers.formats import parse_uuid

Words = NDArray[np.uint64]

KEY = 0x9E3779B97F4A7C15
MULTIPLIER = 0xD6E8FEB86659FD93
NULL = np.uint64(0x7FF80000DEADBEEF)
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)

COLUMNS = (
    "task_id", "agent_id", "recorded_at", "latency_ms", "accuracy", "cpu_usage", "memory_mb", "network_bytes", "custom_metrics",
    "execution_context", "gpu_utilization", "error_details", "source_layer", "target_agent_type", "priority", "extra",
)  # fmt: skip
"""The columns of `schemas.tables.REPORT` that make a report what it is, in the order of their slots."""


def report_ids(reports: pa.RecordBatch) -> pa.Array:
    """string[n]: the report_id of each row, from `COLUMNS`."""
    first, second = np.zeros((2, reports.num_rows), dtype=np.uint64)
    slot = 0
    for name in COLUMNS:
        for words in _words(name, reports[name]):
            mixed = mix(words + _word(KEY * (slot + 1)))
            first += mixed
            second += mixed * _word(2 * slot + MULTIPLIER)
            slot += 1
    return _hex(np.stack([mix(first), mix(second)], axis=1))


def line_ids(numbers: NDArray[np.int64], lines: Iterable[bytes | memoryview]) -> pa.Array:
    """string[n]: the message_id of each line: `<number of the line, from 1>-<BLAKE2b-128 of its bytes, 32 hex digits>`."""
    return pc.binary_join_element_wise(pa.array(numbers).cast(pa.string()), _hex(_digests(lines)), "-")


def mix(words: Words) -> Words:
    """The SplitMix64 finaliser of each word."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _word(value: int) -> np.uint64:
    return np.uint64(value % 2**64)


def _words(name: str, column: pa.Array) -> Iterator[Words]:
    """The words of a column, each uint64[n]."""
    if name in ("task_id", "agent_id"):
        yield from parse_uuid(column)[0].T
    elif pa.types.is_struct(column.type):
        for place in range(column.type.num_fields):
            yield from _words("", column.field(place))
    elif pa.types.is_map(column.type):
        keys, values = _texts(column.keys), _numbers(column.items)
        yield from _nested(column, mix(mix(keys[:, 0]) + keys[:, 1] + mix(values)))
    elif pa.types.is_list(column.type):
        texts = _texts(column.values)
        positions = np.arange(len(texts)) - np.repeat(
            column.offsets.to_numpy()[:-1], np.diff(column.offsets.to_numpy())
        )
        yield from _nested(
            column, mix(mix(texts[:, 0]) + texts[:, 1] + _word(KEY) * positions.astype(np.uint64))
        )
    elif pa.types.is_string(column.type):
        yield from _texts(column).T
    else:
        yield _numbers(column)


def _numbers(column: pa.Array) -> Words:
    if pa.types.is_floating(column.type):
        words = (pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False) + 0.0).view(np.uint64)
    else:
        words = pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False).view(np.uint64)
    return np.where(np.asarray(column.is_valid()), words, NULL) if column.null_count else words


def _texts(column: pa.Array) -> Words:
    """uint64[n, 2]: the words of each text; equal texts are hashed once."""
    encoded = column.dictionary_encode()
    words = np.concatenate(
        [_digests(text.encode() for text in encoded.dictionary.to_pylist()), [[NULL, NULL]]]
    )
    return words[pc.fill_null(encoded.indices, len(words) - 1).to_numpy(zero_copy_only=False)]


def _digests(texts: Iterable[bytes | memoryview]) -> Words:
    """uint64[n, 2]: the BLAKE2b-128 of each text as two big-endian words."""
    digests = b"".join([hashlib.blake2b(text, digest_size=16).digest() for text in texts])
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)


def _nested(column: pa.Array, elements: Words) -> Iterator[Words]:
    """Length and sum of the elements of each row."""
    offsets = column.offsets.to_numpy()
    lengths = np.diff(offsets).astype(np.uint64)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(elements, dtype=np.uint64)])
    valid = np.asarray(column.is_valid())
    yield np.where(valid, lengths, NULL)
    yield np.where(valid, sums[offsets[1:]] - sums[offsets[:-1]], NULL)


def _hex(words: Words) -> pa.Array:
    octets = words.astype(">u8").view(np.uint8).reshape(-1, 16)
    digits = np.empty((len(octets), 32), dtype=np.uint8)
    digits[:, 0::2], digits[:, 1::2] = _HEX[octets >> 4], _HEX[octets & 15]
    offsets = np.arange(len(octets) + 1, dtype=np.int32) * 32
    return pa.StringArray.from_buffers(len(octets), pa.py_buffer(offsets), pa.py_buffer(digits))
