"""Reports sent to a Redis stream at a steady rate: the mix of an archive, recorded when they are sent.

What arrives late was recorded earlier, 61 s to 40 min before it is sent, and a repetition follows within minutes, so that a run
lasts as long as its reports take at the rate. Who reports, which values and which mistakes depend on the seed; times do not.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.synthetic.archive import account
from pipelines.synthetic.columns import SECOND, Columns, Moments
from pipelines.synthetic.fleet import Fleet, stream
from pipelines.synthetic.injected_outliers import Injected, inject
from pipelines.synthetic.messages import COPY, RESPELLED, Fates, Messages, Mix, deal, payloads, shifted
from pipelines.synthetic.reports import KpiTestGenerator, Scenario
from pipelines.synthetic.sending import Sender

UNLIMITED = 50_000
"""Reports a second that are reckoned with where no rate is asked for."""
_LATE = (61 * SECOND, 2400 * SECOND)
_MEAN_COPY_GAP, _LONGEST_COPY_GAP = 120, 240
_OLDEST_COPY = 3300 * SECOND
_BLOCK = 5000
_BLOCK_SECONDS = 0.25
_AT_ONCE = 1000
_TICK = 0.015
_BEHIND = 1.0

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """m messages in the order they are sent: `row` int64[m] of the columns, `kind` int64[m]. `lag` int64[n]: the microseconds
    between a report's recorded_at and its sending. `per_minute` is 0 for as fast as possible."""

    row: Positions
    kind: Positions
    lag: Positions
    columns: Columns
    fleet: Fleet
    fates: Fates
    injected: Injected
    mix: Mix
    per_minute: float
    settings: dict[str, Any]

    @property
    def is_copy(self) -> NDArray[np.bool_]:
        """bool[m]: the repetitions."""
        return (self.kind == COPY) | (self.kind == RESPELLED)


def plan(
    generator: KpiTestGenerator,
    scenario: Scenario,
    mix: Mix,
    per_minute: float,
    start: int,
    warm: bool = False,
) -> Plan:
    """Draw everything but the times of a run that starts about `start` (us since 1970); `warm`: see `inject`."""
    random = stream(generator.seed, "live")
    fates = deal(mix, generator.seed, bare=False)
    per_second = per_minute / 60 or UNLIMITED
    row, kind = _order(fates, mix, per_second, random)
    interval = SECOND / per_second
    place: Positions = np.zeros(mix.rows, np.int64)
    place[row[::-1]] = np.arange(len(row))[::-1]  # of a report's places, the first
    regular = scenario == "anomaly"
    agent = (
        np.arange(mix.rows) % generator.agents if regular else random.integers(0, generator.agents, mix.rows)
    )
    moments = Moments(
        agent, start + (place * interval).astype(np.int64), start, max(1, int(len(row) * interval))
    )
    fleet = generator.fleet(scenario)
    columns = generator.columns(fleet, moments)
    injected = inject(
        columns, moments, fleet, fates.good & ~fates.late, mix.count(mix.outliers), generator.seed, warm
    )
    delay = np.minimum(2000 + random.exponential(0.2 * SECOND, mix.rows), 2 * SECOND).astype(np.int64)
    lag = np.where(fates.late, random.integers(*_LATE, mix.rows), delay)
    asked = {
        "seed": generator.seed,
        "scenario": scenario,
        "agents": generator.agents,
        "rate_per_minute": per_minute,
    } | asdict(mix)
    return Plan(row, kind, lag, injected.columns, fleet, fates, injected, mix, per_minute, asked)


def _order(
    fates: Fates, mix: Mix, per_second: float, random: np.random.Generator
) -> tuple[Positions, Positions]:
    """The row and the kind of each message: every report in turn, and its copies after it, two minutes on average if the run has
    them."""
    count = mix.rows
    copied = random.choice(np.flatnonzero(fates.good), mix.count(mix.duplicates))
    gap = random.exponential(min(_MEAN_COPY_GAP * per_second, count / 10), len(copied))
    gap = np.minimum(gap, _LONGEST_COPY_GAP * per_second)
    left = count - copied
    gap = np.where(gap < left, gap, random.random(len(copied)) * left)
    row = np.concatenate([np.arange(count), copied])
    kind = np.concatenate([fates.kind, random.integers(COPY, RESPELLED, len(copied), endpoint=True)])
    order = np.argsort(np.concatenate([np.arange(count, dtype=float), copied + gap]), kind="stable")
    return row[order], kind[order]


@dataclass
class Pace:
    """When each message is due: one after the other at `per_second`, or at once where that is 0. Lost time is not made up for."""

    per_second: float
    began: float = field(default_factory=time.monotonic)

    def due(self, places: Positions) -> NDArray[np.float64]:
        """The moments (of the monotonic clock) of messages by their places."""
        if not self.per_second:
            return np.full(len(places), time.monotonic())
        behind = time.monotonic() - self.began - float(places[0]) / self.per_second
        if behind > _BEHIND:
            self.began += behind
        return self.began + places / self.per_second

    def at_once(self) -> int:
        """How many messages make up one step."""
        return int(np.clip(self.per_second * _TICK, 1, _AT_ONCE)) if self.per_second else _AT_ONCE

    def block(self) -> int:
        """How many messages are encoded ahead."""
        return int(np.clip(self.per_second * _BLOCK_SECONDS, 1, _BLOCK)) if self.per_second else _BLOCK


class Run:
    """One run of a plan: `sent` bool[m] tells how far it came, `problem` why it could not go on, `recorded` int64[n] us when each
    report said it was recorded."""

    def __init__(self, plan: Plan, sender: Sender, stop: Event) -> None:
        self._plan, self._sender, self._stop = plan, sender, stop
        self._pace = Pace(plan.per_minute / 60)
        self.recorded = plan.columns.recorded.copy()
        self.sent: NDArray[np.bool_] = np.zeros(len(plan.row), bool)
        self._known: NDArray[np.bool_] = np.zeros(
            len(plan.lag), bool
        )  # the reports of which some copy arrived
        self.complete = False
        self.unsure = 0
        self.problem = ""

    def send(self, on_sent: Callable[[int], None]) -> None:
        """Send all messages at the rate, until it is stopped, or there is a `problem`; `on_sent` is told how many more arrived."""
        count, size = len(self.sent), self._pace.block()
        for first in range(0, count, size):
            left: Positions = np.arange(first, min(first + size, count))
            while len(left):
                left = self._send_block(left, on_sent)
                if self._stop.is_set() or self.problem:
                    return
        self.complete = True

    def _send_block(self, places: Positions, on_sent: Callable[[int], None]) -> Positions:
        """Send these messages; those that must be encoded once more, because Redis was away before they were sent."""
        due = self._pace.due(places)
        places, due, texts = self._encoded(places, due)
        for step in self._steps(due):
            arrived, unsure, away, self.problem = self._sender.send(texts[step])
            self.sent[places[step]] = arrived
            self._known[self._plan.row[places[step][arrived]]] = True
            self.unsure += unsure
            on_sent(int(arrived.sum()))
            if away or self.problem:
                self._pace.began += away
                return places[~self.sent[places]]
        return places[:0]

    def _encoded(
        self, places: Positions, due: NDArray[np.float64]
    ) -> tuple[Positions, NDArray[np.float64], pa.StringArray]:
        """The messages' payloads, as of when they are due. A copy of a report that is about to be stale is left out."""
        plan = self._plan
        received = self._sender.now_us() + ((due - time.monotonic()) * SECOND).astype(np.int64)
        row, copy = plan.row[places], plan.is_copy[places]
        new = ~copy & ~self._known[row]
        self.recorded[row[new]] = received[new] - plan.lag[row[new]]
        kept = ~copy | (received - self.recorded[row] < _OLDEST_COPY)
        places, due, row, received = places[kept], due[kept], row[kept], received[kept]
        kind = plan.kind[places]
        columns = replace(plan.columns.take(row), recorded=self.recorded[row])
        return places, due, payloads(shifted(columns, kind, received), kind, row, plan.fleet, bare=True)

    def _steps(self, due: NDArray[np.float64]) -> Iterator[slice]:
        """Parts of a block, each when its last message is due, until it is stopped."""
        for first in range(0, len(due), self._pace.at_once()):
            step = slice(first, min(first + self._pace.at_once(), len(due)))
            pause = due[step][-1] - time.monotonic()
            if self._stop.wait(pause) if pause > 0 else self._stop.is_set():
                return
            yield step

    def truth(self) -> dict[str, Any]:
        """What must become of the messages that were sent, as `truth.json` of an archive has it."""
        plan = self._plan
        messages = Messages(
            plan.row[self.sent], plan.kind[self.sent], np.zeros(int(self.sent.sum()), np.int64)
        )
        rows = np.flatnonzero(self._known)
        new = np.full(len(self.recorded), -1)
        new[rows] = np.arange(len(rows))
        outliers = {metric: new[at][new[at] >= 0] for metric, at in plan.injected.rows.items()}
        injected = Injected(plan.columns.take(rows), outliers)
        fates = Fates(plan.fates.kind[rows], plan.fates.late[rows])
        counts = account(messages, fates, injected, plan.mix.count(plan.mix.outliers), plan.fleet)
        ending = {"complete": self.complete, "unsure": self.unsure}
        return (
            {name: plan.settings[name] for name in ("seed", "scenario")}
            | counts
            | ending
            | {"settings": plan.settings}
        )
