"""Inconsistencies, resolutions and data quality: a plain loop over the messages gives the same rows, and so
does any order of arrival, any cut into files, and any future."""

from random import Random
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.settings import Settings
from tests.transforms.derived.contexts import agent, report, result, store, task
from tests.transforms.derived.oracle.archives import make_archive, make_settings, make_table
from tests.transforms.derived.oracle.cases import derive_spans
from tests.transforms.derived.oracle.comparison import ORACLES, find_differences
from tests.transforms.derived.oracle.rows import HOUR, MINUTE, SECOND, Row, read_rows
from transforms.derived import data_quality, inconsistencies, resolutions
from transforms.derived.bounds import EVER, Period
from transforms.derived.registry import find_stored_table

Stored = dict[str, pa.Table]
TABLES = (inconsistencies.TABLE, resolutions.TABLE, data_quality.TABLE)
SEEDS = st.integers(0, 10**9)
WAIT, TOLERANCE, REACH = 60.0, 5.0, 86400.0
NAMES = st.sampled_from(["t", "u"])
TIMES = st.sampled_from([0.0, 1.0, WAIT, WAIT + 1e-6, -TOLERANCE, TOLERANCE + 1e-6, -REACH, REACH, 1800.0])
RECEIVED = st.none() | TIMES
KINDS = st.sampled_from(["x", "y"])
REPORTS = st.builds(
    dict, task_id=NAMES, agent_id=st.sampled_from(["a", "b"]), recorded=TIMES,
    late=st.sampled_from([0.0, 10.0, 11.0, -30.0, None]),
    cpu_usage=st.sampled_from([0.5, 0.505, 0.51]), memory_mb=st.sampled_from([512.0, 518.0]),
    latency_ms=st.sampled_from([1000.0, 1010.0, 1011.0]),
    network_bytes=st.sampled_from([None, 10**6, 2 * 10**6]),
    error_details=st.sampled_from([None, '"broken"']), is_latency_outlier=st.booleans(),
)  # fmt: skip
TASKS = st.builds(
    dict, name=NAMES, created=TIMES, received=RECEIVED, version=st.sampled_from(["v1", "v2", "v3"]),
    target_agent_type=KINDS, max_cpu_cores=st.sampled_from([None, 2.0]),
    max_memory_mb=st.sampled_from([None, 256]),
)  # fmt: skip
RESULTS = st.builds(
    dict, name=NAMES, completed=TIMES, received=RECEIVED, version=st.sampled_from(["v1", "v2"]),
    success=st.booleans(),
)  # fmt: skip
AGENTS = st.builds(
    dict, name=st.sampled_from(["a", "b"]), received=RECEIVED, version=st.sampled_from(["v1", "v2"]),
    agent_type=KINDS, capabilities=st.sampled_from([None, [], ["y"]]),
)  # fmt: skip


def at_most(count: int, rows: st.SearchStrategy[Row], *key: str) -> st.SearchStrategy[list[Row]]:
    """Some rows, each key once."""
    unique = (lambda row: tuple(row[name] for name in key)) if key else None
    return st.lists(rows, max_size=count, unique_by=unique)


def build(reports: list[Row], tasks: list[Row], results: list[Row], agents: list[Row]) -> Stored:
    """The stored tables, those without rows among them."""
    return store(
        [report(f"r{number}", **row) for number, row in enumerate(reports)],
        [task(**row, message_id=f"t{number}") for number, row in enumerate(tasks)],
        [result(**row, message_id=f"o{number}") for number, row in enumerate(results)],
        [agent(**row, message_id=f"a{number}") for number, row in enumerate(agents)],
        **{
            name: find_stored_table(name).schema.empty_table()
            for name in ("quarantine", "duplicates", "system_health")
        },
    )


STORED = st.builds(
    build,
    at_most(4, REPORTS),
    at_most(4, TASKS, "name", "version"),
    at_most(3, RESULTS, "name", "version"),
    at_most(3, AGENTS, "name", "version"),
)


def derive(stored: Stored, values: dict[str, Any], spans: list[Period] | None = None) -> dict[str, list[Row]]:
    """The rows of the three tables, span by span."""
    stored, found = dict(stored), {}
    for table in TABLES:
        stored[table.table.name] = derive_spans(table, stored, values, spans or [EVER])
        found[table.table.name] = read_rows(stored[table.table.name])
    return found


def by_key(found: dict[str, list[Row]]) -> dict[str, dict[tuple[Any, ...], Row]]:
    """Rows by the key of their table."""
    keys = {table.table.name: table.table.key for table in TABLES}
    return {
        name: {tuple(row[part] for part in keys[name]): row for row in rows} for name, rows in found.items()
    }


def draw_archive(seed: int) -> tuple[Random, dict[str, Any], Stored]:
    """A random output with rows at the bounds of the rules."""
    random = Random(seed)
    values = make_settings(random)
    return random, values, make_archive(random, values)


@settings(max_examples=12, deadline=None)
@given(STORED, st.sampled_from([24, 1]), st.sampled_from([60, 0]))
def test_a_plain_loop_over_the_messages_gives_the_same_rows(stored: Stored, hours: int, wait: int) -> None:
    values = Settings(context_hours=hours, context_wait_seconds=wait).derived_settings()
    plain = {name: read_rows(rows) for name, rows in stored.items()}
    found = derive(stored, values)
    for table in TABLES:
        name = table.table.name
        assert find_differences(ORACLES[name](plain, values), found[name], table.table.key) == []


@settings(max_examples=2, deadline=None)
@given(SEEDS, st.lists(st.integers(1, 200), min_size=1, max_size=3, unique=True))
def test_cuts_into_files_change_no_row(seed: int, cuts: list[int]) -> None:
    """Tables by recorded_at and effective_at are cut at minutes, those by received_at at hours."""
    _, values, stored = draw_archive(seed)
    begin = min(row["recorded_at"] for row in read_rows(stored["kpi_reports"])) // HOUR * HOUR
    whole = derive(stored, values)
    for width in (MINUTE, HOUR):
        edges = [EVER.start, *(begin + cut * width for cut in sorted(cuts)), EVER.end]
        edges = [edge for edge in edges if EVER.start <= edge <= EVER.end]
        found = derive(stored, values, [Period(*pair) for pair in zip(edges, edges[1:])])
        if width == MINUTE:
            del found["data_quality"]
        assert by_key(found) == {name: rows for name, rows in by_key(whole).items() if name in found}


@settings(max_examples=2, deadline=None)
@given(SEEDS)
def test_the_order_of_arrival_changes_no_row(seed: int) -> None:
    random, values, stored = draw_archive(seed)
    shuffled = {}
    for name, rows in stored.items():
        places = list(range(rows.num_rows))
        random.shuffle(places)
        shuffled[name] = rows.take(pa.array(places, pa.int64()))
    assert derive(shuffled, values) == derive(stored, values)


VERSIONED = ("tasks", "results", "agents")


def find_effective(name: str, row: Row) -> int | None:
    """When a row becomes known; None: always."""
    if name == "kpi_reports" and row["received_at"] is None:
        return row["recorded_at"]
    return row["effective_at"] if name in VERSIONED else row["received_at"]


def is_known(name: str, row: Row, moment: int) -> bool:
    effective = find_effective(name, row)
    return effective is None or effective <= moment


POISON: dict[str, Row] = {
    "kpi_reports": {"latency_ms": 2e5, "accuracy": 0.0, "error_details": '"poison"'},
    "tasks": {"version": "f" * 32, "max_cpu_cores": 1e-9, "max_memory_mb": 1, "target_agent_type": "poison"},
    "results": {"version": "f" * 32, "success": False},
    "agents": {"version": "f" * 32, "agent_type": "poison", "capabilities": None},
    "quarantine": {"reason": "json"},
    "duplicates": {},
    "system_health": {},
}  # fmt: skip


def poison(name: str, rows: list[Row], moment: int) -> list[Row]:
    """What is known at a moment, and after it another row for each one that there ever was."""
    known = [row for row in rows if is_known(name, row, moment)]
    times = {"received_at": moment + 1, "effective_at": moment + 1}
    bad: dict[Any, Row] = {}
    for place, row in enumerate(rows):
        new = row | {each: value for each, value in times.items() if each in row} | POISON[name]
        if "report_id" in row and name != "duplicates":
            new["report_id"] = f"f{place:031x}"
        if "message_id" in row:
            new["message_id"] = f"poison {name} {place}"
        key = (new.get("task_id"), new.get("agent_id")) if name in VERSIONED else place
        bad[key] = new
    return known + list(bad.values())


def select_settled(
    found: dict[str, list[Row]], moment: int, wait: int
) -> dict[str, dict[tuple[Any, ...], Row]]:
    """The rows that nothing after a moment may change."""
    lengths = {"1m": MINUTE, "1h": HOUR}
    rows = {
        "inconsistencies": [row for row in found["inconsistencies"] if row["effective_at"] + wait <= moment],
        "resolutions": [row for row in found["resolutions"] if row["resolved_at"] <= moment],
        "data_quality": [
            row
            for row in found["data_quality"]
            if row["time_window_start"] is not None
            and row["time_window_start"] + lengths[row["granularity"]] + wait <= moment
        ],
    }  # fmt: skip
    return by_key(rows)


@settings(max_examples=3, deadline=None)
@given(SEEDS, st.integers(0, 100))
def test_poison_in_the_future_changes_no_row(seed: int, share: int) -> None:
    """From a moment on, every row is replaced by another one that breaks as many rules as it can."""
    _, values, stored = draw_archive(seed)
    rows = {name: read_rows(stored[name]) for name in POISON}
    times = sorted(find_effective("kpi_reports", row) or 0 for row in rows["kpi_reports"])
    moment = times[(len(times) - 1) * share // 100] + MINUTE
    changed = stored | {
        name: make_table(find_stored_table(name), poison(name, each, moment)) for name, each in rows.items()
    }
    wait = values["context_wait_seconds"] * SECOND
    before, after = (select_settled(derive(each, values), moment, wait) for each in (stored, changed))
    assert before == after


def test_the_examples_break_rules_and_resolve_them() -> None:
    """Else the properties of this module would say nothing."""
    found = [derive(*draw_archive(seed)[:0:-1]) for seed in range(3)]
    assert all(sum(len(each[table.table.name]) for each in found) > 3 for table in TABLES)
