"""Which kind each message is: what was given with its source, else what its source's name says.

A batch of messages (RAW) whose kind was given, as in `--input GLOB=task`, has a further column `kind`
(string: the name of a schema).
"""

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from schemas.kinds import KINDS, Kind, find_kind
from schemas.readers.verdicts import MessageLimits
from transforms.core.grouping import split_rows
from transforms.core.record_batches import append_columns

KIND = pa.field("kind", pa.string())


def give_kind(messages: pa.RecordBatch, schema: str | None) -> pa.RecordBatch:
    """The messages (RAW or REJECTED) with the kind that was given with their source, if one was."""
    return append_columns(messages, [(KIND, pa.repeat(schema, messages.num_rows))]) if schema else messages


def give_kinds(messages: pa.RecordBatch, schemas: Mapping[str, str]) -> pa.RecordBatch:
    """The messages (RAW or REJECTED) with the kinds that were given for their sources."""
    sources = messages["source"].dictionary_encode()
    named = [schemas.get(source) for source in sources.dictionary.to_pylist()]
    return append_columns(messages, [(KIND, pa.array(named, pa.string()).take(sources.indices))])


def name_kinds(messages: pa.RecordBatch) -> pa.Array:
    """string[n]: the kind of each message (RAW or REJECTED), by the name of its schema."""
    sources = messages["source"].dictionary_encode()
    named = [find_kind(source or "").schema for source in sources.dictionary.to_pylist()]
    by_source = pa.array(named, pa.string()).take(pc.fill_null(sources.indices, 0))
    return pc.coalesce(messages[KIND.name], by_source) if KIND.name in messages.schema.names else by_source


def split_by_kind(messages: pa.RecordBatch) -> Iterator[tuple[Kind, pa.RecordBatch]]:
    """The messages (RAW) of each kind, in their order; a batch of one kind as it is."""
    if not messages.num_rows:
        return
    kinds = name_kinds(messages).dictionary_encode()
    for code, rows in split_rows(messages, kinds.indices.to_numpy().astype("int64")):
        yield KINDS[kinds.dictionary[code].as_py()], rows


def bound(limits: MessageLimits, kind: Kind) -> MessageLimits:
    """The limits for messages of a kind."""
    return MessageLimits(kind.limit_payload(limits.payload_bytes), limits.depth)
