"""Reports and records together: everything that happens in the span of an archive."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.synthetic.columns import Columns, ReportTimes
from pipelines.synthetic.fleet import Fleet
from pipelines.synthetic.injected_outliers import Injected, inject_outliers
from pipelines.synthetic.messages import Fates, Mix, check_share, deal_fates
from pipelines.synthetic.records.agents import Beats, draw_beats, find_types
from pipelines.synthetic.records.effects import (
    SPREAD,
    Roles,
    cast_roles,
    draw_busy_phases,
    find_degraded,
    plant_effects,
    set_latency_levels,
)
from pipelines.synthetic.records.faults import (
    FAULTS,
    GHOSTS,
    RecordFaults,
    deal_faults,
    name_ghosts,
    share_tasks,
    spoil_reports,
    spoil_tasks,
)
from pipelines.synthetic.records.tasks import (
    TaskRows,
    draw_tasks,
    fit_reports,
    raise_quotas,
    shrink_hosts,
    time_tasks,
)
from pipelines.synthetic.reports import KpiTestGenerator, Scenario


@dataclass(frozen=True)
class World:
    """n reports and the tasks that belong to them, without when they are received.

    `sound`: the tasks before the faults changed them. Agents from row `agents` of the fleet on never
    register.
    """

    moments: ReportTimes
    fleet: Fleet
    roles: Roles
    fates: Fates
    faults: RecordFaults
    injected: Injected
    sound: TaskRows
    tasks: TaskRows
    beats: Beats
    agents: int

    @property
    def columns(self) -> Columns:
        """The reports."""
        return self.injected.columns


def build_world(generator: KpiTestGenerator, scenario: Scenario, mix: Mix, inconsistent: float) -> World:
    """The world of an archive, in which the share `inconsistent` of the reports has a fault.

    Raises:
        ValueError: the scenario is not possible with so many reports, or `inconsistent` is not a share.
    """
    fates, moments = deal_fates(mix, generator.seed, bare=False), generator.moments(mix.rows, scenario)
    return build_world_at(generator, scenario, mix, inconsistent, fates, moments)


def build_world_at(
    generator: KpiTestGenerator,
    scenario: Scenario,
    mix: Mix,
    inconsistent: float,
    fates: Fates,
    moments: ReportTimes,
    warm: bool = False,
) -> World:
    """Draw a world with reports at these moments, of which the share `inconsistent` has a fault.

    `warm`: see `inject_outliers`.

    Raises:
        ValueError: `inconsistent` is not a share.
    """
    check_share("inconsistent", inconsistent)
    seed, agents = generator.seed, generator.agents
    feeding = fates.good & ~fates.late
    roles = cast_roles(agents, moments.start, moments.span, seed)
    if scenario != "anomaly":
        moments = draw_busy_phases(moments, agents, seed)
    fleet = shrink_hosts(replace(generator, agents=agents + GHOSTS).fleet(scenario))
    fleet = set_latency_levels(fleet, roles)
    beats = draw_beats(moments, fleet, agents, roles, seed)
    candidates = feeding & (moments.agent != roles.changing)
    faults = deal_faults(candidates, mix.count(inconsistent), seed)
    moments = name_ghosts(moments, faults, agents)
    tasks = draw_tasks(find_types(fleet, roles, moments.agent, moments.recorded, beats.changes_at), seed)
    faults, tasks = share_tasks(faults, tasks, moments, candidates, len(fleet.task_types), agents)
    injected = _draw_reports(generator, fleet, moments, tasks, roles, feeding, mix, warm)
    columns = spoil_reports(fit_reports(injected.columns, tasks, fleet, seed), tasks, faults)
    sound = raise_quotas(time_tasks(tasks, columns, seed), columns, fleet)
    each = -(-mix.count(inconsistent) // len(FAULTS))
    faults, tasks = spoil_tasks(faults, sound, columns, fleet, candidates, each, seed)
    return World(
        moments=moments,
        fleet=fleet,
        roles=roles,
        fates=fates,
        faults=faults,
        injected=replace(injected, columns=columns),
        sound=sound,
        tasks=tasks,
        beats=beats,
        agents=agents,
    )


def _draw_reports(
    generator: KpiTestGenerator,
    fleet: Fleet,
    moments: ReportTimes,
    tasks: TaskRows,
    roles: Roles,
    feeding: NDArray[np.bool_],
    mix: Mix,
    warm: bool,
) -> Injected:
    """Reports with effects and outliers. An outlier is far from what all effects together can make usual."""
    columns = plant_effects(generator.columns(fleet, moments), tasks, moments, fleet, roles, generator.seed)
    latency = float(np.hypot(fleet.spreads["latency"], SPREAD))
    wide = replace(fleet, spreads=fleet.spreads | {"latency": latency})
    return inject_outliers(
        columns,
        moments,
        wide,
        feeding,
        mix.count(mix.outliers),
        generator.seed,
        warm,
        spared=find_degraded(columns, roles),
    )
