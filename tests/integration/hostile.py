"""Messages made by hand to be hard to read, each with the fate it must have."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

from tests.builders import NOON, line_id, payload, report
from tests.integration.archives import envelope
from transforms.core.excerpt import KEPT_BYTES

FRACTIONS = ["", *("." + "123456789"[:digits] for digits in range(1, 10))]
REPEAT = b'"accuracy": 0.9, "accuracy": 0.9'


class Case(NamedTuple):
    """A line of an archive: the id of its message, the fate that this must have, and the bytes to keep if it
    is refused."""

    line: bytes
    message_id: str
    fate: str
    kept: bytes


def text(number: int, **fields: object) -> bytes:
    return payload(report(number, **fields))


def bare_lines() -> list[tuple[bytes, str]]:
    """Lines without an envelope, and the fate of each."""
    plain = text(1)
    broken = [(text(100 + i), "report") if i % 2 else (text(100 + i)[: 1 + i], "json") for i in range(300)]
    return [
        (plain, "report"),  # of which `bare again`, which has a time, is the duplicate
        (text(2) + b"\r", "report"),
        (plain[:-1] + b"\r", "json"),
        (json.dumps(report(3), indent=None, separators=(" ,\t", "  : ")).encode(), "report"),
        (text(4, notes="n" * 5_000_000), "oversize"),
        (text(5, notes="n" * 1_000_000), "report"),
        (plain.replace(b"node-1", b"node-\xff"), "utf8"),
        (b"\xff\xfe\x00", "utf8"),
        (b"\xed\xa0\x80".join([b'{"lone": "', b'"}']), "utf8"),
        (text(6).replace(b'"accuracy": 0.9', REPEAT), "duplicate_key"),
        (text(7).replace(b'"hostname"', b'"hostname": "a", "hostname"'), "duplicate_key"),
        (text(8, latency_ms=120, accuracy=1, cpu_usage=0, memory_mb=512), "report"),
        (text(9, network_bytes=1e6, priority=50.0), "report"),
        (text(10, network_bytes=2**63), "schema"),
        (text(11, latency_ms=2**63), "schema"),
        (text(12, serial=2**63, custom_metrics={"big": 2**49}), "report"),
        (text(13).replace(b"120.0", b"NaN"), "json"),
        (text(14).replace(b"120.0", b"-Infinity"), "json"),
        (text(15).replace(b"120.0", b"1e400"), "json"),
        (text(16, error_details="a\u0000b", custom_metrics={"\u0000": 1}), "report"),
        (
            text(
                17, execution_context={"hostname": "\u0000", "available_cores": 1.0, "available_memory_mb": 1}
            ),
            "report",
        ),
        (plain + b"\x00", "json"),
        (b"\xef\xbb\xbf" + text(18), "json"),
        (b"[" * 100_000, "depth"),
        (b"[]", "not_object"),
        (b"null", "not_object"),
        (b"{}", "schema"),
        *broken,
    ]


def moments() -> list[tuple[bytes, str]]:
    """Lines whose recorded_at takes every form, and the fate of each."""
    good = [
        f"2025-10-22T12:00:00{fraction}{zone}"
        for fraction in FRACTIONS
        for zone in ("Z", "z", "+14:00", "-12:30")
    ]
    good += [
        "2024-02-29T23:59:59Z",
        "2000-02-29t00:00:00Z",
        "2025-10-22T00:30:00+01:00",
        "1969-12-31T23:59:59Z",
    ]
    bad = [
        "2023-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2025-10-22T12:00:60Z",
        "2025-10-22T12:00:00",
        "2025-10-22 12:00:00Z",
    ]
    bad += [
        "2025-10-22T12:00:00.1234567890Z",
        "2025-10-22T12:00:00+24:00",
        "2025-10-22T24:00:00Z",
        "",
        "noon",
    ]
    told = [(moment, "report") for moment in good] + [(moment, "schema") for moment in bad]
    return [(text(1000 + i, recorded_at=moment), fate) for i, (moment, fate) in enumerate(told)]


def bare(lines: list[tuple[bytes, str]]) -> Iterator[Case]:
    for number, (line, fate) in enumerate(lines, start=1):
        yield Case(line, line_id(number, line), fate, line[:KEPT_BYTES] if fate == "oversize" else line)


def envelopes() -> Iterator[Case]:
    """Envelopes of both kinds of data, broken ones, and some that are good but hold what is not."""
    later = NOON + timedelta(seconds=9)
    for number, (data, fate) in enumerate(
        [(text(2000), "report"), (text(2001)[:-1], "json"), (b"", "json"), (b"\xff{}", "utf8")]
    ):
        yield Case(envelope(data, f"string-{number}", later), f"string-{number}", fate, data)
    yield Case(envelope(report(2002), "object", later), "object", "report", b"")
    yield Case(envelope(report(2000), "again", later + timedelta(seconds=1)), "again", "duplicate", b"")
    yield Case(envelope(report(2003), "stale", NOON + timedelta(seconds=3601)), "stale", "stale", text(2003))
    yield Case(envelope(report(2004), "hour", NOON + timedelta(hours=1)), "hour", "report", b"")
    yield Case(envelope(report(2005), "future", NOON - timedelta(seconds=61)), "future", "future", text(2005))
    yield Case(envelope(report(2006), "minute", NOON - timedelta(seconds=60)), "minute", "report", b"")
    yield Case(envelope(report(2007), "no time", None), "no time", "report", b"")
    wrong = [
        b'{"message_id": 7, "received_at": null, "data": {}}',
        b'{"message_id": "x", "received_at": "yesterday", "data": {}}',
        b'{"message_id": "x", "received_at": 12, "data": {}}',
        b'{"message_id": "x", "received_at": null, "data": [1]}',
        b'{"source": null, "message_id": "x", "received_at": null, "data": {}}',
    ]
    for number, line in enumerate(wrong, start=12):
        yield Case(line, line_id(number, line), "envelope", line)


def twice() -> Iterator[Case]:
    """Messages that come twice: in one file, in another, and one of them refused."""
    for at in (2002, 2003):
        fate, name = ("report", "object") if at == 2002 else ("stale", "stale")
        received = NOON + (timedelta(seconds=9) if at == 2002 else timedelta(seconds=3601))
        yield from [Case(envelope(report(at), name, received), name, fate, text(at))] * 2
    yield Case(envelope(report(1), "bare again", NOON), "bare again", "duplicate", b"")


HAND: dict[str, list[Case]] = {
    "bare.ndjson": list(bare(bare_lines())),
    "moments.ndjson.gz": list(bare(moments())),
    "envelopes.jsonl": list(envelopes()),
    "twice.json.zst": list(twice()),
    "empty.ndjson": [],
    "empty.ndjson.gz": [],
}
"""The messages of each file of an archive."""
FATES = {case.message_id: case.fate for cases in HAND.values() for case in cases}
KEPT = {case.message_id: case.kept for cases in HAND.values() for case in cases}
