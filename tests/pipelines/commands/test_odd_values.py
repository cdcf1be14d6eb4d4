"""Outputs whose files another program wrote: no command that reads them ends with a traceback."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli import run
from pipelines.queries.registry import QUERIES
from schemas.tables import FLEET, TABLES
from tests.pipelines.queries.small_output import START, make_output
from tests.pipelines.summary.test_queries import store
from transforms.derived.inconsistencies import TABLE as INCONSISTENCIES
from transforms.derived.registry import DERIVED
from transforms.derived.resolutions import TABLE as RESOLUTIONS
from transforms.derived.rules import RULES

RULE = RULES[0].name
TEXTS = ("", "\x00\x1b[31m\r\n", "x" * 10_240, "\u202e\u0301", "=1+1", "../..", "\ufeff")
FLOATS = (1e308, -0.0, float("inf"), float("nan"), 5e-324, -1e308)
INTEGERS = (2**63 - 1, -(2**63), 2**53 + 1, 0, -1)
GIVEN = {"agent_id": "agent 1", "task_id": "task 3", "report_id": "x", "experiment": "routing"}
Spoil = Callable[[pa.Array], pa.Array]


def drop_all(column: pa.Array) -> pa.Array:
    return pa.nulls(len(column), column.type)


def drop_every_second(column: pa.Array) -> pa.Array:
    return column.take(pa.array([None if n % 2 else n for n in range(len(column))], pa.int64()))


def enlarge(column: pa.Array) -> pa.Array:
    pool: tuple[object, ...] = ()
    if pa.types.is_float64(column.type):
        pool = FLOATS
    elif pa.types.is_int64(column.type):
        pool = INTEGERS
    return pa.array([pool[n % len(pool)] for n in range(len(column))], column.type) if pool else column


def rename(column: pa.Array) -> pa.Array:
    if not pa.types.is_string(column.type):
        return column
    return pa.array([TEXTS[n % len(TEXTS)] for n in range(len(column))], column.type)


def spoil_files(output: Path, spoil: Spoil) -> None:
    """Change all columns of all tables but their keys and times."""
    tables = [*TABLES.values(), FLEET, *(each.table for each in DERIVED.values())]
    for table in tables:
        kept = {*table.key, table.time, "granularity"}
        for path in (output / table.name).rglob("*.parquet"):
            rows = pq.read_table(path, partitioning=None).combine_chunks()
            columns = [
                column if name in kept else spoil(pa.concat_arrays(column.chunks))
                for name, column in zip(rows.column_names, rows.columns)
            ]
            pq.write_table(pa.table(columns, schema=rows.schema), path)


def list_commands(output: str) -> list[list[str]]:
    """What reads an output."""
    asked = [
        ["query", output, name, "--limit", "20", "--format", "json",
         *(word for one in query.parameters if one.required
           for word in (f"--{one.name.replace('_', '-')}", GIVEN.get(one.name, "1m")))]
        for name, query in QUERIES.items()
    ]  # fmt: skip
    return [
        *asked,
        *([*words, *more] for words in
          (["show", output], ["quality", output], ["quality", output, "--rule", RULE], ["trends", output],
           ["recommend", output, "--all"], ["compare", output, "routing"], ["parity", output, output],
           ["quarantine", "list", output])
          for more in ([], ["--json"])),
        ["quarantine", "show", output],
        ["features", output, "--output", f"{output}/../features.parquet"],
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [drop_all, drop_every_second, enlarge, rename])
def test_no_command_ends_with_a_traceback_or_a_warning(
    spoil: Spoil, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = make_output(tmp_path / "out")
    broken = {"report_id": "r", "task_id": "t", "agent_id": "a", "rule": RULE, "severity": "error"}
    broken |= {"recorded_at": START, "evidence": "{}"}
    store(output, INCONSISTENCIES.table, [broken, broken | {"report_id": "s"}])
    store(output, RESOLUTIONS.table, [broken | {"resolved_at": START, "resolved_by": "{}"}])
    spoil_files(output, spoil)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for words in list_commands(str(output)):
            run(words)
            said = capsys.readouterr()
            assert "Traceback" not in said.err, words
            assert "\x1b[31m" not in said.out + said.err, words
