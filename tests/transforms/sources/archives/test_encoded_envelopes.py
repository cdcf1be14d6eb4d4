"""Envelopes of Protocol Buffers: a chunk says what its lines say, archives keep the bytes, and long lines get
the row of short ones."""

import json
from base64 import b64encode

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.readers.verdicts import MessageLimits
from schemas.registry import load
from schemas.tables import QUARANTINE
from transforms.core.message_encodings import ENCODING, PROTOBUF, add_encodings, split_by_encoding
from transforms.core.record_batches import RAW, append_columns, concat
from transforms.envelopes.envelope_batches import write_envelopes
from transforms.envelopes.envelope_lines import read_line, write_envelope
from transforms.sources.archives.decompression import cut_chunks
from transforms.sources.archives.envelope_chunks import decode_lines
from transforms.sources.archives.long_lines import LongLine, compute_longest_line
from transforms.validation.quarantine_rows import quarantine_misfits, shorten_oversize
from transforms.validation.validate import MessageRules, judge_messages

AT = "2026-01-01T00:00:00.000001Z"
WRONG = (
    b'{"message_id":"1-0","received_at":null,"encoding":"protobuf","data":{}}',
    b'{"message_id":"1-0","received_at":null,"encoding":"protobuf","data":"*"}',
    b'{"message_id":"1-0","received_at":null,"encoding":"protobuf","data":"YQ"}',
    b'{"message_id":"1-0","received_at":null,"encoding":"protobuf","data":"YQ==',
    b'{"message_id":"1-0","received_at":null,"encoding":"protobuf","data":"\xff"}',
    b'{"message_id":"1-0","received_at":null,"encoding":"avro","data":"YQ=="}',
    b'{"message_id":"1-0","received_at":null,"encoding":null,"data":"YQ=="}',
    b'{"message_id":"1-0","received_at":null,"encoding":"protobuf","fields":{}}',
    b'{"message_id":"1-0","received_at":null,"encoding":"protobuf","data":{',
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """An envelope, encoded or not, as it is written, in another order, or wrong."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from(WRONG))
    time, encoding = draw(st.sampled_from([None, AT])), draw(st.sampled_from([None, PROTOBUF, PROTOBUF]))
    line = write_envelope(
        "s", draw(st.sampled_from(["1-0", "23-4", "\xe9"])), time, draw(st.binary()), encoding
    )
    if encoding is None or draw(st.booleans()):
        return line
    members = json.loads(line)
    members["data"] = draw(st.sampled_from([members["data"], members["data"] + " "]))
    return json.dumps(dict(draw(st.permutations(list(members.items()))))).replace("/", r"\/").encode()


@settings(max_examples=40, deadline=None)
@given(st.lists(lines(), max_size=12), st.integers(0, 12))
def test_a_chunk_says_what_its_lines_say(chunk: list[bytes], cut: int) -> None:
    found = decode_lines(b"".join(line + b"\n" for line in chunk))
    said = [read_line(line) for line in chunk]
    good = [each for each in said if each is not None and not each.problem]
    messages = add_encodings(found.messages).to_pylist()
    named = [
        row for row in messages if row["source"] != "archive" or row["encoding"] or row["message_id"] == "1-0"
    ]
    assert [(row["message_id"], row["payload"], row["encoding"]) for row in named] == [
        (each.message_id, each.data + b"\n", each.encoding) for each in good
    ]
    assert found.rejected["message"].to_pylist() == [each.problem for each in said if each and each.problem]
    parts = [decode_lines(b"".join(line + b"\n" for line in part)) for part in (chunk[:cut], chunk[cut:])]
    assert sum(part.lines for part in parts) == found.lines
    known = [row for part in parts for row in add_encodings(part.messages).to_pylist()]
    assert [row["payload"] for row in known] == [row["payload"] for row in messages]


@pytest.mark.parametrize("count", [3, 200])
def test_an_archive_keeps_the_bytes(count: int) -> None:
    payloads = [bytes([number % 256]) * (number % 7) + b"\n\xff" for number in range(count)]
    rows = pa.RecordBatch.from_pylist(
        [
            {
                "source": "s",
                "message_id": f"{n}-0",
                "received_at": 1_767_225_600_000_000 + n,
                "payload": each + b"\n",
            }
            for n, each in enumerate(payloads)
        ],
        schema=RAW.set(2, pa.field("received_at", pa.int64())),
    )
    rows = rows.set_column(2, RAW.field(2), rows["received_at"].cast(RAW.field(2).type))
    encoded = append_columns(rows, [(ENCODING, pa.repeat(PROTOBUF, count))])
    text = bytes(write_envelopes(encoded))
    assert text.splitlines()[2] == write_envelope(
        "s", "2-0", "2026-01-01T00:00:00.000002Z", payloads[2], PROTOBUF
    )
    assert decode_lines(text).messages == encoded
    assert b"encoding" not in bytes(write_envelopes(rows))


LIMITS = MessageLimits(payload_bytes=1024)


def judge(line: bytes, held_bytes: int) -> pa.RecordBatch:
    """The quarantine rows of a line that is held if it may have a payload of `held_bytes`."""
    found = []
    for number, text in cut_chunks([line], 1 << 16, held_bytes):
        if isinstance(text, LongLine):
            found.append(shorten_oversize(quarantine_misfits(text.message(number), LIMITS)))
            continue
        raw, bad, _ = decode_lines(text, number)
        found += [
            shorten_oversize(
                judge_messages(part, load("kpi_report"), MessageRules(LIMITS), encoding).quarantine
            )
            for encoding, part in split_by_encoding(raw)
        ]
        found.append(shorten_oversize(quarantine_misfits(bad, LIMITS)))
    return concat([each for each in found if each.num_rows])


@pytest.mark.parametrize("wrong", [b"", b"*", b"="])
def test_a_long_line_has_the_row_that_it_would_have_if_it_were_held(wrong: bytes) -> None:
    octets = bytes(range(256)) * (compute_longest_line(LIMITS.payload_bytes) // 256 + 1)
    line = write_envelope("s", "1-0", AT, octets, PROTOBUF).replace(b'"}', wrong + b'"}')
    short = judge(line, 1 << 24)
    assert judge(line, LIMITS.payload_bytes) == short
    (row,) = short.to_pylist()
    assert row["reason"] == "oversize"
    assert short.schema.names == QUARANTINE.names
    if not wrong:
        assert (row["encoding"], row["payload_bytes"], row["payload"]) == (
            PROTOBUF,
            len(octets),
            octets[: 1 << 16],
        )
        assert b64encode(octets) in line
