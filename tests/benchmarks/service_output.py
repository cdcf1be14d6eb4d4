"""An output to measure the service with: reports in many small files, 1,000 in each, and their windows.

The columns that queries compare are random; the others repeat, so a file is about as large as a stream's.
"""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.settings import Settings
from schemas.partitioning import format_hour_folder, format_window_folder
from schemas.readers.formats import TIME
from schemas.tables import AGGREGATIONS, LAYOUT_VERSION, REPORTS
from transforms.aggregation.statistics import finish, make_partials, merge_by_agent
from transforms.core.record_batches import concat
from transforms.sinks.parquet.parquet_file import encode_file

START = datetime(2025, 10, 20, tzinfo=UTC)
ROWS = 1000
"""Reports of a file, one of each agent."""
_TYPES = ("gpu", "cpu", "io", "mixed")


def make_output(folder: Path, files: int) -> None:
    """Write the output: a file each minute, from START on."""
    folder.mkdir(parents=True)
    settings = Settings().row_settings() | {"file_minutes": 1}
    described = {"layout": LAYOUT_VERSION, "schemas": {}, "settings": settings}
    (folder / "_kpiflow.json").write_text(json.dumps(described))
    agents = [str(uuid.UUID(int=0xA << 124 | 4 << 76 | 8 << 60 | n)) for n in range(ROWS)]
    for hour in range(-(-files // 60)):
        minutes = range(hour * 60, min(files, hour * 60 + 60))
        for minute in minutes:
            write_minute(folder, minute, agents)
        write_windows(folder, hour, concat([make_rows(minute, agents) for minute in minutes]))


def write_windows(folder: Path, hour: int, reports: pa.RecordBatch) -> None:
    """Write the windows of an hour's reports, those of 1 h and of 1 min."""
    at, partial = START + timedelta(hours=hour), make_partials(reports)
    for size in ("1m", "1h"):
        below = folder / AGGREGATIONS.name / format_window_folder(size) / format_hour_folder(at)
        below.mkdir(parents=True)
        rows = finish(merge_by_agent(partial, size))
        (below / f"{at:%H}00.parquet").write_bytes(encode_file(rows))


def write_minute(folder: Path, minute: int, agents: list[str]) -> None:
    """Write the file of a minute, by a rename; the same minute always has the same rows."""
    at = START + timedelta(minutes=minute)
    below = folder / REPORTS.name / format_hour_folder(at)
    below.mkdir(parents=True, exist_ok=True)
    path = below / f"{at:%H%M}.parquet"
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_bytes(encode_file(make_rows(minute, agents)))
    temporary.rename(path)


def name_task(minute: int, number: int) -> str:
    """The task of a report."""
    return str(uuid.UUID(int=(minute << 96) | (number << 64) | 4 << 76 | 8 << 60 | 7))


def make_rows(minute: int, agents: list[str]) -> pa.RecordBatch:
    """The reports of a minute."""
    chance = np.random.default_rng(minute)
    at = START + timedelta(minutes=minute)
    first = int(at.timestamp()) * 1_000_000
    times = pa.array(first + np.sort(chance.integers(0, 60_000_000, ROWS)), pa.int64()).cast(TIME)
    own = {
        "task_id": pa.array([name_task(minute, n) for n in range(ROWS)]),
        "agent_id": pa.array(agents),
        "target_agent_type": pa.array([_TYPES[n % len(_TYPES)] for n in range(ROWS)]),
        "report_id": pa.array([chance.bytes(16).hex() for _ in range(ROWS)]),
        "recorded_at": times,
        "received_at": times,
        "accuracy": pa.array(chance.integers(700, 1000, ROWS) / 1000),
        "source": pa.array(["kpi"] * ROWS),
        "message_id": pa.array([f"{first // 1000}-{n}" for n in range(ROWS)]),
    }
    columns = [own.get(field.name, _fill(field, chance)) for field in REPORTS.schema]
    return pa.RecordBatch.from_arrays(columns, schema=REPORTS.schema)


def _fill(field: pa.Field, chance: np.random.Generator) -> pa.Array:
    if pa.types.is_floating(field.type):
        return pa.array(chance.random(ROWS) * 100 + 1)
    if pa.types.is_integer(field.type):
        return pa.array(np.ones(ROWS, np.int64)).cast(field.type)
    if pa.types.is_boolean(field.type):
        return pa.array(np.zeros(ROWS, bool))
    return pa.nulls(ROWS, field.type)


def list_agents() -> Iterator[str]:
    """The agents."""
    return (str(uuid.UUID(int=0xA << 124 | 4 << 76 | 8 << 60 | n)) for n in range(ROWS))
