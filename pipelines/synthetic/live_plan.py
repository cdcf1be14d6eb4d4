"""Which messages a live run sends, in which order, and when each is due."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.synthetic.columns import SECOND, Columns, ReportTimes
from pipelines.synthetic.fleet import Fleet, make_random
from pipelines.synthetic.injected_outliers import Injected, inject_outliers
from pipelines.synthetic.messages import COPY, RESPELLED, Fates, Messages, Mix, deal_fates
from pipelines.synthetic.records.live import FIRST, LiveRecords
from pipelines.synthetic.records.world import World, build_world_at
from pipelines.synthetic.reports import KpiTestGenerator, Scenario
from schemas.kinds import REPORT_KIND

UNLIMITED = 50_000
"""Reports a second that are assumed if no rate is given."""
REPORT = REPORT_KIND.schema
_LATE = (61 * SECOND, 2400 * SECOND)
_MEAN_COPY_GAP, _LONGEST_COPY_GAP = 120, 240

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class LivePlan:
    """m messages in the order in which they are sent.

    `schema` int64[m]: place in `schemas`; `row` int64[m] of the columns (of a record: of its stream); `kind`
    int64[m]; `at` float64[m]: seconds from the beginning at which each is due. `lag` int64[n]: microseconds
    from a report's recorded_at until it is sent. `per_minute` reports; 0 is as fast as possible.
    """

    schemas: tuple[str, ...]
    schema: Positions
    row: Positions
    kind: Positions
    at: NDArray[np.float64]
    lag: Positions
    columns: Columns
    fleet: Fleet
    fates: Fates
    injected: Injected
    mix: Mix
    per_minute: float
    settings: dict[str, Any]
    records: LiveRecords | None = None

    @property
    def is_copy(self) -> NDArray[np.bool_]:
        """bool[m]: the repetitions."""
        return (self.kind == COPY) | (self.kind == RESPELLED)

    def find(self, schema: str) -> NDArray[np.bool_]:
        """bool[m]: the messages of a schema."""
        return self.schema == self.schemas.index(schema)


def plan(
    generator: KpiTestGenerator,
    scenario: Scenario,
    mix: Mix,
    per_minute: float,
    start: int,
    warm: bool = False,
    inconsistent: float | None = None,
) -> LivePlan:
    """Draw a run, except its times. It starts at about `start` (microseconds since 1970).

    `warm`: see `inject_outliers`. `inconsistent`: the share of reports with a fault, if records are sent too.

    Raises:
        ValueError: `inconsistent` is not a share.
    """
    random = make_random(generator.seed, "live")
    fates = deal_fates(mix, generator.seed, bare=False)
    per_second = per_minute / 60 or UNLIMITED
    row, kind = _order_messages(fates, mix, per_second, random)
    moments = _draw_moments(generator, scenario, mix, row, SECOND / per_second, start, random)
    delay = np.minimum(2000 + random.exponential(0.2 * SECOND, mix.rows), 2 * SECOND).astype(np.int64)
    lag = np.where(fates.late, random.integers(*_LATE, mix.rows), delay)
    options: dict[str, Any] = {"seed": generator.seed, "scenario": scenario, "agents": generator.agents}
    options |= {"rate_per_minute": per_minute, **asdict(mix)}
    if inconsistent is not None:
        options["inconsistent"] = inconsistent
        world = build_world_at(generator, scenario, mix, inconsistent, fates, moments, warm)
        due = Messages(row, kind, start + (np.arange(len(row)) * SECOND / per_second).astype(np.int64))
        records = LiveRecords(world, due, mix, generator.seed)
        return _add_records(records, world, due, start, lag, mix, per_minute, options)
    fleet = generator.fleet(scenario)
    columns, feeding = generator.columns(fleet, moments), fates.good & ~fates.late
    asked = mix.count(mix.outliers)
    injected = inject_outliers(columns, moments, fleet, feeding, asked, generator.seed, warm)
    return LivePlan(
        schemas=(REPORT,),
        schema=np.zeros(len(row), np.int64),
        row=row,
        kind=kind,
        at=np.arange(len(row)) / per_second,
        lag=lag,
        columns=injected.columns,
        fleet=fleet,
        fates=fates,
        injected=injected,
        mix=mix,
        per_minute=per_minute,
        settings=options,
    )


def _add_records(
    records: LiveRecords,
    world: World,
    reports: Messages,
    start: int,
    lag: Positions,
    mix: Mix,
    per_minute: float,
    options: dict[str, Any],
) -> LivePlan:
    """The plan of reports, of which each is received when it is due, and of their records."""
    streams = {name: each.messages for name, each in records.streams.items()}
    first = {name: streams[name] for name in FIRST}
    parts = first | {REPORT: reports} | {name: streams[name] for name in streams if name not in FIRST}
    received = np.concatenate([each.received for each in parts.values()])
    order = np.argsort(np.maximum(received, start), kind="stable")
    schema = np.repeat(np.arange(len(parts)), [len(each.row) for each in parts.values()])
    return LivePlan(
        schemas=tuple(parts),
        schema=schema[order],
        row=np.concatenate([each.row for each in parts.values()])[order],
        kind=np.concatenate([each.kind for each in parts.values()])[order],
        at=(np.maximum(received, start)[order] - start) / SECOND,
        lag=lag,
        columns=world.columns,
        fleet=world.fleet,
        fates=world.fates,
        injected=world.injected,
        mix=mix,
        per_minute=per_minute,
        settings=options,
        records=records,
    )


def _draw_moments(
    generator: KpiTestGenerator,
    scenario: Scenario,
    mix: Mix,
    row: Positions,
    interval: float,
    start: int,
    random: np.random.Generator,
) -> ReportTimes:
    """The agent of each report, and the time at which its first message is due, `interval` microseconds
    apart.
    """
    first: Positions = np.zeros(mix.rows, np.int64)
    first[row[::-1]] = np.arange(len(row))[::-1]  # reversed: the first place is written last
    agents = generator.agents
    regular = scenario == "anomaly"
    agent = np.arange(mix.rows) % agents if regular else random.integers(0, agents, mix.rows)
    span = max(1, int(len(row) * interval))
    return ReportTimes(agent, start + (first * interval).astype(np.int64), start, span)


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
