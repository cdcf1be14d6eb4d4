"""What `stream.py` measures of a streaming job, beside `journey`: latency, drain, soak, keys, recovery. Each
part gives figures."""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.trials import KEY, PATIENCE, Sample, Stamps, Trial
from tests.integration.streaming import kill
from transforms.sinks.publish import ENRICHED

WARM_SECONDS = 30
RATES = (10_000, 100_000)
"""Messages a minute at which latency is measured."""
BACKLOG, BACKLOG_PER_MINUTE = 1_000_000, 10_000
SOAK_RATE, SOAK_MINUTES, SETTLED_MINUTES, FLAT = 15_000, 35.0, 5.0, 0.05
RENEW_MINUTES = 30.0
"""As a stream does by itself: the soak goes on through a renewal."""
SOAK_SETTINGS = ("--stale-seconds", 300)
"""A report may come this late, so that an hour and a half of messages fills history."""
SOAK_HISTORY_MINUTES, SOAK_HISTORY_AGO = 75, 2
"""The soak begins with history as full as it gets: 62 minutes, and those that a report may come late."""
IDLE_KEYS = tuple(f"{KEY}_idle_{number}" for number in range(3))
BUSY_KEYS = (KEY, f"{KEY}_2")
RECOVERY_RATE, STEADY_SECONDS = 10_000, 20
_PROMPT_US = 1_000_000
_OUTAGE_US = 2_000_000
_STAYS_US = 10_000_000
_CAUGHT_UP_US = 60_000_000
_MESSAGE = re.compile(rb'"message_id":"((\d+)-\d+)"')


@dataclass(frozen=True)
class Figure:
    """One number of the table."""

    part: str
    case: str
    measure: str
    value: float
    unit: str


@dataclass(frozen=True)
class Plan:
    """Where to measure, at what share of the full size, and the settings that drain fastest."""

    folder: Path
    scale: float
    best: tuple[str, ...]


@dataclass
class Outcome:
    """A part's figures; for one that lasts, how the job did each minute; and lines of Markdown, where figures
    are no fit."""

    figures: list[Figure]
    minutes: list[Sample] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Latency:
    """Milliseconds from XADD to validated and to enriched, one value a message; growth of the checkpoint, MiB
    a minute."""

    validated: NDArray[np.float64]
    enriched: NDArray[np.float64]
    growth: float

    def figures(self, part: str, case: str) -> Iterator[Figure]:
        for name, values in (
            ("XADD to validated", self.validated),
            ("XADD to enriched, live", self.enriched),
        ):
            for percent in (50, 99):
                yield Figure(part, case, f"{name}, p{percent}", float(np.percentile(values, percent)), "ms")
        yield Figure(part, case, "messages measured", len(self.validated), "")
        yield Figure(part, case, "checkpoint growth", self.growth, "MiB/min")


@dataclass(frozen=True)
class Drained:
    """How a backlog was read: seconds from the first read until all was validated, was in tables, and all
    windows were written."""

    messages: int
    validated: float
    tables: float
    windows: float

    def figures(self, part: str, case: str) -> Iterator[Figure]:
        yield Figure(part, case, "read and validated (lag 0)", self.messages / self.validated, "messages/s")
        yield Figure(part, case, "every message in its table", self.messages / self.tables, "messages/s")
        yield Figure(part, case, "until the last aggregation is written", self.windows, "s")


def latency(plan: Plan) -> Outcome:
    """XADD -> validated and -> enriched live, at two rates."""
    figures = []
    for rate in RATES:
        measured = _live(plan.folder / "latency", rate, max(15.0, 120 * plan.scale))
        figures += list(measured.figures("latency", f"{rate:,}/min"))
    return Outcome(figures)


def drain(plan: Plan) -> Outcome:
    """How fast a backlog is read, with the default settings and with the best."""
    messages = int(BACKLOG * plan.scale)
    settings: dict[str, tuple[str, ...]] = {"default settings": (), " ".join(plan.best): plan.best}
    drained = {case: _drain(plan.folder / "drain", messages, words) for case, words in settings.items()}
    return Outcome(
        [
            figure
            for case, result in drained.items()
            for figure in result.figures("drain", f"{messages:,}, {case}")
        ]
    )


def soak(plan: Plan) -> Outcome:
    """A steady rate for more than half an hour, through a renewal: lag, memory, checkpoint size and latency
    over time.

    A backlog fills history first, in a run of its own: else memory would grow for more than an hour before it
    can be flat.
    """
    minutes, filled = SOAK_MINUTES * plan.scale, max(1, round(SOAK_HISTORY_MINUTES * plan.scale))
    renew = ("--renew-seconds", max(10, round(60 * RENEW_MINUTES * plan.scale)))
    with Trial(plan.folder / "soak") as trial:
        trial.load(SOAK_RATE * filled, filled, "--late", 0, "--duplicates", 0, minutes_ago=SOAK_HISTORY_AGO)
        trial.ends_well(trial.stream("--until-idle", *SOAK_SETTINGS))
        begun = time.time_ns() // 1000
        job = trial.stream(*SOAK_SETTINGS, *renew)
        trial.until(trial.reads, job)
        sender = trial.send(int(SOAK_RATE * minutes), SOAK_RATE, "--late", 0)
        samples = _samples(trial, job, sender, every=min(5.0, 60 * minutes / 30), seconds=60 * minutes)
        trial.stop(job)
        stamps = trial.stamps()
        stamps = stamps[stamps[:, 0] >= begun]
        trial.ends_well(trial.stream("--until-idle", *SOAK_SETTINGS))
        trial.reconcile()
    figures = [*soak_figures(samples, minutes), *soak_latency(stamps, minutes)]
    return Outcome(figures, each(samples, 60 * min(1.0, minutes / 10)))


def keys(plan: Plan) -> Outcome:
    """One busy stream with three idle ones beside it, against it alone."""
    messages, seconds = int(BACKLOG / 4 * plan.scale), max(15.0, 60 * plan.scale)
    figures: list[Figure] = []
    measured = []
    for case, streams in (("one key", (KEY,)), ("and three idle", (KEY, *IDLE_KEYS))):
        drained = _drain(plan.folder / "keys", messages, (), streams)
        live = _live(plan.folder / "keys", RATES[0], seconds, streams)
        figures += [*drained.figures("keys", case), *live.figures("keys", f"{case}, {RATES[0]:,}/min")]
        measured.append(
            (drained.validated, float(np.median(live.enriched)), float(np.percentile(live.enriched, 99)))
        )
    alone, beside = np.array(measured)
    names = ("time to drain", "XADD to enriched, live, p50", "XADD to enriched, live, p99")
    return Outcome(
        figures
        + [Figure("keys", "four to one", name, float(r), "x") for name, r in zip(names, beside / alone)]
    )


def parallel(plan: Plan) -> Outcome:
    """Two busy streams, read with parallelism 1 and then 2."""
    messages, seconds = int(BACKLOG / 4 * plan.scale), max(15.0, 60 * plan.scale)
    figures: list[Figure] = []
    for parallelism in (1, 2):
        case, words = f"two keys, parallelism {parallelism}", ("--parallelism", str(parallelism))
        drained = _drain(plan.folder / "parallel", messages, words, BUSY_KEYS, busy=2)
        live = _live(plan.folder / "parallel", RATES[0], seconds, BUSY_KEYS, words, busy=2)
        figures += [
            *drained.figures("parallel", case),
            *live.figures("parallel", f"{case}, {RATES[0]:,}/min"),
        ]
    return Outcome(figures)


def recovery(plan: Plan) -> Outcome:
    """From SIGKILL to caught up: of a worker; of Java, and of all of it, with the command run again at
    once."""
    times = 3 if plan.scale >= 1 else 1
    kills = [part for part in ("worker", "java", "all") for _ in range(times)]
    figures = []
    with Trial(plan.folder / "recovery") as trial:
        job = trial.stream()
        trial.until(trial.reads, job)
        sender = trial.send(RECOVERY_RATE * 60, RECOVERY_RATE)
        for part in kills:
            trial.until(lambda: is_prompt(trial.stamps()), job, sender, every=1.0)
            time.sleep(STEADY_SECONDS)
            killed = time.time_ns() // 1000
            kill(job, part)
            if part != "worker":
                job.wait()
                job = trial.stream()
            trial.until(
                lambda killed=killed: outage(trial.stamps(), killed) is not None, job, sender, every=1.0
            )  # type: ignore[misc]
            again, caught_up = outage(trial.stamps(), killed) or (np.nan, np.nan)
            figures += [Figure("recovery", f"SIGKILL of {part}", "reads again", again, "s"),
                        Figure("recovery", f"SIGKILL of {part}", "caught up", caught_up, "s")]  # fmt: skip
        trial.stop(sender)
        trial.stop(job)
        trial.ends_well(trial.stream("--until-idle"))
        trial.reconcile()
    return Outcome(figures)


def _live(
    folder: Path,
    per_minute: int,
    seconds: float,
    streams: Sequence[str] = (KEY,),
    words: Sequence[str] = (),
    busy: int = 1,
) -> Latency:
    """Latency at a rate, for some seconds after the warm-up; the first `busy` streams share the rate."""
    with Trial(folder, streams) as trial:
        job = trial.stream("--live", "--live-maxlen", 1_000_000_000, *words)
        trial.until(trial.reads, job)
        messages = int(per_minute * (WARM_SECONDS + seconds) / 60)
        senders = [trial.send(messages // busy, per_minute // busy, place=place) for place in range(busy)]
        samples = _samples(trial, job, senders[0], every=1.0)
        for sender in senders[1:]:
            trial.ends_well(sender)
        trial.until(lambda: len(trial.stamps()) >= trial.sent(), job)
        settled(trial)
        stamps, published = trial.stamps(), published_at(trial.client)
    counted = stamps[:, 0].min() + WARM_SECONDS * 1_000_000
    warm = [sample for sample in samples if sample.at * 1_000_000 >= counted]
    return Latency(
        (stamps[:, 1] - stamps[:, 0])[stamps[:, 0] >= counted] / 1000,
        (published[:, 1] - published[:, 0])[published[:, 0] * 1000 >= counted].astype(np.float64),
        growth([sample.at / 60 for sample in warm], [sample.checkpoint for sample in warm]),
    )


def _drain(
    folder: Path, messages: int, words: Sequence[str], streams: Sequence[str] = (KEY,), busy: int = 1
) -> Drained:
    """Read a backlog of the first `busy` streams to its end, and prove that all of it is in the tables."""
    with Trial(folder, streams) as trial:
        for place in range(busy):
            minutes = max(10, messages // BACKLOG_PER_MINUTE)
            entries = trial.load(messages // busy, minutes, place=place)
        job = trial.stream("--until-idle", *words)
        trial.until(trial.reads, job)
        first = trial.first_read()
        trial.ends_well(job)
        trial.reconcile()
        rows, windows = (
            trial.written("kpi_reports", "quarantine", "duplicates"),
            trial.written("kpi_aggregations"),
        )
        return Drained(entries, trial.stamps()[-1, 1] / 1_000_000 - first, rows - first, windows - first)


def _samples(trial: Trial, job: Any, sender: Any, every: float, seconds: float = 0.0) -> list[Sample]:
    """How a job does while messages are sent, from the first of them on; that takes about some seconds."""
    samples: list[Sample] = []

    def ended() -> bool:
        if trial.sent():
            samples.append(trial.sample(job))
        return sender.poll() is not None

    trial.until(ended, job, every=every, patience=PATIENCE + seconds)
    trial.ends_well(sender)
    return samples


def settled(trial: Trial) -> None:
    """Wait until nothing more is published."""
    before, now = -1, trial.client.xlen(ENRICHED)
    while before != now:
        time.sleep(3)
        before, now = now, trial.client.xlen(ENRICHED)


def published_at(client: Any) -> NDArray[np.int64]:
    """int64[n, 2], milliseconds since 1970 by Redis: when a message was added, and when its report was first
    published."""
    first: dict[bytes, tuple[int, int]] = {}
    last = b"-"
    while page := client.xrange(ENRICHED, last, count=10_000):
        for entry_id, entry in page:
            if found := _MESSAGE.search(entry[b"data"]):
                first.setdefault(found[1], (int(found[2]), int(entry_id.partition(b"-")[0])))
        last = b"(" + page[-1][0]
    return np.array(list(first.values()), np.int64).reshape(-1, 2)


def is_prompt(stamps: Stamps) -> bool:
    """Whether the newest message was validated within a second."""
    return bool(len(stamps)) and bool(stamps[-1, 1] - stamps[-1, 0] < _PROMPT_US)


def outage(stamps: Stamps, killed: int) -> tuple[float, float] | None:
    """Seconds from a kill (us since 1970) until messages are validated again, and until they are again within
    a second of XADD.

    None while that is not so, or has not yet lasted for ten seconds. Before the last pause of two seconds
    nothing counts: what was under way at the kill may still come out, and a first attempt may fail.
    """
    after = stamps[stamps[:, 1] >= killed]
    pauses = np.flatnonzero(np.diff(after[:, 1], prepend=killed) >= _OUTAGE_US)
    if not len(pauses):
        return None
    back = after[pauses[-1] :]
    prompt = np.flatnonzero(back[:, 1] - back[:, 0] < _PROMPT_US)
    if not len(prompt) or back[-1, 1] - back[prompt[0], 1] < _STAYS_US:
        return None
    return (back[0, 1] - killed) / 1_000_000, (back[prompt[0], 1] - killed) / 1_000_000


def growth(minutes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of the straight line through some values, per minute; 0 for fewer than two."""
    if len(values) < 2:
        return 0.0
    return float(np.polyfit(np.array(minutes) - minutes[0], values, 1)[0])


def each(samples: Sequence[Sample], seconds: float) -> list[Sample]:
    """The first sample of each interval of that many seconds."""
    slots = [int((sample.at - samples[0].at) // seconds) for sample in samples]
    return [sample for place, sample in enumerate(samples) if not place or slots[place] != slots[place - 1]]


def soak_latency(stamps: Stamps, minutes: float) -> Iterator[Figure]:
    """XADD to validated before and after the longest pause of a soak, which is its renewal, and that
    pause."""
    case = f"{SOAK_RATE:,}/min for {minutes:g} min"
    settled = stamps[0, 0] + 60_000_000 * minutes * SETTLED_MINUTES / SOAK_MINUTES
    late = stamps[stamps[:, 0] >= settled]
    pause = int(np.argmax(np.diff(late[:, 1])))
    ended, begun = late[pause, 1], late[pause + 1, 1]
    waited = (late[:, 1] - late[:, 0]) / 1000
    yield Figure("soak", case, "longest pause of validation (renewal)", (begun - ended) / 1_000_000, "s")
    for name, rows in (
        ("before", late[:, 1] <= ended),
        ("a minute after", late[:, 0] >= begun + _CAUGHT_UP_US),
    ):
        for percent in (50, 99) if rows.any() else ():  # a short soak ends within the minute
            value = float(np.percentile(waited[rows], percent))
            yield Figure("soak", case, f"XADD to validated {name} the pause, p{percent}", value, "ms")


def soak_figures(samples: Sequence[Sample], minutes: float) -> Iterator[Figure]:
    """Lag, checkpoint growth, and how far the memory of each process rises above what it was at minute 5 (of
    35), or falls.

    It falls where a renewal starts a process anew.
    """
    case = f"{SOAK_RATE:,}/min for {minutes:g} min"
    settled = samples[0].at + 60 * minutes * SETTLED_MINUTES / SOAK_MINUTES
    late = [sample for sample in samples if sample.at >= settled]
    lags = [sample.lag for sample in late]
    yield Figure("soak", case, "lag, median", float(np.median(lags)), "messages")
    yield Figure("soak", case, "lag, most", max(lags), "messages")
    checkpoints = growth([sample.at / 60 for sample in late], [sample.checkpoint for sample in late])
    yield Figure("soak", case, "checkpoint growth", checkpoints, "MiB/min")
    for name in sorted(late[0].rss):
        sizes = [sample.rss.get(name, np.nan) for sample in late]
        shares = np.array(sizes) / sizes[0] - 1
        rise = float(np.nanmax(shares))
        yield Figure(
            "soak",
            case,
            f"RSS of {name}, at minute {SETTLED_MINUTES / SOAK_MINUTES * minutes:g}",
            sizes[0],
            "MiB",
        )
        verdict = "within" if rise <= FLAT else "NOT within"
        yield Figure(
            "soak", case, f"RSS of {name}, highest above that ({verdict} {FLAT:.0%})", 100 * rise, "%"
        )
        yield Figure("soak", case, f"RSS of {name}, lowest", 100 * float(np.nanmin(shares)), "%")
        third = max(1, len(shares) // 3)
        trend = float(np.nanmedian(sizes[-third:]) / np.nanmedian(sizes[:third]) - 1)
        yield Figure(
            "soak", case, f"RSS of {name}, median of the last third against the first", 100 * trend, "%"
        )
