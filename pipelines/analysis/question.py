"""What `kpiflow compare` is asked, in the words of its command line, and the answer."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

from pipelines.analysis.comparison import Comparison, Effect, compare, compare_agents
from pipelines.analysis.experiments import read_tasks, read_tasks_of_agents
from pipelines.analysis.tasks import BLOCK_MINUTES, Measure, Unit
from pipelines.console import escape_line
from pipelines.failures import WrongUse
from pipelines.queries.limits import QueryLimits
from pipelines.queries.query import name_nearest
from pipelines.queries.stop import Stop
from pipelines.queries.table_queries import EXPERIMENT_METRICS
from pipelines.verify.output_description import read_row_settings
from transforms.core.time_range import Span

_PERCENTILE = re.compile(r"p\d{1,2}(\.\d{1,6})?")
_LEAST_SHARE = 1e-6
"""With shares that are smaller, or larger than its inverse, the check of the shares overflows."""


@dataclass(frozen=True)
class Question:
    """Which variants are compared, and how.

    Either `experiment` or `agents`, the agents of each variant, has a value. `shares`: the planned ones; None
    if they are even. `unit`: what was assigned; None if the tasks show it.
    """

    experiment: str | None
    agents: Mapping[str, Sequence[str]]
    control: str
    measures: Sequence[Measure]
    shares: Mapping[str, float] | None
    unit: Unit | None
    alpha: float

    @classmethod
    def parse(
        cls,
        experiment: str | None,
        agents: Sequence[str],
        control: str,
        metrics: Sequence[str],
        shares: Sequence[str],
        unit: str | None,
        alpha: float,
    ) -> "Question":
        """From the words of the command line.

        Raises:
            WrongUse: a word means nothing, or two of them do not go together.
        """
        if unit is not None and unit not in set(Unit):
            raise WrongUse(f"--unit {unit[:50]} is not known", "give task or agent")
        if (experiment is None) == (not agents):
            raise WrongUse("compare needs an experiment or sets of agents", "give EXPERIMENT or --agents")
        if agents and (shares or unit):
            raise WrongUse("--share and --unit are for what was assigned", "leave them out with --agents")
        measures = parse_measures(metrics or EXPERIMENT_METRICS)
        planned = parse_shares(shares) if shares else None
        return cls(
            experiment, parse_agents(agents), control, measures, planned, Unit(unit) if unit else None, alpha
        )

    def answer(self, folder: Path, span: Span, limits: QueryLimits, stop: Stop | None = None) -> Comparison:
        """The comparison, from the reports of an output in a span of time. `stop` stops reading the tasks of
        an experiment from another thread.

        Raises:
            WrongUse: there are no tasks, or no variant to compare, or one without a planned share.
            RunFailed: reading needs more than the limits.
        """
        metrics = tuple(dict.fromkeys(each.metric for each in self.measures))
        where = metrics, span, read_row_settings(folder, "compared")["file_minutes"], limits
        if self.experiment is None:
            tasks = read_tasks_of_agents(folder, self.agents, *where)
            self._check(tasks.names)
            return compare_agents(tasks, self.control, self.measures, self.alpha)
        tasks = read_tasks(folder, self.experiment, *where, stop)
        self._check(tasks.names)
        return compare(tasks, self.control, self.measures, self.alpha, self.shares, self.unit)

    def _check(self, names: Sequence[str]) -> None:
        if self.control not in names:
            advice = f"--control: {name_nearest(self.control, [escape_line(name) for name in names])}"
            raise WrongUse(f"no task has the variant {self.control[:50]}", advice)
        if len(names) < 2:
            raise WrongUse(
                f"all tasks have the variant {escape_line(names[0])}",
                "compare once another variant has tasks",
            )
        if self.shares is not None and (missing := [name for name in names if name not in self.shares]):
            raise WrongUse(
                f"the variant {escape_line(missing[0][:50])} has no share", "give --share for every variant"
            )


def parse_measures(words: Sequence[str]) -> list[Measure]:
    """What is compared, from words `NAME` or `NAME:pN`, each once.

    Raises:
        WrongUse: there is no such metric or percentile.
    """
    found = []
    for word in words:
        name, colon, percentile = word.partition(":")
        if name not in EXPERIMENT_METRICS:
            advice = name_nearest(name, list(EXPERIMENT_METRICS))
            raise WrongUse(f"no metric is called {name[:50]}", advice)
        if not colon:
            found.append(Measure(name))
            continue
        if not _PERCENTILE.fullmatch(percentile) or not 0 < float(percentile[1:]) < 100:
            raise WrongUse(f"--metric {word[:50]} has no percentile", f"write {name}:p95, or {name}:p99.9")
        found.append(Measure(name, float(percentile[1:])))
    return list(dict.fromkeys(found))


def parse_agents(words: Sequence[str]) -> dict[str, list[str]]:
    """The agents of each variant, from words `VARIANT=AGENT,AGENT` or `VARIANT=@FILE`.

    Raises:
        WrongUse: a word is not written so, a file cannot be read, or a variant or an agent is there twice.
    """
    sets: dict[str, list[str]] = {}
    for word in words:
        name, equals, listed = word.partition("=")
        if not (name and equals and listed):
            raise WrongUse(f"--agents {word[:50]} is no set of agents", "write VARIANT=AGENT,AGENT")
        if name in sets:
            raise WrongUse(f"{name[:50]} has two sets of agents", "give --agents once for each variant")
        sets[name] = _read_lines(Path(listed[1:])) if listed.startswith("@") else listed.split(",")
    agents = Counter(agent for each in sets.values() for agent in set(each))
    if twice := [agent for agent, count in agents.items() if count > 1]:
        raise WrongUse(f"the agent {twice[0][:50]} is in two sets", "leave it out of one of them")
    return sets


def parse_shares(words: Sequence[str]) -> dict[str, float]:
    """The planned share of each variant, from words `VARIANT=SHARE`.

    Raises:
        WrongUse: a share is no number between the least and the largest, or a variant has two.
    """
    shares: dict[str, float] = {}
    for word in words:
        name, equals, value = word.rpartition("=")
        if name in shares:
            raise WrongUse(f"{name[:50]} has two shares", "give --share once for each variant")
        try:
            shares[name] = float(value)
        except ValueError:
            shares[name] = 0.0
        if not (equals and _LEAST_SHARE <= shares[name] <= 1 / _LEAST_SHARE):
            raise WrongUse(
                f"--share {word[:50]} is not a share", "write VARIANT=SHARE, such as treatment=0.1"
            )
    return shares


def list_comparison(found: Comparison, alpha: float) -> dict[str, Any]:
    """The comparison as JSON; numbers that are unknown are null."""
    return {
        "control": found.control, "unit": found.unit, "assigned": found.is_assigned, "alpha": alpha,
        "units": dict(found.counts), "ratio_p": found.ratio_p, "reason": found.reason or None,
        "effects": [describe_effect(each) for each in found.effects],
    }  # fmt: skip


def describe_effect(effect: Effect) -> dict[str, Any]:
    """An effect as JSON; numbers that are unknown are null."""
    values = asdict(effect) | {"since": name_time(effect)}
    return {name: _drop_nan(value) for name, value in values.items()}


def name_time(effect: Effect) -> str | None:
    """When the verdict was reached, RFC 3339; None if there is none."""
    if effect.since is None:
        return None
    return datetime.fromtimestamp((effect.since + 1) * 60 * BLOCK_MINUTES, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _read_lines(path: Path) -> list[str]:
    try:
        return [line for each in path.read_text("utf-8").splitlines() if (line := each.strip())]
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUse(f"the agents of {path} cannot be read: {error}", "name a text file") from error


def _drop_nan(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value
