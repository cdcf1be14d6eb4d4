"""Outputs of a few rows, and derived tables over them that use every input."""

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.settings import Settings
from schemas.readers.formats import LAST_US
from schemas.tables import AGENTS, REPORTS, TASKS, TIME, Table
from tests.builders import NOON
from transforms.core.record_batches import build_batch
from transforms.derived.derived_table import Clock, DerivedTable, Input
from transforms.derived.engine import Counts, DeriveLimits, Deriver
from transforms.sinks.parquet.file_merge import write_rows
from transforms.storage.local_folder import LocalFolder

MINUTE = timedelta(minutes=1)
FILE_MINUTES = 30
SETTINGS = Settings().derived_settings()
_TEXT, _INT = pa.string(), pa.int64()


def _table(name: str, columns: dict[str, pa.DataType], key: tuple[str, ...], time: str) -> Table:
    return Table(name, pa.schema(list(columns.items())), key, key, time)


_CONTEXT = DerivedTable(
    _table(
        "context",
        {"report_id": _TEXT, "recorded_at": TIME, "tasks": _INT, "past": _INT, "claims": _INT, "first": _INT,
         "agents": _INT, "hours": _INT},
        ("report_id",), "recorded_at",
    ),
    1,
    (Input("tasks", "context_hours"), Input("past_reports", 62 * MINUTE), Input("claims", "context_hours"),
     Input("agents"), Input("first_records")),
    """
    SELECT r.report_id, r.recorded_at, context_hours AS hours, epoch_us(f.tasks) AS first,
        (SELECT count(*) FROM tasks t WHERE t.task_id = r.task_id AND t.effective_at <= r.effective_at + w
            AND t.created_at >= r.recorded_at - to_hours(context_hours)) AS tasks,
        (SELECT count(*) FROM past_reports p WHERE p.effective_at <= r.effective_at + w
            AND p.recorded_at BETWEEN r.recorded_at - INTERVAL 62 MINUTE AND r.recorded_at) AS past,
        (SELECT count(*) FROM claims c WHERE c.task_id = r.task_id AND c.effective_at < r.effective_at)
            AS claims,
        (SELECT count(*) FROM agents a WHERE a.agent_id = r.agent_id AND a.effective_at <= r.effective_at + w)
            AS agents
    FROM reports r, first_records f, (SELECT *, to_seconds(context_wait_seconds) AS w FROM settings)
    """,
)  # fmt: skip
_BROKEN = DerivedTable(
    _table(
        "inconsistencies",
        {"report_id": _TEXT, "rule": _TEXT, "recorded_at": TIME, "effective_at": TIME, "task_id": _TEXT},
        ("report_id", "rule"), "recorded_at",
    ),
    1,
    (Input("tasks", "context_hours"),),
    """
    SELECT report_id, 'task_unknown' AS rule, recorded_at, effective_at, task_id FROM reports r, settings
    WHERE NOT EXISTS (FROM tasks t WHERE t.task_id = r.task_id
        AND t.effective_at <= r.effective_at + to_seconds(context_wait_seconds)
        AND t.created_at >= r.recorded_at - to_hours(context_hours))
    """,
)  # fmt: skip
_RESOLVED = DerivedTable(
    _table("resolutions", {"report_id": _TEXT, "resolved_at": TIME}, ("report_id",), "resolved_at"),
    1,
    (Input("inconsistencies", "context_hours"), Input("tasks", "context_hours")),
    """
    SELECT i.report_id, min(t.effective_at) AS resolved_at
    FROM inconsistencies i JOIN tasks t USING (task_id), settings
    WHERE t.effective_at > i.effective_at + to_seconds(context_wait_seconds)
        AND t.effective_at <= i.recorded_at + to_hours(context_hours)
        AND t.created_at >= i.recorded_at - to_hours(context_hours)
    GROUP BY ALL
    """,
    Clock.EFFECTIVE,
)
_RECEIVED = DerivedTable(
    _table(
        "received",
        {"granularity": _TEXT, "source": _TEXT, "start": TIME, "n": _INT, "broken": _INT},
        ("granularity", "source", "start"), "start",
    ),
    1,
    (Input("tasks", "context_hours"), Input("inconsistencies")),
    """
    WITH messages AS (
        SELECT source, received_at, report_id IN (SELECT report_id FROM inconsistencies) AS is_broken
        FROM reports
        UNION ALL SELECT source, received_at, false FROM tasks
    )
    SELECT '1h' AS granularity, source, date_trunc('hour', received_at) AS start, count(*) AS n,
        sum(is_broken::INT)::BIGINT AS broken
    FROM messages GROUP BY ALL
    """,
    Clock.RECEIVED,
)  # fmt: skip
EXAMPLES = (_CONTEXT, _BROKEN, _RESOLVED, _RECEIVED)


def _make_id(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"


def make_rows(table: Table, rows: Sequence[dict[str, Any]]) -> pa.RecordBatch:
    columns = {
        name: pa.array([row.get(name) for row in rows], table.schema.field(name).type) for name in rows[0]
    }
    return build_batch(columns, table.schema, len(rows))


def make_report(
    number: int, at: datetime, late: timedelta | None, task: int, agent: int = 0
) -> dict[str, Any]:
    return {
        "report_id": f"{number:032x}", "task_id": _make_id(task), "agent_id": _make_id(agent),
        "recorded_at": at, "received_at": None if late is None else at + late, "source": "s",
        "message_id": f"r{number}", "revision": 1,
    }  # fmt: skip


def make_task(number: int, at: datetime, effective: datetime, task: int) -> dict[str, Any]:
    return {
        "task_id": _make_id(task), "version": f"{number:032x}", "created_at": at, "effective_at": effective,
        "received_at": effective, "source": "t", "message_id": f"t{number}",
    }  # fmt: skip


def make_agent(number: int, effective: datetime, agent: int) -> dict[str, Any]:
    return {
        "agent_id": _make_id(agent), "version": f"{number:032x}", "effective_at": effective,
        "received_at": effective, "source": "a", "message_id": f"a{number}",
    }  # fmt: skip


def write(output: Path, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        write_rows(table, LocalFolder(output), [make_rows(table, rows)], FILE_MINUTES)


def invent_rows(seed: int, size: int = 30) -> list[tuple[Table, dict[str, Any]]]:
    """Reports, tasks and agents of some hours in random order: late, early, unknown, without received_at."""
    chance = random.Random(seed)
    rows: list[tuple[Table, dict[str, Any]]] = []
    for number in range(size):
        at = NOON + chance.random() * 300 * MINUTE
        late = chance.choice([None, timedelta(0), chance.random() * 55 * MINUTE])
        task, agent = chance.randrange(size // 2), chance.randrange(3)
        rows.append((REPORTS, make_report(number, at, late, task, agent)))
        created = at - chance.choice([MINUTE, 23 * 60 * MINUTE, 25 * 60 * MINUTE, -2 * MINUTE])
        effective = created + chance.choice([0, 0.5, 90, 23 * 60]) * MINUTE
        rows.append((TASKS, make_task(number, created, effective, chance.randrange(size // 2))))
        if chance.random() < 0.2:
            rows.append((AGENTS, make_agent(number, at + chance.random() * MINUTE, agent)))
    chance.shuffle(rows)
    return rows


def derive(output: Path, before: int = LAST_US, **options: Any) -> Counts:
    """One pass over an output with EXAMPLES."""
    work = output / "_derive"
    work.mkdir(exist_ok=True)
    options = {"tables": EXAMPLES, **options}
    settings = options.pop("settings", SETTINGS)
    return Deriver(output, settings, FILE_MINUTES, options.pop("limits", DeriveLimits()), **options).derive(
        work, before
    )


def read_derived(output: Path) -> dict[str, bytes]:
    """The bytes of all derived files by name."""
    names = {table.table.name for table in EXAMPLES}
    files = (path for path in sorted(output.rglob("*.parquet")) if not path.name.startswith("."))
    return {
        name: path.read_bytes()
        for path in files
        if (name := path.relative_to(output).as_posix()).partition("/")[0] in names
    }
