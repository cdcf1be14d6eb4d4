"""Reads the tasks of an experiment from an output."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.analysis.comparison import BLOCK_MINUTES, Tasks
from pipelines.failures import RunFailed, WrongUse
from pipelines.queries.limits import Limits
from pipelines.queries.run import run_query
from pipelines.queries.table_queries import EXPERIMENT
from transforms.core.time_range import Span
from transforms.core.time_units import MINUTE_US


def read_tasks(
    folder: Path, experiment: str, metrics: tuple[str, ...], span: Span, file_minutes: int, limits: Limits
) -> Tasks:
    """The tasks of an experiment whose reports were recorded in a span.

    A task that was handed to another agent counts once, for the agent that reported first.

    Raises:
        WrongUse: it has no tasks there.
        RunFailed: they are more than the limit, or need more time or memory.
    """
    asked = EXPERIMENT.parse({"experiment": experiment})
    answer = run_query(folder, EXPERIMENT, asked, span, file_minutes, limits)
    if answer.cursor:
        raise RunFailed(f"{experiment} has more than {limits.rows:,} tasks", "narrow it by --from and --to")
    if not answer.rows.num_rows:
        raise WrongUse(
            f"no task of the experiment {experiment} has a report in this span",
            "the experiment and the variant are in the metadata of a task; derive the features first",
        )
    return make_tasks(answer.rows, metrics)


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


def _encode(column: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, list[str]]:
    """A text column as numbers (int64[n]) of distinct texts."""
    encoded = pc.dictionary_encode(column)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()
