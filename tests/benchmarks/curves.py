"""What a backfill costs: sums of few terms, fitted to measured points.

A term is an amount that a point has (messages, rows) times a weight. Wall time is

    start + (1 - both + both / cores) * (work on one core)

where `both` is the share of the work that several cores do at once. Each core has a worker process.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.jobs.block_plan import BlockPlan, plan_blocks
from pipelines.settings import Settings
from schemas.tables import GRANULARITIES

DUPLICATES = 0.02
"""Share of the generated messages that are no reports of their own."""
BLOCK_REPORTS: int = Settings.model_fields["block_reports"].default
NOISE = 0.03
"""A term that is a smaller part than this of each fitted value cannot be distinguished from the runs' own
spread."""
START = "start of the processes"
_SAME = 1e-12
SHARES = tuple(np.linspace(0, 1, 101).tolist())


@dataclass(frozen=True)
class Point:
    """A backfill: `messages` of some `hours` by `agents`, a share of them `dirty`, on an engine (`runner`)
    with a worker process on each of its `cores`.

    What is `held_out` is measured beside the model's prediction, and not fitted.
    """

    case: str
    messages: int
    agents: int = 1000
    dirty: float = 0.0
    hours: int = 48
    cores: int = 2
    runner: str = "direct"
    block_reports: int = BLOCK_REPORTS
    shuffled: bool = False
    held_out: bool = False

    @property
    def rejected(self) -> float:
        """Messages that end in quarantine."""
        return self.messages * self.dirty

    @property
    def plan(self) -> BlockPlan:
        """How the run is divided, of messages that are spread evenly."""
        even = dict.fromkeys(range(self.hours), self.messages / self.hours)
        return plan_blocks(even, self.cores, self.block_reports)

    @property
    def part(self) -> float:
        """The share of the messages that one block holds."""
        blocks = self.plan.blocks
        return min(1.0, blocks.hours / self.hours) / blocks.shards

    @property
    def windows(self) -> float:
        """Rows of kpi_aggregations to expect: windows that reports, spread evenly over agents and time, do
        not leave empty."""
        reports = self.messages * (1 - self.dirty - DUPLICATES)
        every = [self.agents * self.hours * 3600 / seconds for seconds in GRANULARITIES.values()]
        return sum(windows * -math.expm1(-reports / windows) for windows in every)

    @property
    def files(self) -> int:
        """Files of tables: for windows of a minute or more one an hour, else one each file_minutes."""
        tables = 4 + (self.dirty > 0)
        return self.hours * (4 + tables * 60 // self.plan.file_minutes)


@dataclass(frozen=True)
class Measured:
    """A point's run, the middle one of several: seconds, of all of them the `fastest` and `slowest`, of CPU;
    peak MiB; rows written to kpi_aggregations and the seconds of each stage, over its processes, where the
    engine tells."""

    point: Point
    seconds: float
    fastest: float
    slowest: float
    cpu: float
    mib: float
    windows: int | None
    stages: dict[str, float]


class Term(NamedTuple):
    """A part of a cost: `amount` times a weight, which is in `unit`."""

    name: str
    unit: str
    amount: Callable[[Point], float]


TIME = (
    Term(START, "s", lambda point: 1.0),
    Term("a message", "µs", lambda point: point.messages / 1e6),
    Term("a rejected message, in addition", "µs", lambda point: point.rejected / 1e6),
    Term("a row of kpi_aggregations", "µs", lambda point: point.windows / 1e6),
    Term("a file", "ms", lambda point: point.files / 1e3),
)
MEMORY = (
    Term("the launching process", "MiB", lambda point: 1.0),
    Term("a worker", "MiB", lambda point: point.cores),
    Term(
        "a message of a block, in each worker",
        "bytes",
        lambda point: point.cores * point.part * point.messages / 2**20,
    ),
    Term(
        "a row of kpi_aggregations of a block, in each worker",
        "bytes",
        lambda point: point.cores * point.part * point.windows / 2**20,
    ),
    Term(
        "a message of a file, in each worker",
        "bytes",
        lambda point: point.cores * point.messages / point.hours * point.plan.file_minutes / 60 / 2**20,
    ),
    Term("a message of the run", "bytes", lambda point: point.messages / 2**20),
)


@dataclass(frozen=True)
class Model:
    """The weights of terms, by name, for one core, and the share of the work beside the start that `both`
    cores do at once."""

    terms: tuple[Term, ...]
    weights: dict[str, float]
    both: float = 0.0

    def parts(self, point: Point) -> dict[str, float]:
        """What each term adds to the cost of a point."""
        work = 1 - self.both + self.both / point.cores
        return {
            term.name: self.weights[term.name] * term.amount(point) * (1 if term.name == START else work)
            for term in self.terms
            if term.name in self.weights
        }

    def of(self, point: Point) -> float:
        """The cost of a point."""
        return sum(self.parts(point).values())

    @property
    def left_out(self) -> list[str]:
        """The names of terms that could not be distinguished from noise."""
        return [term.name for term in self.terms if term.name not in self.weights]


@dataclass(frozen=True)
class Costs:
    """Models of the wall seconds, the CPU seconds and the peak MiB of a point."""

    seconds: Model
    cpu: Model
    mib: Model


def costs(measured: Sequence[Measured]) -> Costs:
    """The models of what is measured; points held out and those of other engines are not looked at."""
    fitted = [each for each in measured if not each.point.held_out and each.point.runner == "direct"]
    points = [each.point for each in fitted]
    return Costs(
        fit(TIME, points, [each.seconds for each in fitted], SHARES),
        fit(TIME, points, [each.cpu for each in fitted]),
        fit(MEMORY, points, [each.mib for each in fitted]),
    )


def fit(
    terms: tuple[Term, ...],
    points: Sequence[Point],
    values: Sequence[float],
    shares: Sequence[float] = (0.0,),
) -> Model:
    """The model with the least sum of squared relative errors, no weight below zero, and `both` one of the
    shares.

    Terms that stay below NOISE at every point are left out, the faintest first.
    """
    kept = list(terms)
    while True:
        model = min(
            (_with_share(kept, points, values, both) for both in shares),
            key=lambda model: _error(model, points, values),
        )
        most = {
            term.name: max(model.parts(p)[term.name] / value for p, value in zip(points, values))
            for term in kept
        }
        faintest = min(kept, key=lambda term: most[term.name])
        if most[faintest.name] >= NOISE:
            return replace(model, terms=terms)
        kept.remove(faintest)


def _with_share(
    terms: Sequence[Term], points: Sequence[Point], values: Sequence[float], both: float
) -> Model:
    ones = Model(tuple(terms), {term.name: 1.0 for term in terms}, both)
    amounts = np.array([list(ones.parts(point).values()) for point in points])
    weights = nonnegative(amounts / np.array(values)[:, None], np.ones(len(points)))
    return replace(ones, weights=dict(zip(ones.weights, weights.tolist())))


def _error(model: Model, points: Sequence[Point], values: Sequence[float]) -> float:
    return sum((model.of(point) / value - 1) ** 2 for point, value in zip(points, values))


def nonnegative(matrix: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64[k]: the x >= 0 with the least |matrix x - wanted|, where k is small.

    The best x is the plain solution of the columns where it is above zero; every set of columns is tried,
    small ones first.
    """
    width = matrix.shape[1]
    best, least = np.zeros(width), float(wanted @ wanted)
    for size in range(1, width + 1):
        for columns in map(list, combinations(range(width), size)):
            found = np.linalg.lstsq(matrix[:, columns], wanted)[0]
            rest = wanted - matrix[:, columns] @ found
            if (found >= 0).all() and rest @ rest < least - _SAME:
                best, least = np.zeros(width), float(rest @ rest)
                best[columns] = found
    return best


def base(measured: Sequence[Measured]) -> Measured:
    """The point that the others differ from."""
    return next(each for each in measured if each.point.case == "base")


def sizes(measured: Sequence[Measured], **others: Any) -> list[Measured]:
    """The points like the base, but for what `others` says, with any messages; the smallest first."""
    usual = replace(base(measured).point, **others)

    def is_alike(point: Point) -> bool:
        return replace(point, case=usual.case, messages=usual.messages, held_out=usual.held_out) == usual

    return sorted((each for each in measured if is_alike(each.point)), key=lambda each: each.point.messages)


def factors(measured: Sequence[Measured]) -> list[Measured]:
    """The base, and the points of as many messages that differ from it in one other thing."""
    usual = base(measured)
    return [
        usual,
        *(each for each in measured if each is not usual and each.point.messages == usual.point.messages),
    ]


def without_start(each: Measured, measured: Sequence[Measured]) -> float:
    """The seconds of a point, less those of its engine's least run on as many cores."""
    engine = each.point.runner, each.point.cores
    least = min(
        (other for other in measured if (other.point.runner, other.point.cores) == engine),
        key=lambda other: other.point.messages,
    )
    return each.seconds - least.seconds
