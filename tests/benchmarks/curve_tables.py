"""Tables of what a backfill costs, as measured and by the model: the text of FOLDER/scale.md."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.curves import Costs, Measured, Model, base, costs, sizes, without_start

LEAST_MESSAGES = 100
"""Messages of the run that tells how long an engine takes to start."""


@dataclass(frozen=True)
class Empty:
    """A run without kernels: wall seconds, those without the start of the process, CPU seconds."""

    name: str
    seconds: float
    inside: float
    cpu: float


@dataclass(frozen=True)
class Results:
    """All that is measured, and where."""

    machine: str
    measured: list[Measured]
    empty: list[Empty]


def markdown(results: Results) -> Iterator[str]:
    """The tables and the model for docs/benchmarks.md, line by line."""
    model = costs(results.measured)
    yield f"{results.machine}:"
    yield from ("", *_measured(results.measured))
    yield from ("", *_ratios(results.measured))
    yield from ("", *_model(model))
    yield from ("", *_predicted(results.measured, model))
    yield from ("", *_ends(results.measured, model))
    yield from ("", *_beam(results))


def _measured(measured: Sequence[Measured]) -> Iterator[str]:
    yield "| point | s | min | max | CPU s | messages/s | peak MiB | rows of kpi_aggregations |"
    yield "|---|---|---|---|---|---|---|---|"
    for each in measured:
        times = [f"{seconds:,.2f}" for seconds in (each.seconds, each.fastest, each.slowest, each.cpu)]
        others = [f"{value:,.0f}" for value in (each.point.messages / each.seconds, each.mib)]
        others.append("-" if each.windows is None else f"{each.windows:,}")
        yield _row(each.point.case, *times, *others)


def _ratios(measured: Sequence[Measured]) -> Iterator[str]:
    """How the time without start changes with cores and with the engine."""
    usual = base(measured).point

    def time_of(share: int, **others: Any) -> float:
        alike = sizes(measured, **others)
        return without_start(
            next(each for each in alike if each.point.messages == share * usual.messages), measured
        )

    yield f"Without start, that is less the time of {LEAST_MESSAGES} messages on the same engine and cores:"
    yield ""
    ratio, messages = time_of(3, cores=1) / time_of(3), f"{3 * usual.messages:,} messages"
    yield f"- {messages}: one core takes {ratio:.2f} times as long as two; the target is >= 1.8."
    if any(each.point.runner == "flink" for each in measured):
        ratio, messages = time_of(5, runner="flink") / time_of(5), f"{5 * usual.messages:,} messages"
        yield f"- {messages}: Flink takes {ratio:.2f} times as long as direct; the target is <= 1.6."


def _model(model: Costs) -> Iterator[str]:
    yield "| what costs | wall, of one core | CPU |"
    yield "|---|---|---|"
    for term in model.seconds.terms:
        yield _row(term.name, *(_weight(each, term.name, term.unit) for each in (model.seconds, model.cpu)))
    yield from ("", "| what takes memory | peak |", "|---|---|")
    for term in model.mib.terms:
        yield _row(term.name, _weight(model.mib, term.name, term.unit))
    shared = f"Two cores share {model.seconds.both:.0%} of the work after the start"
    yield from ("", f"{shared}. -: not distinguishable from noise, left out.")


def _weight(model: Model, name: str, unit: str) -> str:
    weight = model.weights.get(name)
    return "-" if weight is None else f"{weight:,.{0 if weight >= 100 else 2}f} {unit}"


def _predicted(measured: Sequence[Measured], model: Costs) -> Iterator[str]:
    yield "| point | | s | model | error | CPU s | model | error | peak MiB | model | error |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for each in measured:
        if each.point.runner != "direct":
            continue
        cells = []
        for value, of in ((each.seconds, model.seconds), (each.cpu, model.cpu), (each.mib, model.mib)):
            predicted = of.of(each.point)
            cells += [f"{value:,.1f}", f"{predicted:,.1f}", f"{100 * (predicted / value - 1):+.1f} %"]
        yield _row(each.point.case, "held out" if each.point.held_out else "fitted", *cells)


def _ends(measured: Sequence[Measured], model: Costs) -> Iterator[str]:
    """What bounds the smallest and the largest run."""
    ends = sizes(measured)
    for each in (ends[0], ends[-1]):
        start = each.seconds - without_start(each, measured)
        longest = sorted(each.stages.items(), key=lambda stage: stage[1], reverse=True)[:3]
        share = start / each.seconds
        messages = f"{each.point.messages:,} messages"
        yield f"- {messages}: {start:.1f} of {each.seconds:.1f} s are the start ({share:.0%})."
        total, shares = sum(each.stages.values()), _shares(dict(longest), each.stages)
        yield f"  The stages, over their processes, take {total:.1f} s: {shares}."
        parts = model.seconds.parts(each.point)
        yield f"  The model's seconds: {_shares(parts, parts)}."


def _shares(shown: dict[str, float], every: dict[str, float]) -> str:
    total = sum(every.values())
    return "; ".join(f"{name} {seconds / total:.0%}" for name, seconds in shown.items() if seconds)


def _beam(results: Results) -> Iterator[str]:
    usual = next(each for each in results.measured if each.point.case == "1 core")
    yield f"| {usual.point.messages:,} messages, one core | s | without start | CPU s |"
    yield "|---|---|---|---|"
    for each in results.empty:
        yield _row(each.name, f"{each.seconds:.2f}", f"{each.inside:.2f}", f"{each.cpu:.2f}")
    inside = without_start(usual, results.measured)
    yield _row("kpiflow", f"{usual.seconds:.2f}", f"{inside:.2f}", f"{usual.cpu:.2f}")
    graph, loop, start = results.empty
    own = graph.inside - loop.inside
    share = (own + start.seconds) / usual.seconds
    yield from (
        "",
        f"Beam's own: {own:.2f} s of running and {start.seconds:.2f} s of import, "
        f"{share:.1%} of kpiflow's time on one core.",
    )


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
