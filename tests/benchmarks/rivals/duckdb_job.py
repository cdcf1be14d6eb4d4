"""The job of `kpiflow backfill` as DuckDB SQL: `job.sql`, in one process, with as many threads as there are
cores.

python -m tests.benchmarks.rivals.duckdb_job FOLDER --output FOLDER
"""

from pathlib import Path

import duckdb

from tests.benchmarks.rivals.timed import main

SQL = Path(__file__).with_name("job.sql")
TABLES = {
    "kpi_reports": "FROM kpi_reports",
    "kpi_aggregations": "FROM kpi_aggregations",
    "quarantine": "FROM quarantine",
    "duplicates": "SELECT * EXCLUDE (place) FROM duplicates",
}


def run(source: Path, output: Path) -> None:
    """Each table of the archives in `source` as one Parquet file in `output`."""
    with duckdb.connect() as connection:
        connection.execute("SET VARIABLE input = $1", [str(source / "*.ndjson")])
        connection.execute(SQL.read_text(encoding="utf-8"))
        for name, query in TABLES.items():
            path = str(output / f"{name}.parquet").replace("'", "''")
            connection.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")


if __name__ == "__main__":
    main(run, __doc__)
