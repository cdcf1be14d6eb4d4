"""A feature uses nothing that came later, and does not depend on how reports are cut, ordered or computed."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.settings import Settings
from schemas.readers.formats import FIRST_US
from tests.builders import NOON
from tests.transforms.derived.contexts import Row, agent, at, task
from tests.transforms.derived.feature_rows import HOUR, MINUTE, derive, derive_sums, report, store, window
from transforms.derived import features, task_sums
from transforms.derived.bounds import Period
from transforms.derived.engine import DeriveLimits, Deriver
from transforms.derived.registry import find_stored_table
from transforms.sinks.parquet.file_merge import write_rows
from transforms.storage.local_folder import LocalFolder

SETTINGS: dict[str, Any] = {"fit_reports": 20, "correlation_reports": 3, "context_hours": 4}
WAIT = timedelta(seconds=60)
AGENTS = ("a", "b", "c", "d")


def draw_rows(count: int = 400, seed: int = 5) -> tuple[list[Row], list[Row], list[Row]]:
    """Reports of five hours up to NOON + 1 h, some late or early or without a task, with tasks and agents of
    up to three versions."""
    random = np.random.default_rng(seed)
    reports, tasks = [], []
    for number in range(count):
        recorded, late = random.uniform(-4 * HOUR, HOUR), random.choice([1, 1, 1, 59, 300, -30, -90])
        named = f"t{number}"
        reports.append(
            report(
                f"r{number}", recorded, late, agent_id=str(random.choice(AGENTS)), task_id=named,
                latency_ms=random.uniform(50, 900), accuracy=random.random(), cpu_usage=random.random(),
                memory_mb=random.uniform(10, 900), performance_score=random.random(),
            )
        )  # fmt: skip
        tasks += [
            draw_task(random, named, recorded - random.choice([9, 9, 5 * HOUR]), version)
            for version in range(random.choice([0, 1, 1, 2, 3]))
        ]
    kinds = ["x", "y"]
    agents = [
        agent(name, float(hour * HOUR + place), version=f"v{hour}", agent_type=kinds[(place + hour) % 3 % 2])
        for place, name in enumerate(AGENTS)
        for hour in range(-4, 1)
    ]
    return reports, tasks, agents


def draw_task(random: np.random.Generator, name: str, created: float, version: int) -> Row:
    fields = {"max_cpu_cores": float(random.integers(1, 9)), "max_memory_mb": int(random.integers(1, 9999))}
    fields |= {"priority": int(random.choice([1, 50])), "payload_bytes": int(random.integers(1, 9999))}
    fields |= {"target_agent_type": str(random.choice(["x", "y"])), "metadata": [("variant", str(version))]}
    known = created + random.uniform(0, 120)
    return task(name, created, known, version=f"v{version}", source_layer="layer2", **fields)


def count_windows(reports: list[Row]) -> list[Row]:
    """The windows of 1 h of reports."""
    counts: dict[tuple[int, str], int] = {}
    for row in reports:
        key = ((row["recorded_at"] - NOON) // timedelta(hours=1), row["agent_id"])
        counts[key] = counts.get(key, 0) + 1
    return [window(hour, count, name) for (hour, name), count in counts.items()]


REPORTS, RECORDS, AGENT_RECORDS = draw_rows()
STORED = store(REPORTS, RECORDS, AGENT_RECORDS, count_windows(REPORTS))


@pytest.fixture(scope="module")
def expected() -> pa.RecordBatch:
    return derive(STORED, **SETTINGS)


def known_by(moment: datetime, rows: pa.Table) -> pa.Table:
    effective = [row["received_at"] or row["recorded_at"] for row in rows.to_pylist()]
    return rows.filter(pa.array([each <= moment for each in effective]))


def to_rows(batch: pa.RecordBatch | pa.Table) -> dict[str, Row]:
    return {row["report_id"]: row for row in batch.to_pylist()}


def test_the_rows_have_every_feature(expected: pa.RecordBatch) -> None:
    names = set(expected.schema.names) - {"experiment"}
    assert {name for name in names if expected[name].null_count == expected.num_rows} == set()
    assert expected.num_rows == len(REPORTS)


@pytest.mark.parametrize("seconds", [-2.5 * HOUR, 65.0, 0.9 * HOUR])
def test_what_comes_later_changes_no_feature(expected: pa.RecordBatch, seconds: float) -> None:
    """All that is effective after a moment is replaced by poison: versions, reports, and their windows."""
    moment = at(seconds)
    worst = {"latency_ms": 2e5, "accuracy": 0.0, "performance_score": 0.0, "target_agent_type": "x"}
    poison = [
        report(f"p{back}{name}", seconds - back, 61 if back < 0 else back + 1, agent_id=name, **worst)
        for back in (-61, 0, 50, 200, 3000)
        for name in AGENTS
    ]
    horizon = seconds + WAIT.total_seconds() + 1
    last = {"version": "zz", "priority": 100, "target_agent_type": "x"}
    tasks = [task(f"t{number}", horizon - 9, horizon, **last) for number in range(len(REPORTS))]
    agents = [agent(name, horizon, version="zz", agent_type="poison") for name in AGENTS]
    reports = known_by(moment, STORED["kpi_reports"])
    poisoned = store(poison, tasks, agents)
    stored = {
        "kpi_reports": pa.concat_tables([reports, poisoned["kpi_reports"]]),
        "tasks": pa.concat_tables([keep_until(moment + WAIT, STORED["tasks"]), poisoned["tasks"]]),
        "agents": pa.concat_tables([keep_until(moment + WAIT, STORED["agents"]), poisoned["agents"]]),
        "kpi_aggregations": store([], windows=count_windows([*reports.to_pylist(), *poison]))[
            "kpi_aggregations"
        ],
    }
    found, before = to_rows(derive(stored, **SETTINGS)), to_rows(expected)
    same = [name for name in reports["report_id"].to_pylist() if found[name] != before[name]]
    assert reports.num_rows > 50
    assert same == []


def keep_until(moment: datetime, rows: pa.Table) -> pa.Table:
    return rows.filter(pa.array([row["effective_at"] <= moment for row in rows.to_pylist()]))


@pytest.mark.parametrize("minutes", [7, 90])
def test_how_reports_are_cut_changes_nothing(expected: pa.RecordBatch, minutes: int) -> None:
    start = int(NOON.timestamp() * 1e6) - int(4 * HOUR * 1e6)
    width = minutes * 60_000_000
    # Of the many short spans a few are enough, since each reads the same windows as the whole.
    spans = [
        Period(start + n * width, start + (n + 1) * width) for n in range(int(5 * HOUR * 1e6) // width + 1)
    ]
    stored = {**STORED, **derive_sums(STORED, **SETTINGS)}
    parts = [derive(stored, span, **SETTINGS) for span in spans[:: 1 if minutes > 60 else 15]]
    found = to_rows(pa.Table.from_batches(parts).combine_chunks().to_batches()[0])
    whole = to_rows(expected)
    assert len(found) == (len(REPORTS) if minutes > 60 else len(found)) > 10
    assert {name: whole[name] for name in found} == found


def test_the_engine_makes_the_same_rows_file_by_file(tmp_path: Path, expected: pa.RecordBatch) -> None:
    """Half of the messages come first, and what they make is derived before the others come."""
    settings = Settings(**SETTINGS).derived_settings()
    deriver = Deriver(tmp_path, settings, 30, DeriveLimits(rows=250), (task_sums.TABLE, features.TABLE))
    work = tmp_path / "_derive"
    work.mkdir()
    for first in (True, False):
        for name, rows in STORED.items():
            half = rows.slice(0, len(rows) // 2) if first else rows.slice(len(rows) // 2)
            write_rows(find_stored_table(name), LocalFolder(tmp_path), half.combine_chunks().to_batches(), 30)
        deriver.derive(work)
    found = pq.read_table(
        [str(path) for path in (tmp_path / "features").rglob("*.parquet")], partitioning=None
    )
    assert to_rows(found) == to_rows(expected)


def test_neither_the_order_of_rows_nor_threads_change_a_bit(expected: pa.RecordBatch) -> None:
    random = np.random.default_rng(1)
    shuffled = {name: rows.take(pa.array(random.permutation(rows.num_rows))) for name, rows in STORED.items()}
    assert derive(shuffled, Period(FIRST_US), threads=3, **SETTINGS).equals(expected)


def test_a_late_report_changes_no_row_but_its_own_until_its_hour_is_settled(expected: pa.RecordBatch) -> None:
    late = report("late", -3 * HOUR + 30, late=61, agent_id="a", latency_ms=99_999.0, task_id="t1")
    reports = [*REPORTS, late]
    found = to_rows(derive(store(reports, RECORDS, AGENT_RECORDS, count_windows(reports)), **SETTINGS))
    changed = {name for name, row in to_rows(expected).items() if found[name] != row}
    times = {row["report_id"]: row["recorded_at"] for row in REPORTS}
    assert found.keys() - times.keys() == {"late"}
    assert changed
    assert min(times[name] for name in changed) >= at(-HOUR + 2 * MINUTE)
    before, after = to_rows(expected), found
    names = features.FEATURES.schema.names
    columns = {name for row in changed for name in names if before[row][name] != after[row][name]}
    assert columns <= {"experience_tasks", "experience_level"}
