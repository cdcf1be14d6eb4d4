"""Measure named queries over an output: p50 and p95 of the wall time, and the CPU time of one.

Prints lines of Markdown. Each query is asked --times times in this process, each time of another task. The
load of the machine is printed too. The start of a process is not counted.

    python -m tests.benchmarks.queries OUT
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from statistics import median

import numpy as np
import pyarrow.parquet as pq

from pipelines.queries.registry import QUERIES
from pipelines.queries.run import Answer, run_query
from pipelines.verify.output_description import read_row_settings
from schemas.tables import REPORTS
from tests.builders import list_paths
from transforms.core.time_range import Span

Question = Callable[[], Answer]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--times", type=int, default=40)
    arguments = parser.parse_args()
    print("| query | files | p50 ms | p95 ms | CPU ms |\n|---|---|---|---|---|")
    for name, questions in _make_questions(arguments.output, arguments.times).items():
        print(_measure(name, questions), flush=True)
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"\n{os.cpu_count()} cores; load of the machine over 1, 5 and 15 minutes: {load}")


def _make_questions(output: Path, times: int) -> dict[str, list[Question]]:
    minutes = read_row_settings(output, "queried")["file_minutes"]
    files = list_paths(output, REPORTS)
    tasks = _choose_tasks(files, times)

    def ask(name: str, span: Span, **given: str) -> Answer:
        query = QUERIES[name]
        return run_query(output, query, query.parse(given), span, minutes)

    def make_lookup(task: str, span: Span) -> Question:
        return lambda: ask("reports-by-task", span, task_id=task)

    half = timedelta(minutes=2.5)
    end = max(at for _, at in _read_tasks(files[-1]))
    week = Span(end - timedelta(days=7), end)
    return {
        "reports-by-task, within 5 minutes": [
            make_lookup(task, Span(at - half, at + half)) for task, at in tasks
        ],
        "reports-by-task, without a time": [make_lookup(task, Span()) for task, _ in tasks],
        "agent-summary of a week": [lambda: ask("agent-summary", week)] * times,
    }


def _choose_tasks(files: Sequence[Path], times: int) -> list[tuple[str, datetime]]:
    chance = Random(1)
    return [chance.choice(_read_tasks(chance.choice(files))) for _ in range(times)]


def _read_tasks(path: Path) -> list[tuple[str, datetime]]:
    rows = pq.read_table(path, columns=["task_id", "recorded_at"], partitioning=None)
    return list(zip(rows["task_id"].to_pylist(), rows["recorded_at"].to_pylist()))


def _measure(name: str, questions: Sequence[Question]) -> str:
    """A line of the table; the first question is asked once before."""
    questions[0]()
    walls, cpus, files = [], [], 0
    for question in questions:
        wall, cpu = time.perf_counter(), time.process_time()
        files = max(files, question().files)
        walls.append((time.perf_counter() - wall) * 1000)
        cpus.append((time.process_time() - cpu) * 1000)
    p50, p95 = np.percentile(walls, [50, 95])
    return f"| {name} | {files} | {p50:,.0f} | {p95:,.0f} | {median(cpus):,.0f} |"


if __name__ == "__main__":
    main()
