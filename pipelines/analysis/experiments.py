"""Reads the tasks of an experiment, or of sets of agents, from an output."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.analysis.tasks import BLOCK_MINUTES, Tasks
from pipelines.failures import RunFailed, WrongUse
from pipelines.queries.limits import QueryLimits
from pipelines.queries.query import Order, Parameter, Query, QueryInput, Value
from pipelines.queries.run import run_query
from pipelines.queries.stop import Stop
from pipelines.queries.table_queries import EXPERIMENT, EXPERIMENT_METRICS
from schemas.tables import REPORTS
from transforms.core.time_range import Span
from transforms.core.time_units import MINUTE_US

_OF_AGENTS = Query(
    "tasks_of_agents",
    "the tasks of some agents, with the means of their reports, oldest first",
    (QueryInput("reports", REPORTS),),
    f"""
SELECT task_id, agent_id, min(recorded_at) AS first_recorded_at,
    {", ".join(f"avg({name}) AS {name}" for name in EXPERIMENT_METRICS)}
FROM reports
WHERE agent_id IN (SELECT unnest(from_json($agents, '["VARCHAR"]')))
GROUP BY task_id, agent_id""",
    pa.schema([field for field in EXPERIMENT.columns if field.name not in ("variant", "reports")]),
    (Order("first_recorded_at"), Order("task_id"), Order("agent_id")),
    (Parameter("agents", "their ids, as a JSON array", required=True),),
)


def read_tasks(
    folder: Path,
    experiment: str,
    metrics: tuple[str, ...],
    span: Span,
    file_minutes: int,
    limits: QueryLimits,
    stop: Stop | None = None,
) -> Tasks:
    """The tasks of an experiment whose reports were recorded in a span.

    A task that was handed to another agent counts once, for the agent that reported first. `stop` stops
    reading from another thread.

    Raises:
        WrongUse: it has no tasks there.
        RunFailed: they are more than the limit, or need more time or memory.
    """
    asked = EXPERIMENT.parse({"experiment": experiment})
    rows = _read(folder, EXPERIMENT, asked, span, file_minutes, limits, stop)
    if not rows.num_rows:
        raise WrongUse(
            f"no task of the experiment {experiment} has a report in this span",
            "the experiment and the variant are in the metadata of a task; derive the features first",
        )
    return make_tasks(rows, metrics)


def read_tasks_of_agents(
    folder: Path,
    sets: Mapping[str, Sequence[str]],
    metrics: tuple[str, ...],
    span: Span,
    file_minutes: int,
    limits: QueryLimits,
) -> Tasks:
    """The tasks of sets of agents whose reports were recorded in a span; the variant of a task is the set.

    `sets`: the agents of each variant; no agent is in two of them.

    Raises:
        WrongUse: a set has no tasks there.
        RunFailed: as `read_tasks`.
    """
    variant_of = {agent: name for name, agents in sets.items() for agent in agents}
    rows = _read(folder, _OF_AGENTS, {"agents": json.dumps(list(variant_of))}, span, file_minutes, limits)
    variants = pa.array([variant_of[agent] for agent in rows["agent_id"].to_pylist()], pa.string())
    if missing := [name for name in sets if name not in set(variants.to_pylist())]:
        raise WrongUse(
            f"no agent of {missing[0][:50]} has a report in this span",
            f"`kpiflow query {folder} aggregates` lists agents",
        )
    return make_tasks(rows.append_column("variant", variants), metrics)


def make_tasks(rows: pa.Table | pa.RecordBatch, metrics: tuple[str, ...]) -> Tasks:
    """The tasks of rows of the query EXPERIMENT, in their order."""
    _, first = np.unique(rows["task_id"].to_numpy(zero_copy_only=False), return_index=True)
    rows = rows.take(pa.array(np.sort(first)))
    variants, agents = (_encode(rows[name]) for name in ("variant", "agent_id"))
    names, order = np.unique(variants[1], return_inverse=True)
    moments = rows["first_recorded_at"].cast(pa.int64()).to_numpy()
    values = {name: rows[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in metrics}
    return Tasks(
        names.tolist(), order[variants[0]], agents[0], moments // (BLOCK_MINUTES * MINUTE_US), values
    )


def _read(
    folder: Path,
    query: Query,
    asked: Mapping[str, Value | None],
    span: Span,
    file_minutes: int,
    limits: QueryLimits,
    stop: Stop | None = None,
) -> pa.Table:
    answer = run_query(folder, query, asked, span, file_minutes, limits, stop=stop)
    if answer.cursor:
        raise RunFailed(f"there are more tasks than {limits.rows:,}", "narrow it by --from and --to")
    return answer.rows


def _encode(column: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, list[str]]:
    """A text column as numbers (int64[n]) of distinct texts."""
    encoded = pc.dictionary_encode(column)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()
