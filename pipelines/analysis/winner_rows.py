"""The experiments of an output and their winners, as rows like those of the table `recommendations`.

They are not in the table: a derived file may depend on a bounded past only, and an experiment is compared
from its first task on, whatever comes late (docs/recommendations.md).
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.analysis.comparison import Effect
from pipelines.analysis.experiments import read_tasks
from pipelines.analysis.question import describe_effect, name_time
from pipelines.analysis.tasks import BLOCK_MINUTES
from pipelines.analysis.winners import CONTROL, LEVEL, Winner, find_winner
from pipelines.queries.limits import QueryLimits
from pipelines.queries.recommendation_queries import ADOPT_VARIANT
from pipelines.queries.run import run_query
from pipelines.queries.table_queries import EXPERIMENT_METRICS, EXPERIMENTS
from transforms.core.time_range import Span

REASON = "a variant is better than the control in a metric, and worse in none"
EXPIRY = timedelta(hours=24)
"""After its last task, a recommendation about an experiment is old."""
Row = dict[str, Any]


class Winners(NamedTuple):
    """Rows of experiments with a winner, and of the others why they have none, by experiment. `is_cut`: there
    are more experiments than the limit."""

    rows: list[Row]
    reasons: dict[str, str]
    is_cut: bool


def list_winners(
    folder: Path,
    at: datetime | None,
    everything: bool,
    file_minutes: int,
    limits: QueryLimits,
    experiments: int,
) -> Winners:
    """The winners by the reports before a time; now if None.

    `everything`: also of experiments whose last task is older than EXPIRY. `limits`: of reading the tasks of
    an experiment. `experiments`: at most so many, those with the newest tasks.

    Raises:
        RunFailed: reading needs more than the limits.
    """
    span, now = Span(None, at), at or datetime.now(UTC)
    listed = run_query(folder, EXPERIMENTS, {}, span, file_minutes, QueryLimits(experiments, limits.seconds))
    found = Winners([], {}, listed.cursor is not None)
    for row in listed.rows.to_pylist():
        name, expires_at = row["experiment"], row["last_recorded_at"] + EXPIRY
        if expires_at <= now and not everything:
            continue
        tasks = read_tasks(folder, name, EXPERIMENT_METRICS, span, file_minutes, limits)
        winner = find_winner(tasks)
        if isinstance(winner, str):
            found.reasons[name] = winner
        else:
            found.rows.append(_make_row(name, winner, expires_at))
    return found


def _make_row(experiment: str, winner: Winner, expires_at: datetime) -> Row:
    gain = winner.gain
    also = f" It is also better in {', '.join(winner.others)}." if winner.others else ""
    advice = (
        f"let {winner.variant} take the place of {CONTROL} in the experiment {experiment}: its {gain.metric} "
        f"is {gain.verdict}.{also}"
    )
    times = {"decided_at": name_time(gain), "since": name_time(gain)}
    return {
        **times, "rule": ADOPT_VARIANT, "rule_version": 1,
        "subject_kind": "experiment", "subject": experiment, "state": "new",
        "recommendation": advice, "parameter": None, "current": None, "proposed": None, "factor": None,
        "reason": REASON, "evidence": _describe(winner), "confidence": 1 - gain.p,
        "expires_at": expires_at.isoformat(), "outcome": None, "followed_at": None, "followed_by": None,
    }  # fmt: skip


def _describe(winner: Winner) -> dict[str, Any]:
    def select(effect: Effect) -> dict[str, Any]:
        names = ("units", "control", "value", "difference", "low", "high", "p", "verdict", "reason")
        found = describe_effect(effect)
        return {name: found[name] for name in names}

    head = {"variant": winner.variant, "metric": winner.gain.metric, "level": LEVEL}
    return head | select(winner.gain) | {"block_minutes": BLOCK_MINUTES, "after": select(winner.after)}
