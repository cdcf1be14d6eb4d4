"""The SQL of `reports` with the task and the result of each that were known when its wait was over.

A version of a task counts for a report if it was effective by the report's horizon, effective_at +
context_wait_seconds, and created at most context_hours before the report; one of a result if it was
completed so. The current version is the last of these by effective_at, then by version.
"""

from collections.abc import Mapping, Sequence

CREATED = {"tasks": "created_at", "results": "completed_at"}
"""The time of a record itself."""
ENTRIES = {name: f"metadata['{name}']" for name in ("experiment", "variant")}
"""Columns of tasks that are entries of their metadata: a map is slow to keep and to join."""
_SINGULAR = {"tasks": "task", "results": "result"}


def join_records(reports: str, records: Mapping[str, Sequence[str]], bounds: Mapping[str, str]) -> str:
    """SQL: some reports with `task` and `task_versions`, `result` and `result_versions`.

    `records`: the columns of each record table to join. `bounds`: a condition on the rows of each table. A
    `task` is a struct of the columns, null if no version counts; `task_versions` says how many do.
    """
    names = [_SINGULAR[name] for name in records]
    joins = " ".join(_join(name, columns, bounds[name]) for name, columns in records.items())
    structs = ", ".join(_pack(name, columns) for name, columns in records.items())
    counts = ", ".join(f"({name} IS NOT NULL)::BIGINT AS {name}_versions" for name in names)
    current = ", ".join(
        f"max_by({name}, ({name}.effective_at, {name}.version)) AS {name}, "
        f"count(DISTINCT {name}.version) AS {name}_versions"
        for name in names
    )
    # Few reports have two versions in view. Only those are grouped; numbers are cheap to count.
    return f"""
        WITH joined AS MATERIALIZED (SELECT r.*, {structs}
            FROM ({reports}) r CROSS JOIN (SELECT context_wait_seconds, context_hours FROM settings) {joins}),
        repeated AS MATERIALIZED (
            SELECT hash(report_id) FROM joined GROUP BY hash(report_id) HAVING count(*) > 1)
        SELECT *, {counts} FROM joined WHERE hash(report_id) NOT IN (FROM repeated)
        UNION ALL BY NAME
        SELECT report_id, any_value(COLUMNS(* EXCLUDE (report_id, {", ".join(names)}))), {current}
        FROM joined WHERE hash(report_id) IN (FROM repeated) GROUP BY report_id"""


def write_columns(names: Sequence[str]) -> str:
    """SQL: the columns of these names, of a stored table or ENTRIES."""
    return ", ".join(f"{ENTRIES[name]} AS {name}" if name in ENTRIES else name for name in names)


def _join(name: str, columns: Sequence[str], bound: str) -> str:
    return f"""LEFT JOIN (SELECT {write_columns(columns)} FROM stored_{name} WHERE {bound}) {name}
        ON {name}.task_id = r.task_id
        AND epoch_us({name}.effective_at) <= epoch_us(r.effective_at) + context_wait_seconds * 1000000
        AND epoch_us({name}.{CREATED[name]}) >= epoch_us(r.recorded_at) - context_hours * 3600000000"""


def _pack(name: str, columns: Sequence[str]) -> str:
    fields = ", ".join(f"'{each}': {name}.{each}" for each in columns if each != "task_id")
    return f"CASE WHEN {name}.task_id IS NOT NULL THEN {{{fields}}} END AS {_SINGULAR[name]}"
