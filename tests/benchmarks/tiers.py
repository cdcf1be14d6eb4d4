"""What each tier of reading and judging gains: the same archive with and without it.

Prints a Markdown table. Lines become messages and messages are judged, in one thread and without Beam; the
time is that of the processor, so that other processes disturb little. With and without take turns in one
process, and the fastest turn of each counts. Without a tier the rows take the next slower way, with the same
verdicts: the counts are compared.

    python -m tests.benchmarks.tiers --folder build/bench --messages 200000
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa

from schemas.readers import fast_reader, raw_text
from schemas.registry import Schema, load
from tests.benchmarks.bench import AGENTS, archive, machine
from transforms.sources.archives import envelope_chunks, envelope_prefixes
from transforms.sources.archives.archive_reader import CHUNK_BYTES
from transforms.validation.validate import MessageRules, judge_messages

DIRTY = (0.0, 0.05, 0.2)
"""Parts of the messages that are to be rejected, an archive each."""
TURNS = 5

Counts = tuple[int, int]
"""Reports and rejected messages."""


@dataclass(frozen=True)
class Tier:
    """A tier by name, what rows pass without it, and how to be without it."""

    name: str
    instead: str
    without: Callable[[], AbstractContextManager]


def _find_no_prefixes(
    lines: envelope_prefixes.Lines,
) -> tuple[envelope_prefixes.Heads, envelope_prefixes.Positions]:
    none = np.zeros(0, np.int64)
    times = pa.array([], pa.timestamp("us", tz="UTC"))
    origins = pa.RecordBatch.from_arrays(
        [pa.array([], pa.string()), pa.array([], pa.string()), times],
        names=["source", "message_id", "received_at"],
    )
    return envelope_prefixes.Heads(none, origins, none, none, none.astype(np.bool_)), none


TIERS = (
    Tier(
        "layout pattern (object_pattern)",
        "rows that break Arrow's parser are looked for one by one",
        lambda: mock.patch.object(
            fast_reader, "_find_usual", lambda root, payload, rows: np.ones(len(rows), dtype=bool)
        ),
    ),
    Tier(
        "raw text cutting (raw_text)",
        "rows with a value that no schema describes go to the strict reader",
        lambda: mock.patch.object(
            raw_text, "_cut", lambda payload, place, rows, limits: (pa.nulls(len(payload), pa.string()), rows)
        ),
    ),
    Tier(
        "envelope prefixes (envelope_prefixes)",
        "each line is read by Python",
        lambda: mock.patch.object(envelope_chunks, envelope_prefixes.find_heads.__name__, _find_no_prefixes),
    ),
    Tier(
        "layouts of envelopes (envelope_prefixes)",
        "each line is matched with a pattern",
        lambda: mock.patch.object(envelope_prefixes, "LAYOUTS", 0),
    ),
)


@dataclass(frozen=True)
class Gain:
    """Messages a second of processor time, with a tier and without it."""

    tier: Tier
    dirty: float
    rate: float
    rate_without: float


def read_chunks(folder: Path) -> list[bytes]:
    """The lines of an archive's plain files, in chunks as a backfill reads them."""
    text = b"".join(path.read_bytes() for path in sorted(folder.glob("*.ndjson")))
    chunks, start = [], 0
    while start < len(text):
        end = start + CHUNK_BYTES
        end = len(text) if end >= len(text) else text.rindex(b"\n", start, end) + 1
        chunks.append(text[start:end])
        start = end
    return chunks


def judge(chunks: Sequence[bytes], schema: Schema) -> tuple[float, Counts]:
    """Seconds of the processor to decode and judge all lines, and what became of them."""
    begun, reports, rejected = time.process_time(), 0, 0
    for chunk in chunks:
        judged = judge_messages(envelope_chunks.decode_lines(chunk).messages, schema, MessageRules())
        reports, rejected = reports + judged.rows.num_rows, rejected + judged.quarantine.num_rows
    return time.process_time() - begun, (reports, rejected)


def measure(chunks: Sequence[bytes], dirty: float, turns: int = TURNS) -> Iterator[Gain]:
    """The gain of each tier."""
    schema = load("kpi_report").bounded(MessageRules().custom_metric_limit)
    _, expected = judge(chunks, schema)
    for tier in TIERS:
        best = [np.inf, np.inf]
        for turn in range(2 * turns):
            with tier.without() if turn % 2 else nullcontext():
                seconds, counts = judge(chunks, schema)
            if counts != expected:
                raise AssertionError(f"{tier.name} changes verdicts: {counts} instead of {expected}")
            best[turn % 2] = min(best[turn % 2], seconds)
        rate, rate_without = (sum(expected) / seconds for seconds in best)
        yield Gain(tier, dirty, rate, rate_without)


def write_table(gains: Sequence[Gain]) -> Iterator[str]:
    """The gains as lines of Markdown, a row for each tier and archive."""
    yield "| tier | without it | dirty | messages/s | without | ratio |"
    yield "|---|---|---|---|---|---|"
    for gain in gains:
        ratio = gain.rate / gain.rate_without
        rates = f"{gain.rate:,.0f} | {gain.rate_without:,.0f} | {ratio:.2f}"
        yield f"| {gain.tier.name} | {gain.tier.instead} | {gain.dirty:.0%} | {rates} |"


def main() -> None:
    """Run the command of this module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where archives are generated and kept")
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--turns", type=int, default=TURNS)
    asked = parser.parse_args()
    gains = []
    for dirty in DIRTY:
        chunks = read_chunks(archive(asked.folder, asked.messages, AGENTS, dirty))
        gains += measure(chunks, dirty, asked.turns)
    print(f"{machine()}; {asked.messages:,} messages, best of {asked.turns} turns, one thread\n")
    order = [tier.name for tier in TIERS]
    print(*write_table(sorted(gains, key=lambda gain: order.index(gain.tier.name))), sep="\n")


if __name__ == "__main__":
    main()
