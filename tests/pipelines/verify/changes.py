"""Ways of changing a file of an output behind its back, each of which must be noticed."""

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.core.record_batches import concat, make_empty
from transforms.sinks.parquet.parquet_file import encode_file

Tamper = Callable[[Path, random.Random], object]


def rewritten(change: Callable[[pa.Table, random.Random], pa.Table], seal: str) -> Tamper:
    """Rewrite a file with another program: with no digest, with the old one, or with one that fits."""

    def tamper(path: Path, chance: random.Random) -> None:
        with pq.ParquetFile(path) as file:
            table, metadata = file.read(), file.metadata.metadata
        table = change(table, chance).replace_schema_metadata()
        if seal == "sealed":
            path.write_bytes(encode_file(concat([make_empty(table.schema), *table.to_batches()])))
        else:
            del metadata[b"ARROW:schema"]
            pq.write_table(table.replace_schema_metadata(metadata if seal == "stale" else None), path)

    return tamper


def without_a_row(table: pa.Table, chance: random.Random) -> pa.Table:
    row = chance.randrange(table.num_rows)
    return pa.concat_tables([table.slice(0, row), table.slice(row + 1)])


def with_a_row_twice(table: pa.Table, chance: random.Random) -> pa.Table:
    return pa.concat_tables([table, table.slice(chance.randrange(table.num_rows), 1)])


def with_a_new_row(table: pa.Table, chance: random.Random) -> pa.Table:
    row = table.slice(chance.randrange(table.num_rows), 1)
    for name in ("message_id", "report_id", "agent_id"):
        if name in table.column_names:
            row = row.set_column(table.column_names.index(name), name, pa.array(["new"]))
    return pa.concat_tables([table, row])


def with_a_changed_value(table: pa.Table, chance: random.Random) -> pa.Table:
    filled = [
        name
        for name in table.column_names
        if table[name].null_count == 0 and pa.types.is_string(table[name].type)
    ]
    name, row = chance.choice(filled), chance.randrange(table.num_rows)
    values = table[name].to_pylist()
    values[row] += "?"
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def moved(path: Path, chance: random.Random) -> None:
    path.rename(path.with_name(f"{chance.choice(['1230', '0000', 'copy'])}.parquet"))


def copied(path: Path, chance: random.Random) -> None:
    target = path.parent.with_name(chance.choice(["hour=13", "hour=00", "date=2025-10-23"])) / path.name
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(path.read_bytes())


def flipped(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


CHANGES = (without_a_row, with_a_row_twice, with_a_new_row, with_a_changed_value)
TAMPERS: list[Tamper] = [rewritten(change, seal) for change in CHANGES for seal in ("unsealed", "stale")]
TAMPERS += [rewritten(change, "sealed") for change in CHANGES[:3]]
TAMPERS += [
    moved,
    copied,
    flipped,
    lambda path, _: path.unlink(),
    lambda path, _: path.write_bytes(path.read_bytes()[:-9]),
]
