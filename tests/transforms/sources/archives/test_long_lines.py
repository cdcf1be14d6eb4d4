"""A line that is too long to be held gets the row that it would get if it were."""

import hashlib
import json
import random
from collections.abc import Iterator

import pyarrow as pa
import pytest

from schemas.kinds import KINDS
from schemas.readers.verdicts import MessageLimits
from schemas.registry import load
from tests.builders import line_id
from tests.integration.hostile_shapes import TEXTS
from transforms.core.excerpt import KEPT_BYTES
from transforms.core.record_batches import concat
from transforms.envelopes.envelope_lines import write_entry, write_envelope
from transforms.sources.archives.decompression import cut_chunks
from transforms.sources.archives.envelope_chunks import decode_lines
from transforms.sources.archives.long_lines import LongLine, compute_longest_line
from transforms.validation.quarantine_rows import quarantine_misfits, shorten_oversize
from transforms.validation.validate import MessageRules, judge_messages

LIMITS = MessageLimits(payload_bytes=1024)
SIZE = compute_longest_line(LIMITS.payload_bytes)
SOURCES = ["kpi", "berichte-\u00fc", 'a "quoted" key', "\u202e"]


def quarantine(
    lines: list[bytes], piece_bytes: int = 1 << 16, held_bytes: int = LIMITS.payload_bytes
) -> pa.RecordBatch:
    """The rows of an archive's lines, which are held if they may have a payload of `held_bytes`."""
    text = b"\n".join(lines)
    pieces = [text[i : i + piece_bytes] for i in range(0, len(text), piece_bytes)]
    return concat(
        [
            shorten_oversize(rows)
            for found in cut_chunks(pieces, 1 << 16, held_bytes)
            for rows in refused(*found)
        ]
    )


def refused(number: int, text: bytes | LongLine) -> Iterator[pa.RecordBatch]:
    if isinstance(text, LongLine):
        yield quarantine_misfits(text.message(number), LIMITS)
        return
    raw, bad, _ = decode_lines(text, number)
    yield judge_messages(raw, load("kpi_report"), MessageRules(LIMITS))[1]
    yield quarantine_misfits(bad, LIMITS)


def octets(draw: random.Random) -> bytes:
    """About a fifth more bytes than a line may have, of every kind."""
    parts = b"".join(draw.choices([*TEXTS, b"plain text, " * 5, "\U0001f600".encode(), b"}", b'"'], k=40))
    return (parts * (SIZE * 6 // 5 // len(parts) + 1)).replace(b"\n", b"")


@pytest.mark.parametrize("seed", range(12))
def test_a_long_line_has_the_row_that_it_would_have_if_it_were_held(seed: int) -> None:
    draw = random.Random(seed)
    data, moment = octets(draw), "2025-10-22T12:00:00Z"
    message = f"{seed}-0"
    head = b' {"received_at":null, "source" : "s","message_id":"%b\\u00e9" ,"data": ' % message.encode()
    lines = [
        write_envelope(draw.choice(SOURCES), message, draw.choice([None, moment]), data),
        write_entry(draw.choice(SOURCES), message, 1761134400000, {b"note": data, b"\xff": b""}),
        head + json.dumps({"a": {"}": data.decode(errors="replace")}}).encode() + b"} \r",
        data + draw.choice([b"", b"\r", b"\r\r"]),
        write_envelope("kpi", message, "noon", data),
        b"{}" + data,
    ]
    short = quarantine(lines, held_bytes=1 << 20)
    for piece_bytes in (7001, 1 << 16, 1 << 20):
        assert quarantine(lines, piece_bytes) == short
    assert set(short["reason"].to_pylist()) == {"oversize"}
    assert short["message_id"].to_pylist()[:2] == [message, message]


def test_of_an_oversize_line_the_beginning_the_length_and_the_digest_are_kept() -> None:
    line = b"x" * (SIZE + 1)
    (row,) = quarantine([line]).to_pylist()
    assert (row["payload"], row["payload_bytes"], row["message_id"]) == (
        line[:KEPT_BYTES],
        SIZE + 1,
        line_id(1, line),
    )
    assert row["payload_sha256"] == hashlib.sha256(line).hexdigest()


@pytest.mark.parametrize(
    "ending",
    [b'"', b'" }x', b'",' + b'"source":"s"}', b"}", b'"}' + b" " * KEPT_BYTES, b'\\"}', b'\\ud83d"}'],
)
def test_a_long_line_that_does_not_end_as_an_envelope_is_a_bare_line(ending: bytes) -> None:
    line = b'{"message_id":"m","received_at":null,"data":"' + b"a" * SIZE + ending
    assert quarantine([line])["message_id"].to_pylist() == [line_id(1, line)]


def test_lines_before_and_behind_a_long_one_keep_their_numbers_and_a_long_blank_line_is_none() -> None:
    short, long, blank = b"[]", b"y" * 2 * SIZE, b" " * SIZE * 2
    lines = [short, long, short, blank, b"", short, long + b"\r"]
    found = quarantine(lines)["message_id"].to_pylist()
    assert found == [line_id(i, line) for i, line in enumerate(lines, 1) if line.strip()]


def test_a_line_of_a_source_whose_messages_may_be_longer_is_read_whole() -> None:
    agent, report = (
        write_envelope(source, "1-0", None, b'"' + b"x" * SIZE + b'"') for source in ("layer4_agents", "kpi")
    )
    text = b"\n".join([agent, report, agent, b"{}"])
    pieces = [text[i : i + 500] for i in range(0, len(text), 500)]
    found = [
        each if isinstance(each, bytes) else None
        for _, each in cut_chunks(pieces, 1 << 20, LIMITS.payload_bytes)
    ]
    assert found == [agent + b"\n", None, agent + b"\n{}\n"]
    (most,) = {kind.max_payload_bytes for kind in KINDS.values()} - {0}
    endless = [agent[:1000], *[b"x" * (1 << 20)] * (6 * (most >> 20) + 1)]
    ((_, cut),) = cut_chunks(endless, 1 << 16, LIMITS.payload_bytes)
    assert isinstance(cut, LongLine)
