"""Measure `kpiflow derive` over a backfill with records: all tables, a pass that finds nothing, each alone.

Part of `make bench`. Seconds are of whole processes, start and comparison included.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.bench import KPIFLOW, Run, fresh, run
from transforms.derived.registry import DERIVED

AGENTS = 1000
TARGET_SECONDS, TARGET_MIB = 10, 1000
_ROWS = re.compile(r"([\d,]+) rows of (\w+)")


def make_output(folder: Path, reports: int) -> Path:
    """A backfill of reports with their records, not derived yet."""
    source, output = folder / f"records-{reports}", fresh(folder / "records-tables")
    if not (source / "truth.json").exists():
        mix = ["--reports", str(reports), "--agents", str(AGENTS), "--seed", "1", "--records"]
        run([*KPIFLOW, "generate", *mix, "--output", str(source)])
    run([*KPIFLOW, "backfill", "--input", str(source), "--output", str(output), "--derive", "never"])
    return output


def measure(folder: Path, reports: int) -> Iterator[str]:
    """Derive the tables of an output and yield the lines of FOLDER/bench.md."""
    output = make_output(folder, reports)
    command = [*KPIFLOW, "derive", str(output)]
    whole, again = run(command), run(command)
    yield f"\nDerived tables of {reports:,} reports and their records:\n"
    yield "| table | rows | s | peak MiB | CPU s |"
    yield "|---|---|---|---|---|"
    yield _format_line("all, several at once", whole)
    yield _format_line("a pass that finds nothing stale", again)
    for name in DERIVED:
        shutil.rmtree(output / name)
        yield _format_line(f"{name} alone", run([*command, "--table", name]))
    yield f"\n- the targets for all of 1,000,000 are {TARGET_SECONDS} s and {TARGET_MIB} MiB."


def _format_line(name: str, measured: Run) -> str:
    rows = sum(int(count.replace(",", "")) for count, _ in _ROWS.findall(measured.output))
    cells = (f"{rows:,}", f"{measured.seconds:.1f}", f"{measured.peak_mib:,.0f}", f"{measured.cpu:.1f}")
    return f"| {' | '.join([name, *cells])} |"
