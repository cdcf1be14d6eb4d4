"""How the payloads of messages are encoded: as JSON, or as what their stream was said to hold.

A batch of messages (RAW), some of which are not JSON, has a further column `encoding` (string: one of
ENCODINGS; null is JSON).
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.grouping import split_rows
from transforms.core.record_batches import append_columns

ENCODING = pa.field("encoding", pa.string())
JSON, PROTOBUF = "json", "protobuf"
ENCODINGS = (JSON, PROTOBUF)


def give_encodings(messages: pa.RecordBatch, encodings: Mapping[str, str]) -> pa.RecordBatch:
    """The messages (RAW) with the encodings that were given for their sources, if one is not JSON."""
    sources = messages["source"].dictionary_encode()
    named = [_as_stored(encodings.get(source)) for source in sources.dictionary.to_pylist()]
    if not any(named):
        return messages
    return append_columns(messages, [(ENCODING, pa.array(named, pa.string()).take(sources.indices))])


def read_encodings(messages: pa.RecordBatch) -> pa.Array:
    """string[n]: the encoding of each message, null for JSON."""
    if ENCODING.name in messages.schema.names:
        return messages[ENCODING.name]
    return pa.nulls(messages.num_rows, ENCODING.type)


def add_encodings(messages: pa.RecordBatch) -> pa.RecordBatch:
    """The messages with the column `encoding`, null for JSON, if they have none."""
    if ENCODING.name in messages.schema.names:
        return messages
    return append_columns(messages, [(ENCODING, read_encodings(messages))])


def split_by_encoding(messages: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The messages of each encoding, in their order; a batch of one as it is."""
    if ENCODING.name not in messages.schema.names:
        yield JSON, messages
        return
    encodings = pc.fill_null(messages[ENCODING.name], JSON).dictionary_encode()
    for code, rows in split_rows(messages, encodings.indices.to_numpy().astype(np.int64)):
        yield encodings.dictionary[code].as_py(), rows


def _as_stored(encoding: str | None) -> str | None:
    return None if encoding == JSON else encoding
