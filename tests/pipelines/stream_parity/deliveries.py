"""A small world's messages as they come to Redis: late, out of order, some again; and the reads of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pyarrow as pa

from pipelines.cli import run
from tests.builders import payload
from tests.integration.archives import envelope
from tests.pipelines.stream_parity.memory_stream import Step
from transforms.core.record_batches import RAW

HOURS = 5
_HEALTH = "layer4_health"
_DELAYS = [0, 0, 0, 0.2, 2, 20, 59, 61, 90, 600, 1800, 3500, 3700, 7200]


class Message(NamedTuple):
    """A message of a stream: its id begins with the milliseconds at which it was received."""

    source: str
    message_id: str
    received_at: datetime
    data: Any

    def as_line(self) -> bytes:
        """The line of an archive."""
        return envelope(self.data, self.message_id, self.received_at, self.source)


Streams = dict[str, list[Message]]
"""By source, in the order of arrival."""
Positions = dict[str, int]
"""By source: how many of its messages were read."""


def deliver(random: Random, folder: Path) -> Streams:
    """The messages of a generated world, most of them later than it says."""
    words = ["--records", "--reports", 40, "--agents", 4, "--seed", random.randrange(10**6)]
    words += [
        "--span",
        f"{HOURS}h",
        "--inconsistent",
        0.2,
        "--late",
        0.1,
        "--dirty",
        0.1,
        "--duplicates",
        0.1,
    ]
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        assert run(["generate", "--output", str(folder), *map(str, words)]) == 0
    lines = [line for path in sorted(folder.rglob("*.ndjson")) for line in path.read_text().splitlines()]
    arrivals: dict[str, list[tuple[datetime, Any]]] = {}
    for sent in map(json.loads, lines):
        if sent["source"] == _HEALTH and random.random() < 0.9:
            continue
        at = datetime.fromisoformat(sent["received_at"]) + timedelta(seconds=random.choice(_DELAYS))
        arrivals.setdefault(sent["source"], []).append((at, sent["data"]))
        if random.random() < 0.05:
            later = at + timedelta(seconds=random.choice(_DELAYS))
            arrivals[sent["source"]].append((later, sent["data"]))
    return {source: list(_number(source, sent)) for source, sent in sorted(arrivals.items())}


def _number(source: str, sent: list[tuple[datetime, Any]]) -> Iterator[Message]:
    """The messages of a stream with the ids that Redis gives them; some have the same millisecond."""
    last, number = 0, 0
    for at, data in sorted(sent, key=lambda each: each[0]):
        millis = int(at.timestamp() * 1000) // 20 * 20
        number = number + 1 if millis == last else 0
        last = millis
        yield Message(source, f"{millis}-{number}", datetime.fromtimestamp(millis / 1000, UTC), data)


def list_times(random: Random, streams: Streams, reads: int, since: datetime | None = None) -> list[datetime]:
    """Moments from one on at which the streams are read; at the last one all has come."""
    times = [message.received_at for messages in streams.values() for message in messages]
    later = [each for each in times if since is None or each >= since]
    drawn = random.sample(later, min(reads - 1, len(later)))
    return [*sorted(drawn), max(times) + timedelta(seconds=1)]


def read(
    random: Random, streams: Streams, positions: Positions, times: Sequence[datetime]
) -> list[tuple[Step, Positions]]:
    """A read at each of these moments, with the positions after it.

    Most reach the ends of their streams, others some messages of each. The last one reaches all ends.
    """
    found = []
    for now in times:
        limit = 10**6 if now == times[-1] or random.random() < 0.7 else random.randint(1, 15)
        parts = {
            source: _take(messages, positions[source], limit, now) for source, messages in streams.items()
        }
        reached = [now if len(part) < limit else part[-1].received_at for part in parts.values()]
        positions = {source: positions[source] + len(part) for source, part in parts.items()}
        batches = [_batch(part) for part in parts.values() if part]
        random.shuffle(batches)
        watermark = int(min(reached).timestamp()) - random.choice([1, 1, 30])
        found.append((Step(batches, watermark, random.choice([1, 6, 20])), positions))
    return found


def _take(messages: Sequence[Message], position: int, limit: int, now: datetime) -> list[Message]:
    return [each for each in messages[position : position + limit] if each.received_at <= now]


def _batch(messages: Sequence[Message]) -> pa.RecordBatch:
    rows = [
        {
            "source": each.source,
            "message_id": each.message_id,
            "received_at": each.received_at,
            "payload": payload(each.data) + b"\n",
        }
        for each in messages
    ]
    return pa.RecordBatch.from_pylist(rows, schema=RAW)


def go_back(streams: Streams, committed: Mapping[str, int], seconds: int) -> Positions:
    """Where a job without a checkpoint begins: so long before what was committed."""
    begin = {}
    for source, messages in streams.items():
        place = committed[source]
        since = messages[place - 1].received_at - timedelta(seconds=seconds) if place else None
        begin[source] = sum(1 for each in messages[:place] if since and each.received_at < since)
    return begin
