"""Measure `kpiflow derive` over a backfill with records: each table alone, then a pass that finds nothing.

Part of `make bench`. Seconds are of whole processes, start and comparison included.
"""

import re
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
    runs = {name: run([*KPIFLOW, "derive", str(output), "--table", name]) for name in DERIVED}
    again = run([*KPIFLOW, "derive", str(output)])
    yield f"\nDerived tables of {reports:,} reports and their records:\n"
    yield "| table | rows | s | peak MiB | CPU s |"
    yield "|---|---|---|---|---|"
    for name, measured in runs.items():
        yield _format_line(name, measured)
    yield _format_line("a pass that finds nothing stale", again)
    seconds, peak = sum(each.seconds for each in runs.values()), max(each.peak_mib for each in runs.values())
    targets = f"the targets are {TARGET_SECONDS} s and {TARGET_MIB} MiB"
    yield f"\n- all of them take {seconds:.1f} s and {peak:,.0f} MiB; {targets}."


def _format_line(name: str, measured: Run) -> str:
    rows = sum(
        int(count.replace(",", "")) for count, table in _ROWS.findall(measured.output) if table == name
    )
    cells = (f"{rows:,}", f"{measured.seconds:.1f}", f"{measured.peak_mib:,.0f}", f"{measured.cpu:.1f}")
    return f"| {' | '.join([name, *cells])} |"
