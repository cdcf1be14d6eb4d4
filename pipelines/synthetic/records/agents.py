"""Registrations and heartbeats of agents, and the health of the system, as numpy columns."""

from dataclasses import dataclass

import numpy as np

from pipelines.synthetic.columns import SECOND, ReportTimes
from pipelines.synthetic.fleet import Fleet, Floats, make_random
from pipelines.synthetic.records.effects import MINUTE, Roles
from pipelines.synthetic.records.tasks import Integers

STATES = ("active", "busy", "idle", "draining")
_STATE_SHARES = (0.7, 0.15, 0.1, 0.05)
_SHORTEST_BEAT = 10 * MINUTE
_REPORTS_PER_BEAT = 5
_LATE_REGISTRATION = 60 * MINUTE
_HEALTH_INTERVAL = MINUTE


@dataclass(frozen=True)
class Beats:
    """n messages about agents in order of time.

    `agent` int64[n]: row of the fleet; `kind` int64[n]: index of its type; `sent`, `registered` int64[n]:
    microseconds since 1970; `state` int64[n]: index into STATES; `done` int64[n]: tasks of the agent until
    then. `changes_at`: when the changing agent sends that it has another type, microseconds since 1970.
    """

    agent: Integers
    kind: Integers
    sent: Integers
    registered: Integers
    state: Integers
    done: Integers
    changes_at: int


@dataclass(frozen=True)
class HealthRows:
    """n states of the system in order of time.

    `recorded` int64[n]: microseconds since 1970; `active` int64[n]: agents that reported in the minute
    before; `uptime` float64[n]: seconds; `load` float64[n]: reports of that minute over the average, to 4.
    """

    recorded: Integers
    active: Integers
    uptime: Floats
    load: Floats


def draw_beats(moments: ReportTimes, fleet: Fleet, agents: int, roles: Roles, seed: int) -> Beats:
    """Draw the registration of each agent, in the minute before the span, and its heartbeats: every 10
    minutes, or less often so that they are fewer than a fifth of the reports.

    The late agent registers an hour after the start, or after an eighth of the span. The changing agent gets
    the next type with the heartbeat in the middle.
    """
    random = make_random(seed, "beats")
    most = len(moments.agent) // (_REPORTS_PER_BEAT * agents)
    each = 1 + min(most, moments.span // _SHORTEST_BEAT)
    registered = moments.start - random.integers(SECOND, MINUTE, agents)
    if roles.late is not None:
        registered[roles.late] = moments.start + min(_LATE_REGISTRATION, moments.span // 8)
    interval = (moments.start + moments.span - registered) // each
    agent = np.repeat(np.arange(agents), each)
    place = np.tile(np.arange(each), agents)
    sent = registered[agent] + place * interval[agent]
    order = np.argsort(sent, kind="stable")
    agent, sent = agent[order], sent[order]
    state = random.choice(len(STATES), len(agent), p=_STATE_SHARES)
    own = sent[agent == roles.changing]
    changes_at = int(own[len(own) // 2]) if len(own) > 1 else moments.start + 2 * moments.span
    kind = find_types(fleet, roles, agent, sent, changes_at)
    done = _count_done(moments, agent, sent)
    return Beats(agent, kind, sent, registered[agent], state, done, changes_at)


def find_types(fleet: Fleet, roles: Roles, agent: Integers, at: Integers, changes_at: int) -> Integers:
    """The index of the type of these agents at these times, int64[n]."""
    kinds = fleet.types[agent]
    changed = (agent == roles.changing) & (at >= changes_at)
    return np.where(changed, (kinds + 1) % len(fleet.task_types), kinds)


def _count_done(moments: ReportTimes, agent: Integers, sent: Integers) -> Integers:
    scale = int(moments.span + 2 * MINUTE)
    offset = MINUTE - moments.start
    keys = np.sort(moments.agent * float(scale) + moments.recorded + offset)
    until, since = agent * float(scale) + sent + offset, agent * float(scale)
    return np.searchsorted(keys, until) - np.searchsorted(keys, since)


def observe_health(moments: ReportTimes) -> HealthRows:
    """The state of the system at the end of each minute."""
    minutes = max(1, moments.span // _HEALTH_INTERVAL)
    minute = np.minimum((moments.recorded - moments.start) // _HEALTH_INTERVAL, minutes - 1)
    reports = np.bincount(minute, minlength=minutes)
    pairs = np.unique(minute * (int(moments.agent.max(initial=0)) + 1) + moments.agent)
    active = np.bincount(pairs // (int(moments.agent.max(initial=0)) + 1), minlength=minutes)
    ends = (1 + np.arange(minutes)) * _HEALTH_INTERVAL
    load: Floats = np.minimum(reports / max(1e-9, float(reports.mean())), 4.0)
    return HealthRows(moments.start + ends, active, (ends + 10 * MINUTE) / SECOND, np.round(load, 4))
