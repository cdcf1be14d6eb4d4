"""One random output: derived by the SQL, in one span or in two, and by the oracle."""

from pathlib import Path
from random import Random

import pyarrow as pa

from pipelines.jobs.derive import derive, make_deriver
from pipelines.settings import Settings
from pipelines.verify.output_description import read_row_settings
from pipelines.verify.table_scan import scan
from schemas.tables import Table
from tests.integration.archives import make_output
from tests.transforms.derived.oracle.archives import STORED, make_archive, make_settings
from tests.transforms.derived.oracle.comparison import ORACLES, find_differences
from tests.transforms.derived.oracle.messages import make_lines
from tests.transforms.derived.oracle.rows import HOUR, Row, read_rows
from tests.transforms.derived.oracle.rows import Settings as Values
from transforms.derived.bounds import EVER, UNTIMED, Period
from transforms.derived.derived_table import Clock, DerivedTable
from transforms.derived.engine import DeriveLimits
from transforms.derived.registry import DERIVED
from transforms.derived.run import derive_rows

COMPARED = [table for name, table in DERIVED.items() if name in ORACLES]
"""The tables that the oracle makes too, each after those that it reads."""


def compare_case(seed: int) -> dict[str, list[str]]:
    """The differences of one random output, by derived table."""
    random = Random(seed)
    settings = make_settings(random)
    stored = make_archive(random, settings)
    rows = {name: read_rows(table) for name, table in stored.items()}
    spans = cut_time(random, [row["recorded_at"] for row in rows["kpi_reports"]])
    differences = {}
    for table in COMPARED:
        found = derive_spans(table, stored, settings, spans)
        stored[table.table.name] = found
        expected = ORACLES[table.table.name](rows, settings)
        differences[table.table.name] = find_differences(expected, read_rows(found), table.table.key)
    return differences


def cut_time(random: Random, times: list[int]) -> list[Period]:
    """All of time, or two spans that meet at some full hour."""
    if random.random() < 0.7:
        return [EVER]
    cut = random.choice(times) // HOUR * HOUR
    return [Period(EVER.start, cut), Period(cut, EVER.end)]


def derive_spans(
    table: DerivedTable, stored: dict[str, pa.Table], settings: Values, spans: list[Period]
) -> pa.Table:
    """The rows of a derived table, span by span."""
    if table.clock is Clock.RECEIVED:
        spans = [*spans, UNTIMED]
    return pa.Table.from_batches([derive_rows(table, stored, settings, span) for span in spans])


def compare_files(seed: int, folder: Path) -> dict[str, list[str]]:
    """The differences of one random archive that was written as messages and backfilled, by derived table.

    The messages come in up to three backfills, each of blocks and files of some length, and what they make is
    derived after each, a few reports at a time.
    """
    random = Random(seed)
    settings = make_settings(random)
    written = {name: read_rows(table) for name, table in make_archive(random, settings).items()}
    lines = make_lines(written, random)
    edges = [0, *sorted(random.sample(range(1, len(lines)), random.randint(0, 2))), len(lines)]
    words = ["--workers", "1", "--derive", "never", *list_flags(settings)]
    words += ["--file-minutes", random.choice(["1", "5", "30", "60"])]
    for start, end in zip(edges, edges[1:]):
        blocks = ["--block-hours", random.choice(["1", "6", "24"])]
        output = make_output(folder, lines[start:end], *words, *blocks)
        limits = DeriveLimits(random.choice([1, 2]), rows=random.choice([5, 50, 10**6]))
        values = Settings(**settings).derived_settings() | read_row_settings(output)
        derive(output, make_deriver(output, values, (), limits))
    rows = {table.name: read_output(output, table) for table in STORED}
    return {
        table.table.name: find_differences(
            ORACLES[table.table.name](rows, settings), read_output(output, table.table), table.table.key
        )
        for table in COMPARED
    }


def list_flags(settings: Values) -> list[str]:
    """The settings as flags of a command."""
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def read_output(output: Path, table: Table) -> list[Row]:
    """Every row of a table in a folder."""
    return [row for batch in scan(output, table) for row in read_rows(batch)]
