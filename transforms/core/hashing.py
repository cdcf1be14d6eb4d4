"""Every hash of values in columns, and what each is good for.

| function | gives | used for | stored |
|---|---|---|---|
| `mix` | SplitMix64's finaliser of each word | all below | |
| `combine_words` | two words of a row of words | report_id | tables |
| `digest_texts` | BLAKE2b-128 of each text | report_id, ids of bare lines | tables |
| `hash_texts` | one word of each text | which message of a stream a report came in | checkpoints |
| `hash_uuids` | one word of each UUID | the shard of an agent | checkpoints |
| `hash_ids` | one word of each report_id | finding reports that may be equal | |
| `fingerprint_rows` | two words of each row | comparing tables (`reconcile`, `parity`) | |

Each value depends on its text or number alone: it is the same on every platform, in every run and in every
batch. What is stored must never change; `tests/transforms/core/test_hashing.py` has test vectors. Sums and
products are modulo 2**64. Digests of whole files and of single messages are `hashlib`'s, where they are used.
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.readers.formats import parse_uuid

Words = NDArray[np.uint64]

KEY = np.uint64(0x9E3779B97F4A7C15)
"""2**64 divided by the golden ratio, odd: the step of SplitMix64."""
_MULTIPLIER = 0xD6E8FEB86659FD93
_SEEDS = (np.uint64(0x243F6A8885A308D3), np.uint64(0x13198A2E03707344))
_NULL = np.uint64(0xFFFFFFFFFFFFFFFF)
_ID_WORDS = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5], np.uint64
)
"""Odd factors of the four words of a report_id's 32 digits."""
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_LOW_BYTES = np.array([(1 << (8 * length)) - 1 for length in range(9)], dtype=np.uint64)
"""By length in bytes, 0 to 8: what keeps so many low bytes of a word."""


def mix(words: Words) -> Words:
    """uint64 of any shape: the SplitMix64 finaliser of each word (Steele, Lea, Flood 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def combine_words(columns: Iterable[Words], rows: int) -> Words:
    """uint64[n, 2]: one identity of the words, uint64[n] each, that a row has in some columns.

    With x[slot] = mix(word + KEY * (slot + 1)):

        first = mix(sum of x)        second = mix(sum of x * (2 * slot + MULTIPLIER))
    """
    first, second = np.zeros((2, rows), dtype=np.uint64)
    for slot, words in enumerate(columns):
        mixed = mix(words + _word(int(KEY) * (slot + 1)))
        first += mixed
        second += mixed * _word(2 * slot + _MULTIPLIER)
    return np.stack([mix(first), mix(second)], axis=1)


def digest_texts(texts: Iterable[bytes | memoryview]) -> Words:
    """uint64[n, 2]: the BLAKE2b-128 of each text as two big-endian words. No sender can make
    two texts with one digest."""
    digests = b"".join([blake2b(text, digest_size=16).digest() for text in texts])
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)


def hash_texts(texts: pa.Array) -> Words:
    """uint64[n]: a hash of each text of string[n], without a Python object per text.

    With b the UTF-8 bytes: mix(sum of mix(b[i] + KEY * (i + 1))).
    """
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    if not len(bounds) or bounds[0] == bounds[-1]:
        return mix(np.zeros(len(texts), np.uint64))
    octets = np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]]
    bounds -= bounds[0]
    place = np.arange(1, len(octets) + 1) - np.repeat(bounds[:-1], np.diff(bounds))
    # One running sum over all bytes: a text's own sum is the difference between its two ends.
    sums = np.zeros(len(octets) + 1, np.uint64)
    np.cumsum(mix(octets + place.astype(np.uint64) * KEY), out=sums[1:])
    return mix(sums[bounds[1:]] - sums[bounds[:-1]])


def hash_uuids(uuids: pa.Array) -> Words:
    """uint64[n], below 2**48: a hash of each UUID of string[n], (first ^ second * KEY) >> 16."""
    words, _ = parse_uuid(uuids)
    return (words[:, 0] ^ (words[:, 1] * KEY)) >> np.uint64(16)


def hash_ids(ids: pa.Array) -> Words:
    """uint64[n]: a hash of each report_id, given as fixed_size_binary(32)[n] without nulls."""
    words = np.frombuffer(ids.buffers()[1], np.uint64).reshape(-1, len(_ID_WORDS))
    return (words[ids.offset : ids.offset + len(ids)] * _ID_WORDS).sum(axis=1)


def fingerprint_rows(columns: Sequence[pa.Array]) -> Words:
    """uint64[n, 2]: 128 bits for each row of string, binary or integer columns; null is a value of its own.

    Each value is absorbed eight bytes at a time, and then its length: lengths keep ("ab", "c") and ("a",
    "bc") apart.
    """
    lanes = [np.full(len(columns[0]), seed) for seed in _SEEDS]
    for column in columns:
        text = column.cast(pa.string()) if pa.types.is_integer(column.type) else column
        _absorb(lanes, text.cast(pa.large_binary()))
    return np.stack(lanes, axis=1)


def write_hex(words: Words) -> pa.Array:
    """string[n]: the 32 hex digits of each pair of words, uint64[n, 2]."""
    octets = words.astype(">u8").view(np.uint8).reshape(-1, 16)
    digits = np.empty((len(octets), 32), dtype=np.uint8)
    digits[:, 0::2], digits[:, 1::2] = _HEX[octets >> 4], _HEX[octets & 15]
    offsets = np.arange(len(octets) + 1, dtype=np.int32) * 32
    return pa.StringArray.from_buffers(len(octets), pa.py_buffer(offsets), pa.py_buffer(digits))


def read_hex(ids: pa.Array) -> Words:
    """uint64[n, 2]: the pair of words that `write_hex` wrote as each of string[n], without nulls."""
    digits = ids.cast(pa.binary(32))
    octets = np.frombuffer(digits.buffers()[1], np.uint8)
    octets = octets[32 * digits.offset : 32 * (digits.offset + len(digits))]
    # "0" to "9" are 0x30 to 0x39, "a" to "f" 0x61 to 0x66: bit 6 tells letters, whose low digit begins at 1.
    nibbles = (octets & 15) + 9 * (octets >> 6)
    return ((nibbles[0::2] << 4) | nibbles[1::2]).view(">u8").astype(np.uint64).reshape(-1, 2)


def _word(value: int) -> np.uint64:
    return np.uint64(value % 2**64)


def _absorb(lanes: list[Words], column: pa.Array) -> None:
    """Mix the bytes of each value of large_binary[n], and its length, into the two words of its row."""
    _, offsets, values = column.buffers()
    ends = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    starts, lengths = ends[:-1], np.diff(ends)
    valid = np.asarray(column.is_valid())
    lengths = np.where(valid, lengths, 0)
    words = _unaligned_words(values)
    rows = np.arange(len(column))
    for place in range(0, int(lengths.max(initial=0)), 8):
        rows = rows[lengths[rows] > place]
        read = words[starts[rows] + place] & _LOW_BYTES[np.minimum(lengths[rows] - place, 8)]
        _absorb_words(lanes, rows, read)
    _absorb_words(lanes, np.arange(len(column)), np.where(valid, lengths.astype(np.uint64), _NULL))


def _absorb_words(lanes: list[Words], rows: NDArray[np.int64], words: Words) -> None:
    first, second = lanes
    first[rows] = mix(first[rows] ^ words)
    second[rows] = mix(second[rows] * KEY + words)


def _unaligned_words(values: pa.Buffer | None) -> Words:
    """The little-endian word that starts at each byte of a buffer; past its end are zeros."""
    padded = np.zeros((values.size if values else 0) + 8, dtype=np.uint8)
    if values:
        padded[:-8] = np.frombuffer(values, np.uint8)
    return np.ndarray(len(padded) - 7, dtype="<u8", buffer=padded, strides=(1,))
