"""What a backfill costs: sums of few terms, fitted to measured points, and pictures of both.

A term is an amount that a point has (messages, rows) times a weight. Wall time is

    start + (1 - both + both / cores) * (work on one core)

where `both` is the share of the work that several cores do at once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import altair as alt
import numpy as np
import vl_convert
from numpy.typing import NDArray

from pipelines.summary.charts import BLUE, GREY, GRID, INK, RED
from schemas.tables import GRANULARITIES

DUPLICATES = 0.02
"""Share of the generated messages that are no reports of their own."""
SPAN_SECONDS = 48 * 3600
"""Time that an archive covers."""
NOISE = 0.03
"""A term that is a smaller part than this of each fitted value cannot be distinguished from the runs' own
spread."""
START = "start of the process, files of two days"
_SAME = 1e-12
Chart = alt.LayerChart | alt.FacetChart
SHARES = tuple(np.linspace(0, 1, 101).tolist())


@dataclass(frozen=True)
class Point:
    """A backfill: `messages` of two days by `agents`, a share of them `dirty`, on `cores`; in slices where it
    is longer than one.

    What is `held_out` is measured beside the model's prediction, and not fitted.
    """

    case: str
    messages: int
    slice_messages: int
    agents: int = 1000
    dirty: float = 0.0
    cores: int = 2
    shuffled: bool = False
    held_out: bool = False

    @property
    def refused(self) -> float:
        """Messages that end in quarantine."""
        return self.messages * self.dirty

    @property
    def slices(self) -> int:
        """Time slices, of whole hours, that the run is cut into."""
        hours = SPAN_SECONDS // 3600
        return math.ceil(hours / min(hours, max(1, self.slice_messages * hours // self.messages)))

    @property
    def part(self) -> float:
        """The share of the messages that one run of the graph holds."""
        return min(1.0, self.slice_messages / self.messages)

    @property
    def recalled(self) -> float:
        """Messages of the hours before each slice but the first, whose reports are read again as its
        history."""
        return (self.slices - 1) * self.messages * 3600 / SPAN_SECONDS

    @property
    def windows(self) -> float:
        """Rows of kpi_aggregations to expect: windows that reports, spread evenly over agents and time, do
        not leave empty."""
        reports = self.messages * (1 - self.dirty - DUPLICATES)
        every = [self.agents * SPAN_SECONDS / seconds for seconds in GRANULARITIES.values()]
        return sum(windows * -math.expm1(-reports / windows) for windows in every)


@dataclass(frozen=True)
class Measured:
    """A point's run, the middle one of several: seconds, of all of them the `fastest` and `slowest`, of these
    after its start (`inside`), of CPU; peak MiB; rows written to kpi_aggregations; the seconds of each stage,
    over its threads."""

    point: Point
    seconds: float
    fastest: float
    slowest: float
    inside: float
    cpu: float
    mib: float
    windows: int
    stages: dict[str, float]


class Term(NamedTuple):
    """A part of a cost: `amount` times a weight, which is in `unit`."""

    name: str
    unit: str
    amount: Callable[[Point], float]


TIME = (
    Term(START, "s", lambda point: 1.0),
    Term("a message", "µs", lambda point: point.messages / 1e6),
    Term("a refused message, beside that", "µs", lambda point: point.refused / 1e6),
    Term("a row of kpi_aggregations", "µs", lambda point: point.windows / 1e6),
    Term(
        "a message sorted by hours for slices, beside that",
        "µs",
        lambda point: (point.slices > 1) * point.messages / 1e6,
    ),
    Term("a message of the hour before a slice", "µs", lambda point: point.recalled / 1e6),
)
MEMORY = (
    Term("the process", "MiB", lambda point: 1.0),
    Term("a message of a slice", "bytes", lambda point: point.part * point.messages / 2**20),
    Term("a row of kpi_aggregations of a slice", "bytes", lambda point: point.part * point.windows / 2**20),
    Term("twice as many slices: the heap grows, ever less", "MiB", lambda point: math.log2(point.slices)),
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
    """The models of what is measured; points held out are not looked at."""
    fitted = [each for each in measured if not each.point.held_out]
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


def draw(measured: Sequence[Measured], folder: Path) -> list[Path]:
    """Draw seconds and MiB against messages, and seconds by what differs from the base; the files."""
    model = costs(measured)
    pictures = {
        "seconds": _curve(measured, "seconds", model.seconds, "Seconds of a backfill, by messages", "log"),
        "memory": _curve(measured, "mib", model.mib, "Peak MiB of a backfill, by messages", "linear"),
        "factors": _bars(measured),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, chart in pictures.items():
        paths.append(folder / f"scale-{name}.svg")
        paths[-1].write_text(_svg(chart), encoding="utf-8")
    return paths


def base(measured: Sequence[Measured]) -> Measured:
    """The point that the others differ from."""
    return next(each for each in measured if each.point.case == "base")


def sizes(measured: Sequence[Measured]) -> list[Measured]:
    """The points that differ from the base in their messages alone, the smallest first."""
    usual = base(measured).point

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


def _curve(
    measured: Sequence[Measured], what: str, model: Model, title: str, scale: Literal["log", "linear"]
) -> Chart:
    """Dots where it was measured, a hollow one where it was held out, and the model's line; messages on a
    logarithmic scale."""
    seen = sizes(measured)
    least, most = seen[0].point, seen[-1].point
    along = [replace(least, messages=round(n)) for n in np.geomspace(least.messages, most.messages, 81)]
    line = [
        {"messages": point.messages, "value": round(model.of(point), 3), "kind": "model"} for point in along
    ]
    kinds = ("measured", "measured, held out")
    dots = [
        {
            "messages": each.point.messages,
            "value": round(getattr(each, what), 3),
            "kind": kinds[each.point.held_out],
        }
        for each in seen
    ]
    ticks = alt.Axis(format="~s", labelFlush=False, values=[each.point.messages for each in seen])
    x = alt.X("messages:Q", scale=alt.Scale(type="log", nice=False), title="messages", axis=ticks)
    steps = [step * 10**power for power in range(5) for step in (1, 2, 5)]
    axis = alt.Axis(format=",~r", values=steps) if scale == "log" else alt.Axis(format=",~r", tickCount=5)
    y = alt.Y("value:Q", scale=alt.Scale(type=scale), title=None, axis=axis)
    names = ["model", *kinds]
    stroke = alt.Stroke("kind:N", scale=alt.Scale(domain=names, range=[BLUE, INK, RED]))
    fill = alt.Fill("kind:N", scale=alt.Scale(domain=names, range=[BLUE, INK, "white"]))
    drawn = alt.Chart(alt.Data(values=line)).mark_line(strokeWidth=2).encode(x=x, y=y, stroke=stroke)
    marks = (
        alt.Chart(alt.Data(values=dots))
        .mark_point(size=70, opacity=1)
        .encode(x=x, y=y, stroke=stroke, fill=fill)
    )
    return alt.layer(drawn, marks).properties(width=520, height=260, title=title)


def _bars(measured: Sequence[Measured]) -> Chart:
    """Wall and CPU seconds of the base and of what differs from it in one thing, one bar each."""
    shown = factors(measured)
    key = {"wall s": BLUE, "CPU s": GREY}
    rows: list[dict[str, Any]] = [
        {"case": each.point.case, "kind": kind, "value": round(value, 3), "label": f"{value:,.1f}"}
        for each in shown
        for kind, value in zip(key, (each.seconds, each.cpu))
    ]
    y = alt.Y("case:N", sort=[each.point.case for each in shown], title=None)
    offset = alt.YOffset("kind:N", sort=list(key))
    x = alt.X(
        "value:Q", title=None, axis=None, scale=alt.Scale(domainMax=1.1 * max(row["value"] for row in rows))
    )
    colour = alt.Color("kind:N", scale=alt.Scale(domain=list(key), range=list(key.values())))
    bars = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y, yOffset=offset)
    labels = bars.mark_text(align="left", dx=4, fontSize=11, color=INK).encode(text="label:N")
    title = f"Seconds of {shown[0].point.messages:,} messages, one thing changed at a time"
    return (bars.mark_bar().encode(color=colour) + labels).properties(
        width=460, height=alt.Step(16), title=title
    )


def _svg(chart: Chart) -> str:
    """On white, so that it is legible on a dark page too."""
    themed = (
        chart.configure(aria=False, background="white", font="Helvetica, Arial, sans-serif", padding=12)
        .configure_view(stroke=None)
        .configure_title(color=INK, fontSize=14, anchor="start")
        .configure_axis(
            labelColor=INK, titleColor=INK, gridColor=GRID, domainColor=GRID, tickColor=GRID, labelFontSize=12
        )
        .configure_legend(orient="top", title=None, labelColor=INK, labelFontSize=12)
    )
    drawn: str = vl_convert.vegalite_to_svg(themed.to_dict())
    return drawn + "\n"
