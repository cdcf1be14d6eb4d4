"""Where a report's milliseconds go in a stream, and what it costs in CPU: the part `journey` of
`stream.py`."""

import itertools
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from schemas.registry import load
from tests.benchmarks import bench
from tests.benchmarks.parts import BACKLOG, BACKLOG_PER_MINUTE, RATES, WARM_SECONDS, Outcome, Plan, settled
from tests.benchmarks.trials import KPIFLOW, Passed, Spent, Trial, received_us
from transforms.core.arrow_coder import BatchCoder
from transforms.sources.archives.archive_files import find_files
from transforms.sources.archives.archive_reader import Chunk, read_files
from transforms.validation.validate import MessageRules, judge_block

STEPS = {
    "read": "until the reader's next read; the answer of Redis",
    "validated": "the archive, validation",
    "shuffled": "the rest of the read session, Flink's shuffle to the other worker",
    "remembered": "dedup, baseline; state is written after the rows went on",
    "enriched": "flags, scores",
    "published": "XADD to the live streams",
    "written": "gathering, for 5 s or 64 batches; Parquet, fsync",
}
"""The points that a report passes, and what happens between each and the one before; the first comes after
XADD."""
WRITTEN = "written"
READER, OTHERS = "the worker that reads and validates", "other workers"
WORKERS = {"read": READER, "shuffled": "the worker with history", "written": "a worker that writes tables"}
"""What a worker is called in which messages pass a point, and none before it."""
NODES = 10
NETWORK_BYTES = 1.25e9
"""What a node of a cluster can send in a second: 10 Gbit."""

Journeys = dict[str, NDArray[np.float64]]
"""For each point, milliseconds since XADD, one value a report."""


@dataclass(frozen=True)
class Cost:
    """CPU microseconds a message in a process, when a backlog is drained and at a steady rate; none where
    none has that name."""

    process: str
    drained: float | None = None
    steady: float | None = None


def journey(plan: Plan) -> Outcome:
    """The way of reports at two rates, and what they cost there, in a drain and in a backfill."""
    folder, lines = plan.folder / "journey", []
    steady: dict[str, float] = {}
    for rate in RATES:
        journeys, steady = _followed(folder, rate, max(15.0, 120 * plan.scale))
        lines += [
            "",
            f"{rate:,} messages a minute, {len(journeys[WRITTEN]):,} reports:",
            "",
            *steps(journeys),
        ]
    entries = int(BACKLOG * plan.scale)
    drained, backfilled, shuffled = _drained(folder, entries)
    costs = costs_of(drained, steady)
    lines += ["", f"A backlog of {entries:,} messages:", "", *costs_table(costs, backfilled, RATES[-1])]
    lines += ["", *paper_table(costs, shuffled, NODES, os.cpu_count() or 1)]
    return Outcome([], lines=lines)


def journeys_of(passed: Mapping[str, Passed], since_us: int) -> Journeys:
    """The reports that were received since some moment and have passed every point; the first time counts."""
    firsts = {}
    for point, stamps in passed.items():
        ids, first = np.unique(stamps[:, 0], return_index=True)
        firsts[point] = ids, stamps[first, 1]
    everywhere = np.array(
        sorted(set.intersection(*(set(ids.tolist()) for ids, _ in firsts.values()))), np.int64
    )
    everywhere = everywhere[received_us(everywhere) >= since_us]
    began = received_us(everywhere)
    return {
        point: (times[np.searchsorted(ids, everywhere)] - began) / 1000
        for point, (ids, times) in firsts.items()
    }


def steps(journeys: Journeys) -> Iterator[str]:
    """A line a point: the time since the point before, and since XADD."""
    yield "| from there to | what happens | p50 ms | p99 ms | since XADD, p50 | p99 |"
    yield "|---|---|---|---|---|---|"
    points = [point for point in STEPS if point in journeys]
    before = dict(zip(points[1:], points))
    if WRITTEN in journeys:
        before[WRITTEN] = "enriched"  # beside what is published
    for point in points:
        total = journeys[point]
        step = total - journeys[before[point]] if point in before else total
        cells = [f"{np.percentile(values, percent):,.1f}" for values in (step, total) for percent in (50, 99)]
        yield f"| {point} | {STEPS[point]} | {' | '.join(cells)} |"


def costs_of(drained: Mapping[str, float], steady: Mapping[str, float]) -> list[Cost]:
    """The costs of every process of either run: which worker has which steps, Flink may decide otherwise each
    time."""
    return [Cost(name, drained.get(name), steady.get(name)) for name in dict.fromkeys([*drained, *steady])]


def costs_table(costs: Sequence[Cost], backfilled: float, rate: int) -> Iterator[str]:
    """A line a process, one of all of them, and the same messages in a backfill."""
    yield f"| CPU us a message | drained | at {rate:,} a minute |"
    yield "|---|---|---|"
    total = Cost(
        "all of them", sum(cost.drained or 0.0 for cost in costs), sum(cost.steady or 0.0 for cost in costs)
    )
    for cost in (*costs, total):
        cells = ["" if us is None else f"{us:,.1f}" for us in (cost.drained, cost.steady)]
        yield f"| {cost.process} | {' | '.join(cells)} |"
    yield f"| kpiflow backfill, without its start | {backfilled:,.1f} | |"


def paper_table(costs: Sequence[Cost], shuffled: float, nodes: int, cores: int) -> Iterator[str]:
    """What bounds a cluster of `nodes` of `cores` each, in messages a second, from the costs of a drain.

    Assumes that workers and Flink share the cores evenly, which many streams and shards allow; that each
    Redis has a core of its own elsewhere; and that shards lie where chance puts them, so that of the
    `shuffled` bytes of reports one part in `nodes` stays.
    """
    drained = {cost.process: cost.drained for cost in costs if cost.drained is not None}
    redis = drained["redis-server"]
    working = sum(us for name, us in drained.items() if name not in {"redis-server", "launcher"})
    reader = drained[READER]
    travel = shuffled * (nodes - 1) / nodes
    yield f"| bound of {nodes} nodes of {cores} cores | from | messages/s |"
    yield "|---|---|---|"
    yield f"| one core | {working:,.1f} us in workers and Java | {1e6 / working:,.0f} |"
    yield f"| all cores | {nodes * cores} of them | {nodes * cores * 1e6 / working:,.0f} |"
    yield f"| one stream key, which one process reads | {reader:,.1f} us | {1e6 / reader:,.0f} |"
    yield f"| one Redis (one thread): reading alone, no XADD | {redis:,.1f} us | {1e6 / redis:,.0f} |"
    rate = nodes * NETWORK_BYTES / travel
    yield f"| network of 10 Gbit/s a node, to history | {travel:,.0f} bytes travel | {rate:,.0f} |"


def _followed(folder: Path, per_minute: int, seconds: float) -> tuple[Journeys, dict[str, float]]:
    """The journeys at a rate after the warm-up, and CPU microseconds a message in each process meanwhile."""
    with Trial(folder) as trial:
        job = trial.stream("--live", "--live-maxlen", 1_000_000_000)
        trial.until(trial.reads, job)
        sender = trial.send(int(per_minute * (WARM_SECONDS + seconds) / 60), per_minute)
        trial.until(lambda: trial.sent() > 0, job, sender)
        time.sleep(WARM_SECONDS)
        since, before, sent = time.time_ns() // 1000, trial.cpu(job), trial.sent()
        trial.until(lambda: sender.poll() is not None, job)
        trial.ends_well(sender)
        spent = _between(before, trial.cpu(job), trial.points(), trial.sent() - sent)
        trial.until(lambda: len(trial.stamps()) >= trial.sent(), job)
        settled(trial)
        trial.until(lambda: len(trial.passed(WRITTEN)) >= len(trial.passed("published")), job)
        trial.stop(job)
        return journeys_of({point: trial.passed(point) for point in STEPS}, since), spent


def _drained(folder: Path, messages: int) -> tuple[dict[str, float], float, float]:
    """CPU microseconds a message: in each process that drains a backlog, and in a backfill of its archive;
    bytes of a report."""
    with Trial(folder) as trial:
        entries = trial.load(messages, max(10, messages // BACKLOG_PER_MINUTE))
        job = trial.stream("--until-idle")
        trial.until(trial.reads, job)
        before = trial.cpu(job)
        after = dict(before)

        def ended() -> bool:
            after.update(
                {pid: spent for pid, spent in trial.cpu(job).items() if spent.seconds}
            )  # what has ended counts too
            return job.poll() is not None

        trial.until(ended, every=0.25)
        trial.ends_well(job)
        trial.reconcile()
        spent = _between(before, after, trial.points(), entries)
        archive = trial.folder / "archive"
        return spent, _backfilled(archive, trial.folder, entries), _shuffled_bytes(archive)


def _between(
    before: Mapping[int, Spent], after: Mapping[int, Spent], points: Mapping[int, set[str]], messages: int
) -> dict[str, float]:
    """CPU microseconds a message; a worker is called by the first point that messages pass in it."""
    found: dict[str, float] = {}
    for pid, spent in sorted(after.items()):
        name = next((name for point, name in WORKERS.items() if point in points.get(pid, ())), spent.name)
        name = OTHERS if name.startswith("worker ") else name
        seconds = spent.seconds - (before[pid].seconds if pid in before else 0.0)
        found[name] = found.get(name, 0.0) + 1e6 * seconds / messages
    return found


def _backfilled(archive: Path, folder: Path, messages: int) -> float:
    """CPU microseconds a message of a backfill, less what one of a single message takes."""
    first = next(archive.rglob("*.ndjson*"))
    single = folder / "single" / "one.ndjson"
    single.parent.mkdir()
    chunk = next(chunk for chunk in read_files(find_files([str(first)])) if isinstance(chunk, Chunk))
    single.write_bytes(chunk.messages["payload"][0].as_py())
    cpu = []
    for source in (archive, single):
        output = folder / "backfilled"
        cpu.append(bench.run([*KPIFLOW, "backfill", "--input", str(source), "--output", str(output)]).cpu)
        shutil.rmtree(output)
    return 1e6 * (cpu[0] - cpu[1]) / messages


def _shuffled_bytes(archive: Path) -> float:
    """Bytes of a report as it is sent from validation to history, by its first few thousand."""
    chunks = itertools.islice(
        (chunk for chunk in read_files(find_files([str(archive)]), 1 << 20) if isinstance(chunk, Chunk)), 4
    )
    reports = [judge_block(chunk.messages, load("kpi_report"), MessageRules())[0] for chunk in chunks]
    return sum(len(BatchCoder().encode(batch)) for batch in reports) / sum(
        batch.num_rows for batch in reports
    )
