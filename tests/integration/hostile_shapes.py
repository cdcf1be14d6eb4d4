"""Seeded hostile payloads of every kind: widths, depths, encodings, escapes, numbers, times, types, names,
spaces and broken bytes.

`payloads` draws them; `SHAPES` has one function for each kind, which makes a payload from a valid report.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

from tests.builders import NOON, agent, report

AGENTS = 50
SHARES = (0.02, 0.1, 0.5, 1.0)
"""Parts of the messages that are hostile, in one stretch after another: a reader must be good at few of them
and at many."""
STRETCH = 2500
STEP = timedelta(milliseconds=40)
LARGEST = 1 << 20

NUMBERS = tuple(
    b"0 -0 -0.0 1e0 1E+2 1.0e-400 5e-324 1e308 1e309 -1e999 0.1e1 1e-7 120.50 9007199254740993 1e22 "
    b"123456789e18 "
    b"9223372036854775808 -9223372036854775809 18446744073709551616 0.30000000000000004441 "
    b"1e0000000000001 NaN Infinity "
    b"-Infinity 01 +1 .5 1. 1e 0x10 1_000 --1".split()
)
SMALL = (b"-0", b"-0.0", b"1e0", b"0.5E-1", b"1.0")
"""Numbers that most fields take."""
NUMERIC = (
    b"accuracy cpu_usage latency_ms memory_mb network_bytes priority available_cores tokens depth".split()
)
TIMES = tuple(
    b"2025-10-22t12:00:00z 2025-10-22T12:00:00.1234567891Z 2025-10-22T12:00:00.123456789+05:30 "
    b"0001-01-01T00:00:00+14:00 "
    b"0001-01-01T00:00:00Z 9999-12-31T23:59:59.999999Z 9999-12-31T23:59:59-12:00 "
    b"2024-02-30T00:00:00Z 2016-12-31T23:59:60Z "
    b"2025-10-22T24:00:00Z 2025-10-22T12:00:00 2025-10-22T12:00:00+24:00 20251022T120000Z "
    b"0000-01-01T00:00:00Z "
    b"1969-12-31T23:59:59.5Z \xef\xbc\x92\xef\xbc\x90\xef\xbc\x92\xef\xbc\x95-10-22T12:00:00Z".split()
)
VALUES = tuple(rb'null true [] {} "" "\u0000" 1 1.5 [1,null] {"a":null} {"a":{"b":[]}} "x"'.split())
TEXTS = (
    *rb"\ud83d\ude00 \ud83d \udc80 \ude00\ud83d \u0000 \/ \x \u12 \\ \n null {[ }] \"} \":1,\"".split(),
    *(
        b"\0",
        b"\t",
        b"\x1f",
        b"\x7f",
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xc3",
        b"\xe9",
    ),
    *("é".encode(), "\u202e\u2028\ufeff".encode()),
)
SPACES = (b" ", b"\t", b"\r", b"\n", b"  \r\n ", b" " * 300, b"\v", b"\xc2\xa0", b"\0")

Shape = Callable[[random.Random, int, bytes], bytes]


def payloads(
    count: int, seed: int = 0, start: datetime = NOON, largest: int = 9 * LARGEST, stretch: int = STRETCH
) -> Iterator[bytes]:
    """`count` payloads of agents that report in turn; hostile ones have at most `largest` bytes, and most
    have far fewer."""
    draw, shapes = random.Random(seed), list(SHAPES.values())
    for number in range(count):
        text = good(draw, number, start)
        if draw.random() < SHARES[number // stretch % len(SHARES)]:
            for _ in range(1 if draw.random() < 0.8 else 2):
                text = draw.choice(shapes)(draw, number, text)
        yield text[:largest]


def good(draw: random.Random, number: int, start: datetime) -> bytes:
    """A valid report in one of its spellings."""
    optional: dict[str, Any] = {
        "network_bytes": draw.randrange(10**9),
        "gpu_utilization": draw.random(),
        "error_details": draw.choice(["oops", {"code": number % 7}]),
        "source_layer": "layer2",
        "target_agent_type": draw.choice(["search", "plan"]),
        "priority": draw.choice([1, 50, None]),
        "custom_metrics": {"tokens": draw.random(), "depth": number % 9},
        "trace": f"{number:x}",
    }
    chosen = {name: value for name, value in optional.items() if draw.random() < 0.15}
    metrics = {"latency_ms": 100 * draw.lognormvariate(0, 0.3), "accuracy": round(draw.random(), 3)}
    document = report(number, start + number * STEP, agent_id=agent(number % AGENTS), **metrics, **chosen)
    return json.dumps(
        document, separators=draw.choice([(",", ":"), (", ", ": ")]), ensure_ascii=draw.random() < 0.5
    ).encode()


def _size(draw: random.Random, most: int = 1 << 17) -> int:
    """A number that is small as a rule, and now and then large."""
    return min(most, int(draw.paretovariate(0.6)))


def _member(text: bytes, name: bytes, value: bytes) -> bytes:
    return text[:-1] + b',"' + name + b'":' + value + b"}"


def _place(draw: random.Random, text: bytes, value: bytes) -> bytes:
    """A member with this value: where no schema describes it, as error_details, among metrics, or in the
    context."""
    inside = {
        b"custom_metrics": b'{"a":1,"b":%b}' % value,
        b"execution_context": b'{"hostname":"n","available_cores":1,"x":%b}' % value,
    }
    name = draw.choice([b"zzz", b"error_details", *inside])
    return _member(text, name, inside.get(name, value))


def _names(text: bytes) -> list[bytes]:
    """The names of a report as they are written, none of what is no object."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [json.dumps(name).encode() for name in document] if isinstance(document, dict) else []


def _replaced(draw: random.Random, text: bytes, value: bytes) -> bytes:
    """The payload with this as the value of one of its names, up to the next comma or brace."""
    name = draw.choice(_names(text) or [b"{"])
    begin = text.find(b":", text.find(name)) + 1
    ends = [end for end in (text.find(mark, begin) for mark in (b",", b"}")) if end >= 0]
    return text[:begin] + value + text[min(ends, default=len(text)) :]


def wide(draw: random.Random, number: int, text: bytes) -> bytes:
    """Many names, of this message alone or of many, in one of the objects."""
    value, stem = (
        draw.choice(VALUES + NUMBERS[:4]),
        draw.choice([b"k", b"k%d_" % number, b"\\u006b", b"k" * 90]),
    )
    names = b",".join(b'"%b%d":%b' % (stem, each, value) for each in range(_size(draw, 1 << 13)))
    return text[:-1] + b"," + names + b"}" if draw.random() < 0.4 else _place(draw, text, b"{" + names + b"}")


def long_list(draw: random.Random, number: int, text: bytes) -> bytes:
    """A list of equal or mixed items."""
    items = [draw.choice(VALUES + NUMBERS) for _ in range(draw.choice([1, 1, 3]))]
    return _place(draw, text, b"[" + b",".join(items * _size(draw, 1 << 14)) + b"]")


def deep(draw: random.Random, number: int, text: bytes) -> bytes:
    """Nested around the limit, far beyond it, or not closed."""
    levels = draw.choice([1, 28, 29, 30, 31, 32, 33, 40, _size(draw)])
    opens, closes = draw.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
    return _place(draw, text, opens * levels + b"1" + closes * draw.choice([levels, levels, levels - 1, 0]))


def text_of(draw: random.Random, number: int, text: bytes) -> bytes:
    """A string of escapes, surrogates, controls or broken UTF-8: as a value, as a name, or in a field of the
    schema."""
    octets = b"".join(draw.choices(TEXTS, k=draw.choice([1, 2, 3]))) * draw.choice(
        [1, 1, 5, _size(draw, 1 << 14)]
    )
    kind = draw.randrange(3)
    if kind == 0:
        return _replaced(draw, text, b'"' + octets + b'"')
    return _place(draw, text, b'"' + octets + b'"') if kind == 1 else _member(text, octets[:200], b"1")


def backslashes(draw: random.Random, number: int, text: bytes) -> bytes:
    """Runs of backslashes before a quote, even and odd."""
    run = b"\\" * draw.choice([1, 2, 3, 7, 8, 9, 10, _size(draw, 1 << 14)])
    return _place(draw, text, b'"a' + run + draw.choice([b'"', b'""', b'\\"x"', b'":1,"']))


def number_of(draw: random.Random, number: int, text: bytes) -> bytes:
    """A number in an unusual or wrong spelling, in a field of the schema or elsewhere."""
    long = [
        b"9" * _size(draw, 1 << 14),
        b"0." + b"3" * _size(draw, 1 << 12),
        b"1e%d" % draw.randrange(-400, 400),
    ]
    digits = draw.choice([*NUMBERS, *long, *SMALL * 8])
    if draw.random() < 0.4:
        return _place(draw, text, digits)
    return re.sub(
        rb'("(?:%b)": ?)[^,}]*' % draw.choice(NUMERIC), lambda found: found[1] + digits, text, count=1
    )


def time_of(draw: random.Random, number: int, text: bytes) -> bytes:
    """recorded_at in an unusual or wrong spelling."""
    return re.sub(rb'("recorded_at": ?")[^"]*', lambda found: found[1] + draw.choice(TIMES), text, count=1)


def type_of(draw: random.Random, number: int, text: bytes) -> bytes:
    """A value of any type, in place of another or beside the others."""
    value = draw.choice(VALUES)
    return _replaced(draw, text, value) if draw.random() < 0.5 else _place(draw, text, value)


def missing(draw: random.Random, number: int, text: bytes) -> bytes:
    """A name less, or another in its place, or the same one written with an escape."""
    name = draw.choice(_names(text) or [b'""'])
    escaped = b'"\\u%04x%b' % (name[1], name[2:])
    return text.replace(name, draw.choice([b'"x"', name.upper(), b'""', escaped]), 1)


def twice(draw: random.Random, number: int, text: bytes) -> bytes:
    """A name twice, in the report or within a value, equal or in another spelling."""
    again = draw.choice(
        [
            b'"accuracy":0.9',
            b'"a":1,"a":1',
            b'"a":1,"\\u0061":2',
            b'"execution_context":{}',
            b'"\\u0061ccuracy":0.9',
        ]
    )
    return (
        text[:-1] + b"," + again + b"}"
        if draw.random() < 0.6
        else _place(draw, text, b"{" + again + b"," + again + b"}")
    )


def spaced(draw: random.Random, number: int, text: bytes) -> bytes:
    """Spaces, and what some take for spaces, around a token, before or behind the report."""
    space = draw.choice(SPACES) * draw.choice([1, 1, _size(draw, 1 << 10)])
    mark = draw.choice([b":", b",", b"{", b"}", b'"'])
    place = draw.choice(
        [0, len(text), max(text.find(mark), 0), max(text.rfind(mark), 0), max(text.find(mark), 0) + 1]
    )
    return text[:place] + space + text[place:]


def broken(draw: random.Random, number: int, text: bytes) -> bytes:
    """Cut short, doubled, wrapped, with something before or behind it, or no report at all."""
    cut, size, plain = draw.randrange(len(text) + 1), _size(draw), text.decode(errors="replace")
    cuts = [text[:cut], text[cut:]]
    doubled = [
        text + text,
        text + b" " + text,
        text + b"{}",
        b"[" + text + b"]",
        json.dumps(plain).encode(),
        plain.encode("utf-16"),
    ]
    beside = [b"\xef\xbb\xbf" + text, text + b"\0", text + b"x", b"\0" + text]
    others = [b"", b"{}", b"[]", b"null", b"{", b"}", b'"', b'{"', b"{{}}", b"{}{}", b",", b"{,}", b"{\n}"]
    return draw.choice(
        cuts + doubled + beside + others + [mark * size for mark in (b"\0", b"{", b'"', b"\\", b"[")]
    )


def mutated(draw: random.Random, number: int, text: bytes) -> bytes:
    """A few bytes changed, removed, added or repeated, wherever they are."""
    octets = bytearray(text)
    for _ in range(draw.choice([1, 1, 2, 8])):
        place = draw.randrange(len(octets) + 1)
        kind = draw.randrange(4)
        if kind == 0 and place < len(octets):
            octets[place] = draw.choice(b'{}[]":,\\0-.eE \n\0\xffanu')
        elif kind == 1:
            del octets[place : place + draw.choice([1, 1, 20])]
        elif kind == 2:
            octets[place:place] = draw.choice(
                [b'"', b"\\", b"{", b"}", b",", b":", b"\n", b"null", b"\xff", b"0"]
            )
        else:
            octets[place:place] = octets[max(place - 30, 0) : place]
    return bytes(octets)


def large(draw: random.Random, number: int, text: bytes) -> bytes:
    """A list of equal items, once in a long while about as large as a payload may be, or larger."""
    unit = draw.choice([*VALUES, b"1e300", b"12345678901234567890", b'"\\u00e9"', b'"\\\\"', b'{"a":1}'])
    size = draw.choice([LARGEST - 2000] * 3 + [8 * LARGEST]) if draw.random() < 0.02 else 200
    return _place(draw, text, b"[" + (unit + b",") * (size // (len(unit) + 1)) + b"1]")


SHAPES: dict[str, Shape] = {
    shape.__name__: shape
    for shape in (
        wide,
        long_list,
        deep,
        text_of,
        backslashes,
        number_of,
        time_of,
        type_of,
        missing,
        twice,
        spaced,
        broken,
        mutated,
        large,
    )
}
