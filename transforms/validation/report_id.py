"""Fingerprints: what makes two messages the same report, or the same version of a record; line_ids: what
makes two bare lines the same message.

A fingerprint is `combine_words` (`transforms.core.hashing`) of the typed columns of a report or record, as 32
hex digits. It is independent of batch, process, platform, key order and spacing. The columns contribute words
in the order of `schemas.kinds.Kind.contents`:

- a float its IEEE bits (-0.0 as 0.0), an integer and a time (us) two's complement;
- a UUID two words, a text the two big-endian words of its BLAKE2b-128;
- a map its length and the sum over its entries of mix(mix(k1) + k2 + mix(value)): the order of names does not
  matter; a text as a value counts as mix(v1) + v2;
- a list its length and the sum over its items of mix(mix(t1) + t2 + KEY * position);
- a null NULL.

A change of any of this is a new schema version: `docs/reference/report-id.md` has test vectors.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.readers.formats import parse_uuid
from transforms.core.hashing import KEY, Words, combine_words, digest_texts, mix, write_hex

NULL = np.uint64(0x7FF80000DEADBEEF)
"""The word of a null: a NaN that no report can hold."""


def compute_fingerprints(columns: Mapping[str, pa.Array], contents: Sequence[str], rows: int) -> pa.Array:
    """string[n]: the fingerprint of each row over the columns `contents`."""
    words = (each for name in contents for each in _list_words(name, columns[name]))
    return write_hex(combine_words(words, rows))


def compute_line_ids(numbers: NDArray[np.int64], lines: Iterable[bytes | memoryview]) -> pa.Array:
    """string[n]: the message_id of each line: `<number, from 1>-<BLAKE2b-128 of its bytes, in hex>`."""
    digests = write_hex(digest_texts(lines))
    return pc.binary_join_element_wise(pa.array(numbers).cast(pa.string()), digests, "-")


def _list_words(name: str, column: pa.Array) -> Iterator[Words]:
    """The words of a column, each uint64[n]."""
    if name in ("task_id", "agent_id"):
        yield from parse_uuid(column)[0].T
    elif pa.types.is_struct(column.type):
        for place in range(column.type.num_fields):
            yield from _list_words("", column.field(place))
    elif pa.types.is_map(column.type):
        keys, values = _encode_texts(column.keys), _encode_items(column.items)
        yield from _sum_elements(column, mix(mix(keys[:, 0]) + keys[:, 1] + mix(values)))
    elif pa.types.is_list(column.type):
        texts = _encode_texts(column.values)
        positions = np.arange(len(texts)) - np.repeat(
            column.offsets.to_numpy()[:-1], np.diff(column.offsets.to_numpy())
        )
        yield from _sum_elements(
            column, mix(mix(texts[:, 0]) + texts[:, 1] + KEY * positions.astype(np.uint64))
        )
    elif pa.types.is_string(column.type):
        yield from _encode_texts(column).T
    else:
        yield _encode_numbers(column)


def _encode_numbers(column: pa.Array) -> Words:
    """uint64[n]: the word of each number, time or boolean."""
    if pa.types.is_floating(column.type):
        words = (pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False) + 0.0).view(np.uint64)
    else:
        words = pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False).view(np.uint64)
    return np.where(np.asarray(column.is_valid()), words, NULL) if column.null_count else words


def _encode_items(values: pa.Array) -> Words:
    """uint64[n]: the word of each value of a map, a number or a text."""
    if not pa.types.is_string(values.type):
        return _encode_numbers(values)
    texts = _encode_texts(values)
    return mix(texts[:, 0]) + texts[:, 1]


def _encode_texts(column: pa.Array) -> Words:
    """uint64[n, 2]: the words of each text; equal texts are hashed once."""
    encoded = column.dictionary_encode()
    words = np.concatenate(
        [digest_texts(text.encode() for text in encoded.dictionary.to_pylist()), [[NULL, NULL]]]
    )
    return words[pc.fill_null(encoded.indices, len(words) - 1).to_numpy(zero_copy_only=False)]


def _sum_elements(column: pa.Array, elements: Words) -> Iterator[Words]:
    """Length and sum of the elements of each row."""
    offsets = column.offsets.to_numpy()
    lengths = np.diff(offsets).astype(np.uint64)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(elements, dtype=np.uint64)])
    valid = np.asarray(column.is_valid())
    yield np.where(valid, lengths, NULL)
    yield np.where(valid, sums[offsets[1:]] - sums[offsets[:-1]], NULL)
