"""What `stream.py` measures of recommendations: from the XADD of the report that completes the evidence until
the row can be read, beside reports and records of others."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import redis

from schemas.kinds import KINDS
from tests.benchmarks.parts import RATES, Figure, Outcome, Plan
from tests.benchmarks.trials import Trial
from tests.builders import report, task
from transforms.derived.evidence import PERIOD_HOURS
from transforms.derived.recommendations import RECOMMENDATIONS
from transforms.derived.share_evidence import LEAST_MINUTES, LEAST_TASKS
from transforms.sinks.parquet.parquet_file import read_file

RULE = "raise_memory_quota"
SUBJECTS, MINUTES = 60, 3
"""Agent types whose tasks all use more memory than they may, and the minutes in which a rule is met for them:
for a third of them each minute, a second apart."""
_PAST_MINUTES = LEAST_MINUTES - 1
_TASKS_A_MINUTE = LEAST_TASKS // (LEAST_MINUTES - MINUTES) + 1
_QUOTA = {"max_cpu_cores": 4.0, "max_memory_mb": 500, "max_execution_time_secs": 60}
_MINUTE = timedelta(minutes=1)
_LOOK_SECONDS, _PATIENCE = 0.5, 900.0

Sent = dict[tuple[str, datetime], float]
"""By subject and minute, when its first report was added, in seconds since 1970."""


def deciding(plan: Plan) -> Outcome:
    """Tasks of many agent types need a larger quota; in each minute some of the types have been seen for long
    enough. If no row comes for one of them, the benchmark ends without figures."""
    subjects = [f"planted-{number:02}" for number in range(max(MINUTES, int(SUBJECTS * plan.scale)))]
    _check_period()
    with Trial(plan.folder / "deciding", [kind.stream for kind in KINDS.values()]) as trial:
        planted = _Planted(trial.client)
        planted.add_past(subjects)
        job = trial.stream()
        trial.until(trial.is_read, job)
        trial.send(int(RATES[0] * (MINUTES + 3)), RATES[0], "--records")
        found: dict[str, tuple[datetime, float]] = {}
        begin = (datetime.now(UTC) + _MINUTE).replace(second=0, microsecond=0)
        due = [
            (begin + minute * _MINUTE + place * _MINUTE / len(subjects), subject)
            for minute in range(MINUTES)
            for place, subject in enumerate(subjects)
        ]

        def step() -> bool:
            while due and due[0][0] <= datetime.now(UTC):
                planted.add_live(due.pop(0)[1])
            for subject, decided in _read_rows(trial):
                found.setdefault(subject, (decided, time.time()))
            return set(found) >= set(subjects)

        trial.until(step, job, every=_LOOK_SECONDS, patience=_PATIENCE)
        trial.stop(job)
    waits = find_waits(found, planted.sent)
    case = f"{RATES[0]:,}/min, {len(waits)} recommendations"
    facts = {f"p{percent}": float(np.percentile(waits, percent)) for percent in (50, 95)}
    facts["longest"] = max(waits)
    what = "XADD of the report that completes the evidence to the row"
    return Outcome([Figure("deciding", case, f"{what}, {name}", value, "s") for name, value in facts.items()])


def find_waits(found: Mapping[str, tuple[datetime, float]], sent: Sent) -> list[float]:
    """Seconds from the first report of the minute in which a rule was met until its row was seen, by subject.

    `found`: of each subject that minute, and when the row was seen, in seconds since 1970.
    """
    return [seen - sent[subject, decided] for subject, (decided, seen) in found.items()]


@dataclass
class _Planted:
    """Adds tasks and their reports to the streams."""

    client: redis.Redis
    sent: Sent = field(default_factory=dict)
    count: int = 0

    def add_past(self, subjects: list[str]) -> None:
        """Of the minutes before now as many for each type that it lacks one, two, ... to be judged."""
        first = datetime.now(UTC).replace(second=0, microsecond=0) - (_PAST_MINUTES + 1) * _MINUTE
        for minute in range(_PAST_MINUTES):
            chosen = [name for place, name in enumerate(subjects) if minute < _PAST_MINUTES - place % MINUTES]
            step = 50 * _MINUTE / 60 / (len(chosen) * _TASKS_A_MINUTE)
            for number in range(len(chosen) * _TASKS_A_MINUTE):
                moment = first + minute * _MINUTE + number * step
                self._add(chosen[number % len(chosen)], moment, f"{int(moment.timestamp() * 1000)}-*")

    def add_live(self, subject: str) -> None:
        """A task and its report, now."""
        now = datetime.now(UTC)
        self._add(subject, now, "*")
        self.sent.setdefault((subject, now.replace(second=0, microsecond=0)), time.time())

    def _add(self, subject: str, at: datetime, entry: str) -> None:
        self.count += 1
        of_task = task(
            self.count, at - timedelta(seconds=1), target_agent_type=subject, resource_quota=_QUOTA
        )
        for kind, document in (
            ("task", of_task),
            ("kpi_report", report(self.count, at, memory_mb=1000.0)),
        ):
            self.client.xadd(KINDS[kind].stream, {"data": json.dumps(document)}, id=entry)


def _check_period() -> None:
    now, period = time.time(), PERIOD_HOURS * 3600
    if (now - 60 * (LEAST_MINUTES + 1)) // period != (now + _PATIENCE) // period:
        raise SystemExit(f"recommendations begin anew every {PERIOD_HOURS} h: start this half an hour later")


def _read_rows(trial: Trial) -> Iterator[tuple[str, datetime]]:
    """The subjects of the rule, and the minutes in which it was met."""
    for path in (trial.output / RECOMMENDATIONS.name).rglob("*.parquet"):
        for row in read_file(path, ["rule", "subject", "decided_at"]).to_pylist():
            if row["rule"] == RULE and row["subject"].startswith("planted-"):
                yield row["subject"], row["decided_at"]
