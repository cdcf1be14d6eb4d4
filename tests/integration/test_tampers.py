"""Whatever is done to the files of an output behind its back, `reconcile --input` notices."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.cli import run
from schemas.kinds import KINDS
from schemas.tables import TABLES, Table
from tests.builders import NOON, agent_record, health, list_paths, report, result, task
from tests.integration.archives import envelope, stream, write
from transforms.sinks.parquet.parquet_file import encode_file

Rows = Callable[[Table, pa.RecordBatch, random.Random], pa.RecordBatch]
Seal = Callable[[Path, pa.RecordBatch], None]


def without_a_row(table: Table, rows: pa.RecordBatch, draw: random.Random) -> pa.RecordBatch:
    left = list(range(rows.num_rows))
    left.remove(draw.choice(left))
    return rows.take(pa.array(left, pa.int64()))


def with_another_row(table: Table, rows: pa.RecordBatch, draw: random.Random) -> pa.RecordBatch:
    """A copy of a row under a key of its own, or under the same one."""
    copy = rows.slice(draw.randrange(rows.num_rows), 1)
    keys = [name for name in ("report_id", "message_id", "version") if name in table.key] or ["agent_id"]
    for name in keys if draw.random() < 0.7 else ():
        copy = copy.set_column(copy.schema.get_field_index(name), name, pa.array([f"new-{draw.random()}"]))
    return pa.concat_batches([rows, copy.cast(rows.schema)])


def with_a_change(table: Table, rows: pa.RecordBatch, draw: random.Random) -> pa.RecordBatch:
    """Another value in one column of one row."""
    row = draw.randrange(rows.num_rows)
    plain = [
        field for field in rows.schema if pa.types.is_string(field.type) or pa.types.is_floating(field.type)
    ]
    field = draw.choice(plain)
    other = pa.scalar("other" if pa.types.is_string(field.type) else 12.25, field.type)
    here = pa.array([number == row for number in range(rows.num_rows)])
    return rows.set_column(
        rows.schema.get_field_index(field.name), field, pc.if_else(here, other, rows[field.name])
    )


def unsealed(path: Path, rows: pa.RecordBatch) -> None:
    pq.write_table(pa.Table.from_batches([rows]).replace_schema_metadata(), path)


def stale_seal(path: Path, rows: pa.RecordBatch) -> None:
    """Rewritten with the digests of the file that it was."""
    pq.write_table(
        pa.Table.from_batches([rows]).replace_schema_metadata(pq.read_metadata(path).metadata), path
    )


def own_seal(path: Path, rows: pa.RecordBatch) -> None:
    path.write_bytes(encode_file(rows))


REWRITES: list[tuple[Rows, Seal]] = [
    (change, seal)
    for change in (without_a_row, with_another_row, with_a_change)
    for seal in (unsealed, stale_seal, own_seal)
    if (change, seal)
    != (with_a_change, own_seal)  # a value that is changed and sealed anew is what the digest cannot tell
]


def make_records(number: int) -> list[dict[str, Any]]:
    """A task, its result, an agent and the system's health."""
    return [task(number), result(number), agent_record(number), health()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with every fate in it, and the output of its backfill."""
    folder = tmp_path_factory.mktemp("tampers")
    records = [
        envelope(document, f"{number}-0", NOON, kind.stream)
        for number in (1, 2, 3)
        for kind, document in zip(KINDS.values(), (report(number), *make_records(number)), strict=True)
    ]
    lines = [*stream(120, seed=1), *stream(20, seed=2), *records, b"{broken", b"[]"]
    write(folder / "a.ndjson", lines)
    assert run(["backfill", "--input", str(folder / "a.ndjson"), "--output", str(folder / "out")]) == 0
    assert all(list_paths(folder / "out", table) for table in TABLES.values())
    return folder


def reconciled(folder: Path) -> int:
    return run(["reconcile", str(folder / "out"), "--input", str(folder / "a.ndjson"), "--json"])


@pytest.mark.parametrize("seed", range(100))
def test_a_tampered_file_is_noticed(made: Path, seed: int) -> None:
    draw = random.Random(seed)
    table = draw.choice(list(TABLES.values()))
    path = draw.choice(list_paths(made / "out", table))
    before = path.read_bytes()
    added = tamper(table, path, draw)
    try:
        assert reconciled(made) == 1
    finally:
        path.write_bytes(before)
        added.unlink(missing_ok=True)


def tamper(table: Table, path: Path, draw: random.Random) -> Path:
    """Rewrite the file, delete it, or copy it to the place that is returned."""
    copy = path.parent / draw.choice(["2359.parquet", "copy.parquet", "deeper/copy.parquet"])
    kind = draw.randrange(10)
    if kind == 0:
        path.unlink()
    elif kind == 1:
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    else:
        change, seal = draw.choice(REWRITES)
        rows = (
            pq.read_table(path, partitioning=None).replace_schema_metadata().combine_chunks().to_batches()[0]
        )
        seal(path, change(table, rows, draw))
    return copy


def test_an_untouched_output_reconciles(made: Path) -> None:
    assert reconciled(made) == 0
