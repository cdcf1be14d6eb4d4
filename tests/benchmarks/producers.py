"""A thousand producers at one stream, at a steady rate, in a burst of ten times that, and all at once.

As a program it is the producers: connections of their own in one process, each of which adds a message and
waits for its id.

    python -m tests.benchmarks.producers redis://localhost:6379 KEY OUT.json 1.0
"""

import asyncio
import json
import resource
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from tests.benchmarks.parts import Figure, Outcome, Plan
from tests.benchmarks.trials import Stamps, Trial

CONNECTIONS = 1000
STEADY, BURST = 10_000, 100_000
"""Messages a minute, of all connections together."""
AT_ONCE = 20
"""Messages that each connection adds as fast as it can, one after the other."""
_PROMPT_US = 1_000_000
_PATIENCE = 60.0


class Phase(NamedTuple):
    """What the producers do for some seconds: `per_minute` messages of all together; None: AT_ONCE each, as
    fast as they can."""

    name: str
    seconds: float
    per_minute: int | None


class Done(NamedTuple):
    """A phase that is over: from when to when (us since 1970), and the messages that Redis has confirmed."""

    name: str
    began: int
    ended: int
    sent: int


def phases(scale: float) -> list[Phase]:
    """Warm-up, steady, a burst, steady again, all at once, steady again."""
    calm, rest = max(10.0, 30 * scale), max(15.0, 45 * scale)
    return [
        Phase("warm-up", calm, STEADY),
        Phase("steady", calm, STEADY),
        Phase("burst", max(3.0, 10 * scale), BURST),
        Phase("after the burst", rest, STEADY),
        Phase("all at once", _PATIENCE, None),
        Phase("after all at once", rest, STEADY),
    ]


def producers(plan: Plan) -> Outcome:
    """1,000 connections that add messages, and a burst of ten times the steady rate: nothing is lost, and how
    long it is felt."""
    with Trial(plan.folder / "producers") as trial:
        job = trial.stream()
        trial.until(trial.reads, job)
        told = trial.folder / "phases.json"
        sender = trial.run("tests.benchmarks.producers", trial.server.url, trial.keys[0], told, plan.scale)
        trial.ends_well(sender)
        done = [Done(*each) for each in json.loads(told.read_text())]
        sent = sum(each.sent for each in done)
        trial.until(lambda: len(trial.stamps()) >= sent, job)
        trial.stop(job)
        trial.ends_well(trial.stream("--until-idle"))
        trial.reconcile()
        if trial.sent() != sent:
            raise SystemExit(f"{sent} messages were confirmed, and the stream had {trial.sent()}")
        figures = list(_figures(done, trial.stamps()))
    return Outcome(
        [Figure("producers", "all phases", "messages, all of them reconciled", sent, ""), *figures]
    )


def _figures(done: Sequence[Done], stamps: Stamps) -> Iterator[Figure]:
    """Rate and latency of each phase; for a peak also how long after its end messages were late."""
    for phase, after in zip(done[1:], [*done[2:], None]):
        of_phase = stamps[(stamps[:, 0] >= phase.began) & (stamps[:, 0] < phase.ended)]
        waited = (of_phase[:, 1] - of_phase[:, 0]) / 1000
        case = f"{phase.name}, {CONNECTIONS:,} connections"
        yield Figure(
            "producers",
            case,
            "messages added",
            1_000_000 * phase.sent / (phase.ended - phase.began),
            "messages/s",
        )
        for percent in (50, 99):
            yield Figure(
                "producers",
                case,
                f"XADD to validated, p{percent}",
                float(np.percentile(waited, percent)),
                "ms",
            )
        if after and after.name == f"after {'the ' if phase.name == 'burst' else ''}{phase.name}":
            yield Figure(
                "producers",
                case,
                "from its end until all is within 1 s of XADD",
                late_seconds(stamps, phase, after),
                "s",
            )


def late_seconds(stamps: Stamps, peak: Done, after: Done) -> float:
    """Seconds from the end of a peak until the last message that was validated more than a second after its
    XADD."""
    seen = stamps[(stamps[:, 0] >= peak.began) & (stamps[:, 0] < after.ended)]
    late = seen[seen[:, 1] - seen[:, 0] > _PROMPT_US]
    return max(0.0, float(late[:, 1].max() - peak.ended) / 1_000_000) if len(late) else 0.0


def report(agent: int) -> bytes:
    """A valid report of an agent, recorded now."""
    text: dict[str, Any] = {
        "task_id": str(uuid.uuid4()),
        "agent_id": str(uuid.UUID(int=agent + 1, version=4)),
        "recorded_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "latency_ms": 100.0 + agent % 50,
        "accuracy": 0.9,
        "cpu_usage": 0.5,
        "memory_mb": 512.0,
        "execution_context": {
            "hostname": f"node-{agent % 20}",
            "available_cores": 8,
            "available_memory_mb": 16384,
        },
    }
    return json.dumps(text).encode()


class Producer:
    """A connection that adds messages of its own, one at a time. Redis' own asynchronous client takes ten
    times the CPU."""

    def __init__(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str
    ) -> None:
        self.number, self.reader, self.writer = number, reader, writer
        self.head = f"*5\r\n$4\r\nXADD\r\n${len(key)}\r\n{key}\r\n$1\r\n*\r\n$4\r\ndata\r\n$".encode()

    async def add(self) -> None:
        """Add a message, and wait for its id.

        Raises:
            ConnectionError: Redis refuses it, or hangs up.
        """
        data = report(self.number)
        self.writer.write(self.head + b"%d\r\n%s\r\n" % (len(data), data))
        kind, entry_id = await self.reader.readline(), await self.reader.readline()
        if not kind.startswith(b"$") or b"-" not in entry_id:
            raise ConnectionError(f"no id for a message: {kind!r}")

    async def produce(self, phase: Phase, began: float) -> int:
        """What this one of the producers adds in a phase."""
        if phase.per_minute is None:
            for _ in range(AT_ONCE):
                await self.add()
            return AT_ONCE
        interval = 60 * CONNECTIONS / phase.per_minute
        sent, due = 0, began + interval * self.number / CONNECTIONS
        while due < began + phase.seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self.add()
            sent, due = sent + 1, due + interval
        return sent


async def through(url: str, key: str, asked: Sequence[Phase]) -> list[Done]:
    """Go through some phases with all producers connected all the time."""
    server = urlsplit(url)
    links = [await asyncio.open_connection(server.hostname, server.port) for _ in range(CONNECTIONS)]
    all_of_them = [Producer(number, *link, key) for number, link in enumerate(links)]
    done = []
    for phase in asked:
        began, now = time.monotonic(), time.time_ns() // 1000
        sent = await asyncio.gather(*(each.produce(phase, began) for each in all_of_them))
        if phase.per_minute is not None:
            await asyncio.sleep(max(0.0, began + phase.seconds - time.monotonic()))
        done.append(Done(phase.name, now, time.time_ns() // 1000, sum(sent)))
    for _, writer in links:
        writer.close()
    return done


def main(url: str, key: str, out: str, scale: str) -> None:
    """Be the producers, and write what was done in each phase."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * CONNECTIONS)), hard))
    done = asyncio.run(through(url, key, phases(float(scale))))
    Path(out).write_text(json.dumps(done), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
