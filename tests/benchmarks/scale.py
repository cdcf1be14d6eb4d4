"""Measure how `kpiflow backfill` grows with messages, agents, cores, dirt and disorder, one at a time; and
fit what it costs.

Every run is a process of its own. The first output of each point is reconciled with its input, and its counts
are those of the generator. Writes FOLDER/scale.json, FOLDER/scale.md and FOLDER/scale-*.svg; `--draw DIR`
draws and writes anew from FOLDER/scale.json, and measures nothing.
"""

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from tests.benchmarks.bench import KPIFLOW, REPETITIONS, Run, archive, fresh, machine, run
from tests.benchmarks.curves import Costs, Measured, Model, Point, base, costs, draw, sizes

MESSAGES, LEAST_SLICE = 1_000_000, 1000
FATES = ("reports", "duplicates", "quarantined")
EMPTY = {
    "the graph's two groupings, empty": ["-m", "tests.benchmarks.empty", "{source}"],
    "the same as a plain loop": ["-m", "tests.benchmarks.empty", "{source}", "--without-beam"],
    "import of Beam": ["-c", "import apache_beam"],
}
"""What is run to tell Beam's own share: the arguments to Python."""
_STAGE = re.compile(r"^ *(\S.*?) +([\d,]+) +(\d+\.\d+) +[\d,]+ *$", re.MULTILINE)


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


def points(scale: float) -> list[Point]:
    """What is measured: a base, what differs from it in one thing, and two points that the model must
    foretell."""
    usual = Point("base", round(MESSAGES * scale), max(LEAST_SLICE, round(MESSAGES * scale)))

    def of(share: float, held_out: bool = False) -> Point:
        messages = round(usual.messages * share)
        return replace(usual, case=f"{messages:,} messages", messages=messages, held_out=held_out)

    several = of(0.3, held_out=True)
    return [
        of(0.1),
        usual,
        replace(usual, case="10 agents", agents=10),
        replace(usual, case="100,000 agents", agents=100_000),
        replace(usual, case="20 % dirty", dirty=0.2),
        replace(usual, case="shuffled", shuffled=True),
        replace(usual, case="1 core", cores=1),
        replace(
            several,
            case=f"{several.case}, 10,000 agents, 10 % dirty, 1 core",
            agents=10_000,
            dirty=0.1,
            cores=1,
        ),
        of(2),
        of(3, held_out=True),
        of(10),
    ]


def main() -> None:
    """Measure, or only draw, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("bench"))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the messages, and of a time slice")
    parser.add_argument(
        "--repetitions",
        type=int,
        default=REPETITIONS,
        help="runs of each point that is no larger than the base",
    )
    parser.add_argument(
        "--draw", type=Path, metavar="DIR", help="only draw what FOLDER/scale.json holds, into DIR"
    )
    arguments = parser.parse_args()
    folder: Path = arguments.folder.absolute()
    if not arguments.draw:
        folder.mkdir(parents=True, exist_ok=True)
        keep(measure(folder, arguments.scale, arguments.repetitions), folder / "scale.json")
    results = kept(folder / "scale.json")
    text = "\n".join(markdown(results)) + "\n"
    (folder / "scale.md").write_text(text, encoding="utf-8")
    print(text)
    print(*draw(results.measured, arguments.draw or folder), sep="\n")


def measure(folder: Path, scale: float, repetitions: int) -> Results:
    """Run every point, those up to the base's size in turns, then the large ones once each."""
    floor = run(["true"]).peak_mib  # a process begins with the peak of the one that starts it
    print(
        f"{machine()}, load {os.getloadavg()[0]:.1f} before; peaks below {floor:.0f} MiB are not seen",
        flush=True,
    )
    every = points(scale)
    usual = next(point for point in every if point.case == "base")
    runs: dict[Point, list[Run]] = {point: [] for point in every}
    outputs = fresh(folder / "scale")
    for turn in range(repetitions):
        for point in every:
            if point.messages <= usual.messages:
                runs[point].append(backfill(point, folder, outputs, proven=turn > 0))
    empty = [
        _empty(name, archive(folder, usual.messages, usual.agents, usual.dirty), repetitions)
        for name in EMPTY
    ]
    shutil.rmtree(outputs)
    for point in every:
        if point.messages > usual.messages:
            runs[point].append(backfill(point, folder, outputs, proven=False))
            shutil.rmtree(outputs)
            shutil.rmtree(source(point, folder))
    return Results(
        f"{machine()}; {time.strftime('%Y-%m-%d')}", [middle(point, runs[point]) for point in every], empty
    )


def backfill(point: Point, folder: Path, outputs: Path, proven: bool) -> Run:
    """One run of a point; what it wrote is proven to be right unless that is known."""
    found = source(point, folder)
    output = fresh(outputs / point.case)
    job = [
        "backfill",
        "--input",
        str(found),
        "--output",
        str(output),
        "--block-reports",
        str(point.slice_messages),
        "--timings",
    ]
    os.sync()  # what generating left to write must not be written beside the run
    measured = run([*on(point.cores), *KPIFLOW, *job], point.messages)
    figures = f"{measured.seconds:7.1f} s {measured.cpu:7.1f} CPU s {measured.peak_mib:7,.0f} MiB"
    print(f"{point.case:<56}{figures}  load {os.getloadavg()[0]:.1f}", flush=True)
    if not proven:
        prove(point, found, output)
    return measured


def source(point: Point, folder: Path) -> Path:
    """The archive of a point, generated once; shuffled from the sorted one."""
    made = archive(folder, point.messages, point.agents, point.dirty)
    if not point.shuffled:
        return made
    place = folder / f"{made.name}-shuffled"
    if not (place / "truth.json").exists():
        shuffle(made, fresh(place))
    return place


def shuffle(made: Path, place: Path) -> None:
    """The lines of an archive in random order, in as many files of about equal size: dealt out by lot, then
    shuffled in each."""
    files = sorted(made.glob("*.ndjson"))
    random = np.random.default_rng(1)
    place.mkdir()
    with ExitStack() as open_files:
        dealt = [open_files.enter_context((place / file.name).open("wb")) for file in files]
        for file in files:
            lines = _lines(file)
            for line, number in zip(lines, random.integers(len(files), size=len(lines)).tolist()):
                dealt[number].write(line)
    for file in place.iterdir():
        lines = _lines(file)
        file.write_bytes(b"".join(lines[number] for number in random.permutation(len(lines))))
    shutil.copy(made / "truth.json", place)


def _lines(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        return file.readlines()


def on(cores: int) -> list[str]:
    """The words before a command that keep it on a number of cores."""
    allowed = sorted(os.sched_getaffinity(0))
    if cores > len(allowed):
        raise SystemExit(f"this needs {cores} cores, and there are {len(allowed)}")
    return ["taskset", "--cpu-list", ",".join(map(str, allowed[:cores]))]


def prove(point: Point, found: Path, output: Path) -> None:
    """End the benchmark unless every message has the fate that the generator meant for it; shuffled as well
    as sorted."""
    began = time.perf_counter()
    verdict = json.loads(run([*KPIFLOW, "reconcile", str(output), "--input", str(found), "--json"]).output)
    truth = json.loads((found / "truth.json").read_text(encoding="utf-8"))
    if wrong := [name for name in FATES if verdict[name] != truth[name]]:
        raise SystemExit(
            f"{point.case}: {', '.join(wrong)} of {output} are not as many as {found / 'truth.json'} says"
        )
    if point.shuffled:
        run([*KPIFLOW, "parity", str(output.with_name("base")), str(output), "--identity"])
    print(f"{'':<56}as meant, {time.perf_counter() - began:.0f} s to prove", flush=True)


def middle(point: Point, runs: Sequence[Run]) -> Measured:
    """The run of median seconds."""
    ordered = sorted(runs, key=lambda each: each.seconds)
    chosen = ordered[len(ordered) // 2]
    stages = {name: (rows, seconds) for name, rows, seconds in _STAGE.findall(chosen.output)}
    return Measured(
        point=point,
        seconds=chosen.seconds,
        fastest=ordered[0].seconds,
        slowest=ordered[-1].seconds,
        inside=chosen.inside,
        cpu=chosen.cpu,
        mib=chosen.peak_mib,
        windows=int(stages["write kpi_aggregations"][0].replace(",", "")),
        stages={name: float(seconds) for name, (_, seconds) in stages.items()},
    )


def _empty(name: str, found: Path, repetitions: int) -> Empty:
    job = [*on(2), sys.executable, *(word.format(source=found) for word in EMPTY[name])]
    chosen = sorted((run(job) for _ in range(repetitions)), key=lambda each: each.seconds)[repetitions // 2]
    print(f"{name:<56}{chosen.seconds:7.1f} s {chosen.cpu:7.1f} CPU s", flush=True)
    return Empty(name, chosen.seconds, chosen.inside, chosen.cpu)


def keep(results: Results, path: Path) -> None:
    """Write results as JSON."""
    path.write_text(json.dumps(asdict(results), indent=1) + "\n", encoding="utf-8")


def kept(path: Path) -> Results:
    """Read what `keep` wrote."""
    found = json.loads(path.read_text(encoding="utf-8"))
    measured = [Measured(**each | {"point": Point(**each["point"])}) for each in found["measured"]]
    return Results(found["machine"], measured, [Empty(**each) for each in found["empty"]])


def markdown(results: Results) -> Iterator[str]:
    """The tables and the model for docs/benchmarks.md, line by line."""
    model = costs(results.measured)
    yield f"{results.machine}:"
    yield from ("", *_measured(results.measured))
    yield from ("", *_model(model))
    yield from ("", *_predicted(results.measured, model))
    yield from ("", *_ends(results.measured, model))
    yield from ("", *_beam(results))


def _measured(measured: Sequence[Measured]) -> Iterator[str]:
    yield "| point | s | min | max | CPU s | messages/s | peak MiB | rows of kpi_aggregations |"
    yield "|---|---|---|---|---|---|---|---|"
    for each in measured:
        times = [f"{seconds:,.2f}" for seconds in (each.seconds, each.fastest, each.slowest, each.cpu)]
        others = [f"{value:,.0f}" for value in (each.point.messages / each.seconds, each.mib, each.windows)]
        yield _row(each.point.case, *times, *others)


def _model(model: Costs) -> Iterator[str]:
    yield "| what costs | wall, of one core | CPU |"
    yield "|---|---|---|"
    for term in model.seconds.terms:
        yield _row(term.name, *(_weight(each, term.name, term.unit) for each in (model.seconds, model.cpu)))
    yield from ("", "| what takes memory | peak |", "|---|---|")
    for term in model.mib.terms:
        yield _row(term.name, _weight(model.mib, term.name, term.unit))
    shared = f"Both cores share {model.seconds.both:.0%} of the work after the start"
    yield from ("", f"{shared}. -: not distinguishable from noise, left out.")


def _weight(model: Model, name: str, unit: str) -> str:
    weight = model.weights.get(name)
    return "-" if weight is None else f"{weight:,.{0 if weight >= 100 else 2}f} {unit}"


def _predicted(measured: Sequence[Measured], model: Costs) -> Iterator[str]:
    yield "| point | | s | model | error | CPU s | model | error | peak MiB | model | error |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for each in measured:
        cells = []
        for value, of in ((each.seconds, model.seconds), (each.cpu, model.cpu), (each.mib, model.mib)):
            predicted = of.of(each.point)
            cells += [f"{value:,.1f}", f"{predicted:,.1f}", f"{100 * (predicted / value - 1):+.1f} %"]
        yield _row(each.point.case, "held out" if each.point.held_out else "fitted", *cells)


def _ends(measured: Sequence[Measured], model: Costs) -> Iterator[str]:
    """What bounds the smallest and the largest run."""
    ends = sizes(measured)
    for each in (ends[0], ends[-1]):
        start = each.seconds - each.inside
        longest = sorted(each.stages.items(), key=lambda stage: stage[1], reverse=True)[:3]
        share = start / each.seconds
        messages = f"{each.point.messages:,} messages"
        yield f"- {messages}: {start:.1f} of {each.seconds:.1f} s are imports ({share:.0%})."
        total, shares = sum(each.stages.values()), _shares(dict(longest), each.stages)
        yield f"  The stages, over their threads, take {total:.1f} s: {shares}."
        parts = model.seconds.parts(each.point)
        yield f"  The model's seconds: {_shares(parts, parts)}."


def _shares(shown: dict[str, float], every: dict[str, float]) -> str:
    total = sum(every.values())
    return "; ".join(f"{name} {seconds / total:.0%}" for name, seconds in shown.items() if seconds)


def _beam(results: Results) -> Iterator[str]:
    usual = base(results.measured)
    yield f"| {usual.point.messages:,} messages | s | without start | CPU s |"
    yield "|---|---|---|---|"
    for each in results.empty:
        yield _row(each.name, f"{each.seconds:.2f}", f"{each.inside:.2f}", f"{each.cpu:.2f}")
    yield _row("kpiflow", f"{usual.seconds:.2f}", f"{usual.inside:.2f}", f"{usual.cpu:.2f}")
    graph, loop, start = results.empty
    own = graph.inside - loop.inside
    share = (own + start.seconds) / usual.seconds
    yield from (
        "",
        f"Beam's own: {own:.2f} s of running and {start.seconds:.2f} s of import, "
        f"{share:.1%} of kpiflow's time.",
    )


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
