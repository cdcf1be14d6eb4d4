"""Measure `kpiflow stream` on a real redis-server and the embedded Flink: latency, drain, soak, producers,
recovery, and more.

Prints the machine and its versions, each part's figures as soon as they are there, and all of them as one
Markdown table, which is also in FOLDER/stream.md, with FOLDER/stream.json beside it. Outputs are reconciled
with their streams before a figure counts.

    python -m tests.benchmarks.stream --only latency --scale 0.1
"""

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from runners.flink.jars import FlinkMissing, ensure_jars, find_java
from tests.benchmarks import bench
from tests.benchmarks.deciding import deciding
from tests.benchmarks.deriving import deriving
from tests.benchmarks.journey import journey
from tests.benchmarks.parts import Figure, Outcome, Plan, drain, keys, latency, parallel, recovery, soak
from tests.benchmarks.producers import producers
from tests.benchmarks.trials import Sample

PARTS = {
    "latency": latency, "journey": journey, "drain": drain, "soak": soak,
    "keys": keys, "parallel": parallel, "producers": producers, "recovery": recovery,
    "deriving": deriving, "deciding": deciding,
}  # fmt: skip
BEST = "--flush-seconds 15 --checkpoint-seconds 30"
"""Settings for throughput: few flushes and checkpoints."""


def main() -> None:
    """Measure what is asked for, and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("bench"))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the messages and minutes")
    parser.add_argument(
        "--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to measure"
    )
    parser.add_argument(
        "--best", default=BEST, metavar="WORDS", help="settings to drain with, beside the default ones"
    )
    arguments = parser.parse_args()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit("terminated")
    )  # so that no server or job is left behind
    plan = Plan(arguments.folder / "stream", arguments.scale, tuple(shlex.split(arguments.best)))
    plan.folder.mkdir(parents=True, exist_ok=True)
    told = machine()
    print(f"{told}\nscale {plan.scale:g}, load {os.getloadavg()[0]:.1f} before it begins", flush=True)
    outcomes: dict[str, Outcome] = {}
    for name in arguments.only:
        began = time.perf_counter()
        outcomes[name] = PARTS[name](plan)
        told_of = [*map(_line, outcomes[name].figures), *outcomes[name].lines]
        print(f"\n{name}, {time.perf_counter() - began:.0f} s", *told_of, sep="\n", flush=True)
        _keep(arguments.folder, told, plan, outcomes)
    print("", *markdown(told, outcomes), sep="\n")


def machine() -> str:
    """The machine's size and the versions of what runs on it."""
    try:
        said = subprocess.run([find_java(), "-version"], capture_output=True, text=True, check=True).stderr
        jars = [path.name for path in ensure_jars().glob("*.jar")]
    except FlinkMissing as error:
        raise SystemExit(str(error)) from error
    redis = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    parts = [
        bench.machine(),
        f"Beam {version('apache-beam')} on {_of_jar('beam-runners-flink', jars)}, "
        f"Flink {_of_jar('flink-runtime', jars)}",
        f"Java {_found(r'version .([0-9._]+)', said)}, redis-server {_found(r'v=([0-9.]+)', redis)}, "
        f"pyarrow {version('pyarrow')}",
    ]
    return "; ".join(parts)


def markdown(told: str, outcomes: dict[str, Outcome]) -> Iterator[str]:
    """The section of docs/benchmarks.md, line by line."""
    yield f"{told}; {time.strftime('%Y-%m-%d')}:"
    figures = [figure for outcome in outcomes.values() for figure in outcome.figures]
    if figures:
        yield from ("", "| part | case | what | value |", "|---|---|---|---|")
    for figure in figures:
        value = f"{number(figure.value)} {figure.unit}".strip()
        yield f"| {figure.part} | {figure.case} | {figure.measure} | {value} |"
    for outcome in outcomes.values():
        if outcome.minutes:
            yield ""
            yield from series(outcome.minutes)
        yield from outcome.lines


def series(samples: Sequence[Sample]) -> Iterator[str]:
    """Samples as a Markdown table: minute, lag, MiB of the checkpoint and of each process."""
    names = sorted({name for sample in samples for name in sample.rss})
    columns = ["minute", "lag", "checkpoint MiB", *(f"{name} MiB" for name in names)]
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for sample in samples:
        values = [
            (sample.at - samples[0].at) / 60,
            sample.lag,
            sample.checkpoint,
            *(sample.rss.get(name, 0.0) for name in names),
        ]
        yield f"| {' | '.join(map(number, values))} |"


def number(value: float) -> str:
    """With three digits or more, as many as say something."""
    return (
        f"{value:,.0f}"
        if abs(value) >= 100 or value == int(value)
        else f"{value:.1f}"
        if abs(value) >= 10
        else f"{value:.2f}"
    )


def _line(figure: Figure) -> str:
    return f"  {figure.case:<40} {figure.measure:<56}{number(figure.value):>12} {figure.unit}"


def _keep(folder: Path, told: str, plan: Plan, outcomes: dict[str, Outcome]) -> None:
    """What is measured so far, so that a part that fails costs no other."""
    (folder / "stream.md").write_text("\n".join(markdown(told, outcomes)) + "\n", encoding="utf-8")
    results = {name: asdict(outcome) for name, outcome in outcomes.items()}
    text = json.dumps({"machine": told, "scale": plan.scale, "best": plan.best, "parts": results}, indent=2)
    (folder / "stream.json").write_text(text + "\n", encoding="utf-8")


def _of_jar(name: str, jars: Sequence[str]) -> str:
    """The version in the name of a jar."""
    return next(
        (
            found[1]
            for jar in sorted(jars)
            if (found := re.fullmatch(rf"{name}(?:-[\d.]+)?-([\d.]+)\.jar", jar))
        ),
        "?",
    )


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else "?"


if __name__ == "__main__":
    main()
