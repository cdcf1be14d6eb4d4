"""Lines of an archive -> messages: the rule of `transforms.envelopes.envelope_lines` for a whole chunk at
once.

Most lines are decided by their first bytes (`transforms.sources.archives.envelope_prefixes`). What that
leaves open goes through `read_line`, one by one, with the same verdict: a message depends on its line alone,
never on the chunk that the line is in.
"""

from itertools import compress
from typing import NamedTuple, SupportsInt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.readers.formats import parse_date_time
from transforms.core.message_encodings import ENCODING, PROTOBUF, add_encodings
from transforms.core.record_batches import RAW, append_columns, build_batch, concat, make_empty
from transforms.envelopes.envelope_lines import (
    ARCHIVE,
    NO_DATA,
    WRONG_TIME,
    Envelope,
    decode_octets,
    is_blank,
    read_line,
    read_string,
)
from transforms.sources.archives.envelope_prefixes import (
    Heads,
    Lines,
    Positions,
    find_heads,
    find_single_objects,
    view_pieces,
)
from transforms.validation.report_id import compute_line_ids

REJECTED = pa.schema(
    [*RAW, ("message", pa.string()), ("payload_bytes", pa.int64()), ("payload_sha256", pa.string())]
)
"""Envelopes that break the rule: the whole line, known as a bare line is, and what is wrong with it. An
archived entry without data (NO_DATA) is under its own source, id and time. `payload_bytes` and
`payload_sha256` are those of a message that was too long to be read whole
(`transforms.sources.archives.long_lines`), whose payload is its beginning; else they are null."""

_OPEN = ord("{")
_NOTHING, _NEWLINE = (pa.scalar(octets, pa.large_binary()) for octets in (b"", b"\n"))

Part = tuple[Positions, pa.RecordBatch]
"""Some rows of a chunk, ascending, and their messages (RAW)."""


class Decoded(NamedTuple):
    """The messages of a chunk in the order of its lines, `messages` (RAW, with the column `encoding` if one
    is not JSON) and `rejected` (REJECTED), and how many lines it has."""

    messages: pa.RecordBatch
    rejected: pa.RecordBatch
    lines: int


def decode_lines(chunk: pa.Buffer | bytes, first_line: SupportsInt = 1) -> Decoded:
    """The messages of `chunk`: lines that each end in a newline, the first of them line `first_line` of its
    file.

    A bare line is a message of the source `archive` without a time, known by its number and bytes
    (`compute_line_ids`); where all lines are bare, the payloads are the chunk itself. A blank line is no
    message.
    """
    lines = Lines.of(chunk)
    written, bare = find_heads(lines)
    is_object = lines.text[written.data] == _OPEN
    whole = written.where(is_object & ~written.encoded)
    objects = _read_objects(lines, whole.where(find_single_objects(lines, whole)))
    strings = _read_strings(lines, written.where(~is_object & ~written.encoded))
    encoded = _read_encoded(lines, written.where(~is_object & written.encoded))
    undecided = np.ones(len(lines.ends), bool)
    for rows in (objects[0], strings[0], encoded[0], bare):
        undecided[rows] = False
    unnamed = bare, _read_bare(lines, bare, first_line)
    exact, bad = _read_one_by_one(lines, np.flatnonzero(undecided), first_line)
    return Decoded(_merge_in_order([objects, strings, encoded, unnamed, exact]), bad, len(lines.ends))


def make_bare_messages(payload: pa.Array, message_ids: pa.Array) -> pa.RecordBatch:
    """Messages (RAW) of the source `archive`, without a time, under the ids that were found for them."""
    rows = len(payload)
    return build_batch(
        {"source": pa.repeat(ARCHIVE, rows), "message_id": message_ids, "payload": payload}, RAW, rows
    )


def reject_messages(messages: pa.RecordBatch, problems: pa.Array) -> pa.RecordBatch:
    """Messages (RAW) as rows of REJECTED, with what is wrong with each."""
    columns = {name: messages[name] for name in RAW.names} | {"message": problems}
    return build_batch(columns, REJECTED, messages.num_rows)


def _read_bare(lines: Lines, rows: Positions, first_line: SupportsInt) -> pa.RecordBatch:
    """Some lines as messages (RAW) that are whole lines."""
    if not len(rows):
        return make_empty(RAW)  # the number of the first line may cost something
    ids = compute_line_ids(rows + int(first_line), lines.contents(rows))
    return make_bare_messages(lines.whole(rows), ids)


def end_payloads(data: pa.Array) -> pa.Array:
    """Strings or bytes as payloads: large_binary[n], with a newline after each, empty where there is none."""
    return pc.binary_join_element_wise(data.cast(pa.large_binary()).fill_null(_NOTHING), _NOTHING, _NEWLINE)


def _read_objects(lines: Lines, written: Heads) -> Part:
    """Envelopes whose data is an object: a payload is its bytes and, side by side with them, the line's
    newline."""
    newlines = lines.ends[written.rows]
    starts = np.stack([written.data, newlines], axis=1).ravel()
    ends = np.stack([written.close, newlines + 1], axis=1).ravel()
    _, edges, text = lines.cut(starts, ends).buffers()
    return _make_part(written, view_pieces(text, np.frombuffer(edges, np.int64)[: len(starts) + 1 : 2]))


def _read_strings(lines: Lines, written: Heads) -> Part:
    """Envelopes whose data is a string: what it unescapes to, and a newline, is the payload. Broken strings
    are left out.

    orjson is as fast string by string as with all of them in one list.
    """
    texts = lines.cut(written.data, written.close).to_pylist()
    strings = pa.array([read_string(text) for text in texts], pa.large_string())
    return _make_part(written.where(np.asarray(strings.is_valid())), end_payloads(strings.drop_null()))


def _read_encoded(lines: Lines, written: Heads) -> Part:
    """Envelopes whose data is a string in base64. What is not exactly that is left out."""
    texts = lines.cut(written.data, written.close).to_pylist()
    octets = [decode_octets(text[1:-1]) if text.endswith(b'"', 1) else None for text in texts]
    payload = pa.array(octets, pa.large_binary())
    rows, messages = _make_part(
        written.where(np.asarray(payload.is_valid())), end_payloads(payload.drop_null())
    )
    return rows, append_columns(messages, [(ENCODING, pa.repeat(PROTOBUF, len(rows)))])


def _make_part(written: Heads, payload: pa.Array) -> Part:
    return written.rows, pa.RecordBatch.from_arrays([*written.origins.columns, payload], schema=RAW)


def _read_one_by_one(lines: Lines, rows: Positions, first_line: SupportsInt) -> tuple[Part, pa.RecordBatch]:
    """The rows that only `read_line` can tell: their messages, and the envelopes that break the rule
    (REJECTED)."""
    texts = lines.cut(lines.starts[rows], lines.ends[rows]).to_pylist()
    spoken = [not is_blank(text) for text in texts]
    rows, texts = rows[np.array(spoken, bool)], list(compress(texts, spoken))
    bare = _read_bare(lines, rows, first_line)
    ids = bare["message_id"].to_pylist()
    read = [read_line(text) or Envelope(message_id=id_, data=text) for id_, text in zip(ids, texts)]
    times = parse_date_time(pa.array([line.received_at for line in read], pa.string()))
    untimed = [
        line.received_at is not None and not valid for line, valid in zip(read, times.is_valid().to_pylist())
    ]
    problems = pa.array(
        [wrong * WRONG_TIME or line.problem for line, wrong in zip(read, untimed)], pa.string()
    )
    columns = [
        pa.array([line.source for line in read], pa.string()),
        pa.array([line.message_id for line in read], pa.string()),
        times,
        pa.array([line.data + b"\n" for line in read], pa.large_binary()),
    ]
    good, named = pc.equal(problems, ""), pc.equal(problems, NO_DATA)
    origins = [pc.if_else(named, own, as_bare) for own, as_bare in zip(columns[:3], bare.columns)]
    bad = reject_messages(
        pa.RecordBatch.from_arrays([*origins, bare["payload"]], schema=RAW), problems
    ).filter(pc.invert(good))
    found = pa.RecordBatch.from_arrays(columns, schema=RAW)
    encodings = [line.encoding for line in read]
    if any(encodings):
        found = append_columns(found, [(ENCODING, pa.array(encodings, pa.string()))])
    return (rows[np.asarray(good)], found.filter(good)), bad


def _merge_in_order(parts: list[Part]) -> pa.RecordBatch:
    """The messages of all parts, in the order of their rows."""
    some = [part for part in parts if len(part[0])]
    if not some:
        return make_empty(RAW)
    batches = [messages for _, messages in some]
    if any(ENCODING.name in messages.schema.names for messages in batches):
        batches = list(map(add_encodings, batches))
    batch = concat(batches)
    if len(some) == 1:
        return batch
    return batch.take(pa.array(np.argsort(np.concatenate([rows for rows, _ in some]))))
