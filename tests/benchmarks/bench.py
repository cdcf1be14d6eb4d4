"""Measure the whole graph: `kpiflow backfill` on 1M and 3M generated reports, beside a per-row Beam pipeline on a part of them.

Prints the machine, the rate and peak memory of each run, the time of each stage and the ratio of the rates. Every run is a process
of its own; outputs are checked (`kpiflow reconcile`) before a time counts.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
KPIFLOW = [sys.executable, "-m", "pipelines.cli"]
REPETITIONS = 3
PER_ROW_SHARE = 0.04


class Run(NamedTuple):
    """A process that ended well: wall seconds, CPU seconds, peak resident MiB, and what it printed."""

    seconds: float
    cpu: float
    peak_mib: float
    output: str


def run(command: Sequence[str]) -> Run:
    """Run a command to its end; a failure ends the benchmark."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{output}")
    return Run(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, output)


def archive(folder: Path, reports: int) -> Path:
    """An archive of this many messages, generated once."""
    place = folder / f"archive-{reports}"
    if not (place / "truth.json").exists():
        run([*KPIFLOW, "generate", "--reports", str(reports), "--agents", "50", "--seed", "1", "--output", str(place)])
    return place


def backfill(source: Path, folder: Path, check: bool = True) -> Run:
    """One backfill into a fresh output, reconciled with its input."""
    output = folder / "tables"
    shutil.rmtree(output, ignore_errors=True)
    measured = run([*KPIFLOW, "backfill", "--input", str(source), "--output", str(output), "--timings"])
    if check:
        run([*KPIFLOW, "reconcile", str(output), "--input", str(source)])
    return measured


def per_row(source: Path, folder: Path, share: float) -> tuple[Run, int]:
    """One run of the per-row pipeline over the first files of an archive, at least this share of it; and its messages."""
    files = sorted(source.glob("*.ndjson"))
    chosen: list[Path] = []
    while sum(file.stat().st_size for file in chosen) < share * sum(file.stat().st_size for file in files):
        chosen.append(files[len(chosen)])
    output = folder / "per-row"
    shutil.rmtree(output, ignore_errors=True)
    measured = run([sys.executable, str(HERE / "per_row.py"), *map(str, chosen), "--output", str(output)])
    return measured, sum(1 for file in chosen for _ in file.open("rb"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("bench"))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the reports")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    small, large = int(1_000_000 * arguments.scale), int(3_000_000 * arguments.scale)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    print(f"{os.cpu_count()} CPUs, {memory:.0f} GiB, {platform.machine()}, Python {platform.python_version()}", flush=True)

    source = archive(folder, small)
    rates: dict[str, list[float]] = {"kpiflow": [], "per-row Beam": []}
    for _ in range(REPETITIONS):
        whole = backfill(source, folder)
        rates["kpiflow"].append(small / whole.seconds)
        rows, messages = per_row(source, folder, PER_ROW_SHARE)
        rates["per-row Beam"].append(messages / rows.seconds)
        print(json.dumps({name: round(values[-1]) for name, values in rates.items()}), flush=True)
    print(f"\n{small:,} messages, messages/s (median, min, max of {REPETITIONS}, process start and imports included)")
    for name, values in rates.items():
        print(f"  {name:<14}{statistics.median(values):>12,.0f}{min(values):>12,.0f}{max(values):>12,.0f}")
    ratios = [ours / theirs for ours, theirs in zip(rates["kpiflow"], rates["per-row Beam"])]
    print(f"  {'ratio':<14}{statistics.median(ratios):>12,.1f}{min(ratios):>12,.1f}{max(ratios):>12,.1f}")
    print(f"\nstages of the last run\n{whole.output}")
    print(f"peak memory: {whole.peak_mib:,.0f} MiB at {small:,}, {whole.cpu:.1f} s of CPU", flush=True)
    most = backfill(archive(folder, large), folder)
    print(f"peak memory: {most.peak_mib:,.0f} MiB at {large:,}, {large / most.seconds:,.0f} messages/s, {most.cpu:.1f} s of CPU")


if __name__ == "__main__":
    main()
