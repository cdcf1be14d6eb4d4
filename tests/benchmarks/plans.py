"""Writes docs/plans.md: how DuckDB runs each query over an hour of an output.

    python -m tests.benchmarks.plans OUT > docs/plans.md

The output has an experiment `routing`, as one of `kpiflow generate --records` has once it is derived.
"""

import sys
from datetime import timedelta
from pathlib import Path

from pipelines.queries.registry import QUERIES
from pipelines.queries.run import plan_query, run_query
from pipelines.verify.output_description import read_row_settings
from transforms.core.time_range import Span

HEAD = """# Plans of the queries

How DuckDB ran each [query](queries.md) over one hour of an output: the files that were opened, and the steps,
the last one first, with the rows that each gave and the CPU time in it. `kpiflow query OUT NAME ... --plan`
prints the plan of a query of yours. Steps that only choose columns are left out.

The output is that of 20,000 reports with their records (`kpiflow generate --records --reports 20000
--agents 50 --seed 1 --output archive`, `kpiflow backfill --input archive --output OUT`), and
`python -m tests.benchmarks.plans OUT` wrote this page. The times are of one run on a machine with 2 virtual
CPUs and other work beside: compare steps of a plan with each other, not with other machines. A Dynamic Filter
is DuckDB's own: once it has a page of rows, it skips files and row groups that cannot be in it. The service
makes some pages [without DuckDB](service.md#lookups-by-task).
"""
HOUR = timedelta(hours=1)


def main(folder: Path) -> None:
    """Print the page."""
    minutes = read_row_settings(folder, "queried")["file_minutes"]
    newest = run_query(folder, QUERIES["features"], {"agent_id": None, "task_id": None}, Span(), minutes)
    first = newest.rows.slice(0, 1).to_pylist()[0]
    start = first["recorded_at"].replace(minute=0, second=0, microsecond=0)
    given = {
        "reports-by-task": {"task_id": first["task_id"]},
        "agent-over-time": {"agent_id": first["agent_id"]},
        "reports-by-type": {"agent_type": "inference"},
        "experiment": {"experiment": "routing"},
    }
    print(HEAD, end="")
    for query in QUERIES.values():
        words = given.get(query.name, {})
        plan = plan_query(folder, query, query.parse(words), Span(start, start + HOUR), minutes)
        heading = " ".join([query.name, *(f"{name}=..." for name in words)])
        print(f"\n## {query.name}\n\n```text\n$ kpiflow query OUT {heading} --from ... --to ... --plan")
        print(*plan.list_lines(), "```", sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
