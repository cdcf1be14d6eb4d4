"""Measure `kpiflow backfill` beside what one would use instead: DuckDB SQL, Polars, and Beam row by row
(`per_row`, on a part).

Prints the machine and tables, and writes them to FOLDER/bench.md: rates, how many times as fast kpiflow is in
the same turn, peak memory and CPU time of all the processes of a job. The jobs take turns. Before a time
counts kpiflow's output is reconciled with its input, and a rival's is compared with kpiflow's row by row
(`rivals.equal`). The per-row pipeline does less, and its output is not compared.
"""

import argparse
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks import process_tree

ROOT = Path(__file__).parents[2]
KPIFLOW = [sys.executable, "-m", "pipelines.cli"]
RIVALS = {"DuckDB": "duckdb_job", "Polars": "polars_job"}
TARGETS = {"Polars": 1.25, "DuckDB": 1.4}
"""How many times as fast as each kpiflow is meant to be."""
PER_ROW = "Beam row by row"
PROTOBUF = "kpiflow, Protocol Buffers"
"""The same messages in the other encoding."""
REPETITIONS = 3
AGENTS, DIRTY, HOURS = 50, 0.05, 48
PER_ROW_SHARE = 0.04
_INSIDE = re.compile(r" in ([\d.]+) s \(|\"seconds\": ([\d.]+)")


@dataclass(frozen=True)
class Run:
    """A job that ended well: messages, wall seconds and those of them after its imports, CPU seconds and peak
    MiB of all its processes."""

    messages: int
    seconds: float
    inside: float
    cpu: float
    peak_mib: float
    output: str

    @property
    def rate(self) -> float:
        """Messages a second, the start of the process included."""
        return self.messages / self.seconds


def run(command: Sequence[str], messages: int = 0) -> Run:
    """Run a command to its end; a failure ends the benchmark."""
    ended = process_tree.run(command, ROOT)
    if ended.code:
        raise SystemExit(f"{' '.join(command)} failed:\n{ended.output}")
    found = _INSIDE.search(ended.output)
    inside = float(found[1] or found[2]) if found else ended.seconds
    return Run(messages, ended.seconds, inside, ended.cpu, ended.peak_mib, ended.output)


def machine() -> str:
    """The machine's size, and what runs on it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} CPUs, {memory:.0f} GiB, {platform.machine()}, Python {platform.python_version()}"
    )


def archive(
    folder: Path,
    reports: int,
    agents: int = AGENTS,
    dirty: float = DIRTY,
    hours: int = HOURS,
    encoding: str = "json",
) -> Path:
    """An archive of this many messages, generated once; its folder's name tells what is not as usual."""
    unusual = "" if (agents, dirty) == (AGENTS, DIRTY) else f"-{agents}-{dirty:g}"
    unusual += "" if hours == HOURS else f"-{hours}h"
    unusual += "" if encoding == "json" else f"-{encoding}"
    place = folder / f"archive-{reports}{unusual}"
    truth = place / "truth.json"
    if not (truth.exists() and json.loads(truth.read_text(encoding="utf-8")).get("complete")):
        mix = ["--reports", str(reports), "--agents", str(agents), "--dirty", str(dirty), "--seed", "1"]
        mix += ["--span", f"{hours}h", "--encoding", encoding]
        run([*KPIFLOW, "generate", *mix, "--output", str(place)])
    return place


def backfill(source: Path, folder: Path, messages: int) -> Run:
    """One backfill into a fresh output, reconciled with its input."""
    output = fresh(folder / "tables")
    measured = run(
        [*KPIFLOW, "backfill", "--input", str(source), "--output", str(output), "--timings"], messages
    )
    run([*KPIFLOW, "reconcile", str(output), "--input", str(source)])
    return measured


def rival(name: str, source: Path, folder: Path, messages: int) -> Run:
    """One run of a rival into a fresh folder, compared with the tables of the last backfill."""
    output = fresh(folder / name)
    job = [
        sys.executable,
        "-m",
        f"tests.benchmarks.rivals.{RIVALS[name]}",
        str(source),
        "--output",
        str(output),
    ]
    measured = run(job, messages)
    likeness = run(
        [sys.executable, "-m", "tests.benchmarks.rivals.equal", str(folder / "tables"), str(output)]
    )
    print(f"{name}: {likeness.output}", end="", flush=True)
    return measured


def per_row(source: Path, folder: Path) -> Run:
    """One run of the per-row pipeline over the first files of an archive, at least a share of it."""
    files = sorted(source.glob("*.ndjson"))
    chosen: list[Path] = []
    while sum(file.stat().st_size for file in chosen) < PER_ROW_SHARE * sum(
        file.stat().st_size for file in files
    ):
        chosen.append(files[len(chosen)])
    messages = sum(1 for file in chosen for _ in file.open("rb"))
    job = [
        sys.executable,
        "-m",
        "tests.benchmarks.per_row",
        *map(str, chosen),
        "--output",
        str(fresh(folder / "per-row")),
    ]
    return run(job, messages)


def fresh(folder: Path) -> Path:
    """The folder's path, and nothing there."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def turn(source: Path, folder: Path, messages: int, rows: bool = True) -> dict[str, Run]:
    """Each job once, kpiflow first: its tables are what the others are compared with."""
    runs = {"kpiflow": backfill(source, folder, messages)}
    runs |= {name: rival(name, source, folder, messages) for name in RIVALS}
    if rows:
        encoded = archive(folder, messages, encoding="protobuf")
        runs[PROTOBUF] = backfill(encoded, folder / "protobuf", messages)
        runs[PER_ROW] = per_row(source, folder)
    rates = {name: round(measured.rate) for name, measured in runs.items()}
    print(json.dumps(rates), f"load {os.getloadavg()[0]:.1f}", flush=True)
    return runs


def table(turns: Sequence[dict[str, Run]]) -> str:
    """The runs as a table; the ratios, kpiflow's rate to the job's, are those of runs of one turn."""
    lines = [
        "| job | messages/s | min | max | kpiflow is times as fast | min | max "
        "| s without start | peak MiB | CPU s of 1M |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in turns[0]:
        runs = [each[name] for each in turns]
        rates = [measured.rate for measured in runs]
        ratios = _ratios(turns, name)
        cells = [f"{number:,.0f}" for number in (median(rates), min(rates), max(rates))]
        cells += [f"{number:.3g}" for number in (median(ratios), min(ratios), max(ratios))]
        cells.append(f"{median(measured.inside for measured in runs):.1f}")
        cells.append(f"{max(measured.peak_mib for measured in runs):,.0f}")
        cells.append(f"{median(1e6 * measured.cpu / measured.messages for measured in runs):.1f}")
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def _ratios(turns: Sequence[dict[str, Run]], name: str) -> list[float]:
    return [each["kpiflow"].rate / each[name].rate for each in turns]


def targets(turns: Sequence[dict[str, Run]]) -> Iterator[str]:
    """How many times as fast kpiflow is as those that it is meant to outrun."""
    for name, target in TARGETS.items():
        ratios = _ratios(turns, name)
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        yield f"- kpiflow is {median(ratios):.2f} times as fast as {name} ({spread}); the target is {target}."


def main() -> None:
    """Print the tables, and write them to FOLDER/bench.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("bench"))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the reports")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    arguments = parser.parse_args()
    folder: Path = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(measure(folder, arguments.scale, arguments.repetitions)) + "\n"
    (folder / "bench.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")


def measure(folder: Path, scale: float, repetitions: int) -> Iterator[str]:
    """Run all jobs and yield the lines of FOLDER/bench.md."""
    small, large = int(1_000_000 * scale), int(3_000_000 * scale)
    yield f"{machine()}, {time.strftime('%Y-%m-%d')}, load {os.getloadavg()[0]:.1f} before:"
    source = archive(folder, small)
    turns = [turn(source, folder, small) for _ in range(repetitions)]
    yield f"\n{small:,} messages, {len(turns)} turns; {PER_ROW} on {turns[0][PER_ROW].messages:,} of them:\n"
    yield table(turns)
    yield from ("", *targets(turns))
    yield f"\nThe stages of kpiflow's last run:\n\n```text\n{turns[-1]['kpiflow'].output}```"
    once = [turn(archive(folder, large), folder, large, rows=False)]
    yield f"\n{large:,} messages, once:\n"
    yield table(once)
    yield from ("", *targets(once))
    from tests.benchmarks.derive import measure as measure_derive  # it runs its jobs with `run` above

    yield from measure_derive(folder, small)


if __name__ == "__main__":
    main()
