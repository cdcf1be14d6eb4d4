"""Measure how `kpiflow backfill` grows with messages, agents, cores, dirt and disorder, one at a time, and on
Flink; and fit what it costs.

The first output of each point is reconciled with its input, and its counts are those of the generator.
Writes FOLDER/scale.json, FOLDER/scale.md and FOLDER/scale-*.svg; `--draw DIR` draws and writes anew from
FOLDER/scale.json, and measures nothing.
"""

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.bench import KPIFLOW, REPETITIONS, Run, archive, fresh, machine, run
from tests.benchmarks.curve_pictures import draw
from tests.benchmarks.curve_tables import LEAST_MESSAGES, Empty, Results, markdown
from tests.benchmarks.curves import BLOCK_REPORTS, Measured, Point

MESSAGES, LEAST_BLOCK = 1_000_000, 1000
MOST_REPEATED = 5
"""Points of more than so many times the base's messages are run once."""
FATES = ("reports", "duplicates", "quarantined")
EMPTY = {
    "the graph's two groupings, empty, in one process": ["-m", "tests.benchmarks.empty", "{source}"],
    "the same as a plain loop": ["-m", "tests.benchmarks.empty", "{source}", "--without-beam"],
    "import of Beam": ["-c", "import apache_beam"],
}
"""What is run to tell Beam's own share: the arguments to Python."""
_STAGE = re.compile(r"^ *(\S.*?) +([\d,]+) +(\d+\.\d+) +[\d,]+ *$", re.MULTILINE)


def points(scale: float) -> list[Point]:
    """What is measured: runs of next to nothing, a base, what differs from it in one thing, and points that
    the model must foretell."""
    usual = Point(
        "base", round(MESSAGES * scale), block_reports=max(LEAST_BLOCK, round(BLOCK_REPORTS * scale))
    )

    def of(share: float, label: str = "", **changes: Any) -> Point:
        messages = round(usual.messages * share)
        return replace(usual, case=f"{messages:,} messages{label}", messages=messages, **changes)

    least = replace(usual, case=f"{LEAST_MESSAGES} messages, 1 h", messages=LEAST_MESSAGES, hours=1)
    return [
        least,
        replace(least, case=f"{least.case}, 1 core", cores=1),
        replace(least, case=f"{least.case}, Flink", runner="flink", held_out=True),
        of(0.1),
        usual,
        replace(usual, case="10 agents", agents=10),
        replace(usual, case="100,000 agents", agents=100_000),
        replace(usual, case="20 % dirty", dirty=0.2),
        replace(usual, case="shuffled", shuffled=True),
        replace(usual, case="1 hour", hours=1),
        replace(usual, case="1 core", cores=1),
        of(0.3, ", 10,000 agents, 10 % dirty, 1 core", agents=10_000, dirty=0.1, cores=1, held_out=True),
        of(3, held_out=True),
        of(3, ", 1 core", cores=1, held_out=True),
        of(5, held_out=True),
        of(5, ", Flink", runner="flink", held_out=True),
        of(10),
        of(10, ", 1 hour", hours=1, held_out=True),
    ]


def main() -> None:
    """Measure, or only draw, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("bench"))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the messages, and of a block")
    parser.add_argument(
        "--repetitions",
        type=int,
        default=REPETITIONS,
        help=f"runs of each point of at most {MOST_REPEATED} times the base's messages",
    )
    parser.add_argument("--without-flink", action="store_true", help="leave out the points that need Java")
    parser.add_argument(
        "--draw", type=Path, metavar="DIR", help="only draw what FOLDER/scale.json holds, into DIR"
    )
    arguments = parser.parse_args()
    folder: Path = arguments.folder.absolute()
    if not arguments.draw:
        folder.mkdir(parents=True, exist_ok=True)
        every = points(arguments.scale)
        if arguments.without_flink:
            every = [point for point in every if point.runner != "flink"]
        keep(measure(every, folder, arguments.repetitions), folder / "scale.json")
    results = kept(folder / "scale.json")
    text = "\n".join(markdown(results)) + "\n"
    (folder / "scale.md").write_text(text, encoding="utf-8")
    print(text)
    print(*draw(results.measured, arguments.draw or folder), sep="\n")


def measure(every: Sequence[Point], folder: Path, repetitions: int) -> Results:
    """Run every point in turns, but the largest ones once each at the end."""
    print(f"{machine()}, load {os.getloadavg()[0]:.1f} before", flush=True)
    usual = next(point for point in every if point.case == "base")
    runs: dict[Point, list[Run]] = {point: [] for point in every}
    outputs = fresh(folder / "scale")
    large = [point for point in every if point.messages > MOST_REPEATED * usual.messages]
    for turn in range(repetitions):
        for point in every:
            if point not in large:
                runs[point].append(backfill(point, folder, outputs, proven=turn > 0))
    found = source(usual, folder)
    empty = [_empty(name, found, repetitions) for name in EMPTY]
    for point in large:
        runs[point].append(backfill(point, folder, outputs, proven=False))
        shutil.rmtree(source(point, folder))
    shutil.rmtree(outputs)
    here = f"{machine()}; {time.strftime('%Y-%m-%d')}"
    return Results(here, [middle(point, runs[point]) for point in every], empty)


def backfill(point: Point, folder: Path, outputs: Path, proven: bool) -> Run:
    """One run of a point; what it wrote is proven to be right unless that is known. Only the base's output,
    with which others are compared, stays."""
    found = source(point, folder)
    output = fresh(outputs / re.sub(r"\W+", "-", point.case))
    engine = ["--timings"] if point.runner == "direct" else ["--runner", point.runner]
    size = ["--workers", str(point.cores), "--block-reports", str(point.block_reports)]
    job = ["backfill", *engine, *size, "--input", str(found), "--output", str(output)]
    os.sync()  # what generating left to write must not be written beside the run
    measured = run([*on(point.cores), *KPIFLOW, *job], point.messages)
    figures = f"{measured.seconds:7.1f} s {measured.cpu:7.1f} CPU s {measured.peak_mib:7,.0f} MiB"
    print(f"{point.case:<56}{figures}  load {os.getloadavg()[0]:.1f}", flush=True)
    if not proven:
        prove(point, found, output)
    if point.case != "base":
        shutil.rmtree(output)
    return measured


def source(point: Point, folder: Path) -> Path:
    """The archive of a point, generated once; shuffled from the sorted one."""
    made = archive(folder, point.messages, point.agents, point.dirty, point.hours)
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
        cpu=chosen.cpu,
        mib=chosen.peak_mib,
        windows=int(stages["write kpi_aggregations"][0].replace(",", "")) if stages else None,
        stages={name: float(seconds) for name, (_, seconds) in stages.items()},
    )


def _empty(name: str, found: Path, repetitions: int) -> Empty:
    job = [*on(1), sys.executable, *(word.format(source=found) for word in EMPTY[name])]
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


if __name__ == "__main__":
    main()
