"""Reports sent to a Redis stream at a steady rate: the mix of an archive, recorded when they are sent.

A late report is recorded 61 s to 40 min before it is sent, and a repetition follows within minutes, so a run
lasts as long as its messages take at the rate. Agents, values and mistakes depend on the seed; times do not.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.synthetic.archive import describe_fates
from pipelines.synthetic.columns import SECOND, Columns, Moments
from pipelines.synthetic.fleet import Fleet, make_random
from pipelines.synthetic.injected_outliers import Injected, inject_outliers
from pipelines.synthetic.messages import (
    COPY,
    RESPELLED,
    Fates,
    Messages,
    Mix,
    deal_fates,
    format_payloads,
    shift_times,
)
from pipelines.synthetic.reports import KpiTestGenerator, Scenario
from pipelines.synthetic.sending import Sender

UNLIMITED = 50_000
"""Reports a second that are assumed if no rate is given."""
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
    """m messages in the order in which they are sent.

    `row` int64[m] of the columns; `kind` int64[m]; `lag` int64[n]: microseconds from a report's recorded_at
    until it is sent. `per_minute` is 0 for as fast as possible.
    """

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
    """Draw a run, except its times. It starts at about `start` (microseconds since 1970).

    `warm`: see `inject_outliers`.
    """
    random = make_random(generator.seed, "live")
    fates = deal_fates(mix, generator.seed, bare=False)
    per_second = per_minute / 60 or UNLIMITED
    row, kind = _order_messages(fates, mix, per_second, random)
    moments = _draw_moments(generator, scenario, mix, row, SECOND / per_second, start, random)
    fleet = generator.fleet(scenario)
    columns, feeding = generator.columns(fleet, moments), fates.good & ~fates.late
    asked = mix.count(mix.outliers)
    injected = inject_outliers(columns, moments, fleet, feeding, asked, generator.seed, warm)
    delay = np.minimum(2000 + random.exponential(0.2 * SECOND, mix.rows), 2 * SECOND).astype(np.int64)
    lag = np.where(fates.late, random.integers(*_LATE, mix.rows), delay)
    options: dict[str, Any] = {"seed": generator.seed, "scenario": scenario, "agents": generator.agents}
    options |= {"rate_per_minute": per_minute, **asdict(mix)}
    return Plan(row, kind, lag, injected.columns, fleet, fates, injected, mix, per_minute, options)


def _draw_moments(
    generator: KpiTestGenerator,
    scenario: Scenario,
    mix: Mix,
    row: Positions,
    interval: float,
    start: int,
    random: np.random.Generator,
) -> Moments:
    """The agent of each report, and the time at which its first message is due, `interval` microseconds
    apart.
    """
    first: Positions = np.zeros(mix.rows, np.int64)
    first[row[::-1]] = np.arange(len(row))[::-1]  # reversed: the first place is written last
    agents = generator.agents
    regular = scenario == "anomaly"
    agent = np.arange(mix.rows) % agents if regular else random.integers(0, agents, mix.rows)
    span = max(1, int(len(row) * interval))
    return Moments(agent, start + (first * interval).astype(np.int64), start, span)


def _order_messages(
    fates: Fates, mix: Mix, per_second: float, random: np.random.Generator
) -> tuple[Positions, Positions]:
    """The row and the kind of each message: every report in turn, and its copies later.

    A copy follows after two minutes on average, or sooner in a run that is shorter.
    """
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
    """When each message is due: `per_second`, or at once if that is 0. Lost time is not made up for."""

    per_second: float
    began: float = field(default_factory=time.monotonic)

    def due(self, places: Positions) -> NDArray[np.float64]:
        """The times (of the monotonic clock) of messages by their places."""
        if not self.per_second:
            return np.full(len(places), time.monotonic())
        behind = time.monotonic() - self.began - float(places[0]) / self.per_second
        if behind > _BEHIND:
            self.began += behind
        return self.began + places / self.per_second

    def at_once(self) -> int:
        """The number of messages of one step."""
        return int(np.clip(self.per_second * _TICK, 1, _AT_ONCE)) if self.per_second else _AT_ONCE

    def block(self) -> int:
        """The number of messages that are encoded ahead."""
        return int(np.clip(self.per_second * _BLOCK_SECONDS, 1, _BLOCK)) if self.per_second else _BLOCK


class Run:
    """One run of a plan.

    `sent` bool[m]: which messages are sent. `problem`: why it could not continue. `recorded` int64[n]:
    recorded_at of each report in microseconds.
    """

    def __init__(self, plan: Plan, sender: Sender, stop: Event) -> None:
        self._plan, self._sender, self._stop = plan, sender, stop
        self._pace = Pace(plan.per_minute / 60)
        self.recorded = plan.columns.recorded.copy()
        self.sent: NDArray[np.bool_] = np.zeros(len(plan.row), bool)
        # The reports of which some copy arrived.
        self._known: NDArray[np.bool_] = np.zeros(len(plan.lag), bool)
        self.complete = False
        self.unsure = 0
        self.problem = ""

    def send(self, on_sent: Callable[[int], None]) -> None:
        """Send all messages at the rate, until stopped or a `problem` occurs.

        `on_sent` gets the number of messages that arrived in each step.
        """
        count, size = len(self.sent), self._pace.block()
        for first in range(0, count, size):
            left: Positions = np.arange(first, min(first + size, count))
            while len(left):
                left = self._send_block(left, on_sent)
                if self._stop.is_set() or self.problem:
                    return
        self.complete = True

    def _send_block(self, places: Positions, on_sent: Callable[[int], None]) -> Positions:
        """Send these messages.

        Returns those to encode again, because Redis was unavailable before they were sent.
        """
        due = self._pace.due(places)
        places, due, texts = self._encode(places, due)
        for step in self._wait_for_steps(due):
            arrived, unsure, away, self.problem = self._sender.send(texts[step])
            self.sent[places[step]] = arrived
            self._known[self._plan.row[places[step][arrived]]] = True
            self.unsure += unsure
            on_sent(int(arrived.sum()))
            if away or self.problem:
                self._pace.began += away
                return places[~self.sent[places]]
        return places[:0]

    def _encode(
        self, places: Positions, due: NDArray[np.float64]
    ) -> tuple[Positions, NDArray[np.float64], pa.StringArray]:
        """The payloads at the time they are due, without copies of reports that are nearly stale."""
        plan = self._plan
        received = self._sender.now_us() + ((due - time.monotonic()) * SECOND).astype(np.int64)
        row, copy = plan.row[places], plan.is_copy[places]
        new = ~copy & ~self._known[row]
        self.recorded[row[new]] = received[new] - plan.lag[row[new]]
        kept = ~copy | (received - self.recorded[row] < _OLDEST_COPY)
        places, due, row, received = places[kept], due[kept], row[kept], received[kept]
        kind = plan.kind[places]
        columns = replace(plan.columns.take(row), recorded=self.recorded[row])
        return (
            places,
            due,
            format_payloads(shift_times(columns, kind, received), kind, row, plan.fleet, bare=True),
        )

    def _wait_for_steps(self, due: NDArray[np.float64]) -> Iterator[slice]:
        """Yields the parts of a block, each when its last message is due, until stopped."""
        for first in range(0, len(due), self._pace.at_once()):
            step = slice(first, min(first + self._pace.at_once(), len(due)))
            pause = due[step][-1] - time.monotonic()
            if self._stop.wait(pause) if pause > 0 else self._stop.is_set():
                return
            yield step

    def truth(self) -> dict[str, Any]:
        """The expected fates of the messages that were sent, in the form of an archive's `truth.json`."""
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
        counts = describe_fates(messages, fates, injected, plan.mix.count(plan.mix.outliers), plan.fleet)
        ending = {"complete": self.complete, "unsure": self.unsure}
        return (
            {name: plan.settings[name] for name in ("seed", "scenario")}
            | counts
            | ending
            | {"settings": plan.settings}
        )
