"""What `truth.json` says about records: fates by schema, effects, broken rules, late and missing records."""

from collections import Counter
from typing import Any

import numpy as np

from pipelines.synthetic.columns import SECOND
from pipelines.synthetic.json_columns import format_times, format_uuids
from pipelines.synthetic.messages import REPORT, Messages
from pipelines.synthetic.records.clocks import find_clock_faults
from pipelines.synthetic.records.effects import describe_effects
from pipelines.synthetic.records.faults import FAULTS, RESOLVED
from pipelines.synthetic.records.messages import RecordStream
from pipelines.synthetic.records.streams import NEVER, SHORTEST_DELAY, RecordArrivals, count_accepted
from pipelines.synthetic.records.tasks import Integers
from pipelines.synthetic.records.world import World

WAIT_SECONDS = 60
"""A record that is received longer after its report comes too late for it."""
_OF_AGENTS = {
    "agent_late": "agent_unknown",
    "agent_changed_type": "agent_type_mismatch",
    "clock_behind": "recorded_before_creation",
    "clock_ahead": "recorded_after_completion",
}
"""Faults of an agent, which some of its reports have beside another, and the rule that they break."""
LISTED = 1000
"""At most this many reports of each fault, and agents, are listed."""


def describe_records(
    world: World,
    reports: Messages,
    streams: dict[str, RecordStream],
    arrivals: RecordArrivals,
    with_ids: bool = True,
) -> dict[str, Any]:
    """The part `records` of `truth.json`; `with_ids`: the ids of messages are known."""
    good = int((world.fates.good & (arrivals.report < NEVER)).sum())
    fates = {name: each.count_fates(count_accepted(each, world.beats)) for name, each in streams.items()}
    faults = _list_faults(world, reports, arrivals, with_ids)
    broken: Counter[str] = Counter()
    resolved: Counter[str] = Counter()
    for name, found in faults.items():
        if rule := found["rule"]:
            broken[rule] += found["count"]
            resolved[rule] += found["count"] * (name in (*RESOLVED, "agent_late"))
    return {
        "messages": {"kpi_report": len(reports.kind)}
        | {name: each["messages"] for name, each in fates.items()},
        "accepted": {"kpi_report": good} | {name: each["accepted"] for name, each in fates.items()},
        "fates": fates,
        "wait_seconds": WAIT_SECONDS,
        "rules": dict(broken),
        "resolved": dict(+resolved),
        "faults": faults,
        "effects": describe_effects(world.fleet, world.roles, LISTED),
    }


def _list_faults(world: World, reports: Messages, arrivals: RecordArrivals, with_ids: bool) -> dict[str, Any]:
    """By fault: how many reports have it, and the first LISTED of them, in order of recorded_at."""
    registered = arrivals.registered[world.columns.agent]
    good = world.fates.good & (arrivals.report < NEVER)
    late = np.flatnonzero(good & (registered - WAIT_SECONDS * SECOND > arrivals.report))
    changed = (
        good
        & (world.columns.agent == world.roles.changing)
        & (world.moments.recorded < world.beats.changes_at)
        & (arrivals.report >= world.beats.changes_at + SHORTEST_DELAY)
    )
    times = {
        "task_late": arrivals.task,
        "result_late": arrivals.result,
        "quota_raised_late": arrivals.corrected,
        "agent_late": registered,
    }
    found = {name: world.faults.rows(name) for name in FAULTS}
    found |= {"agent_late": late, "agent_changed_type": np.flatnonzero(changed)}
    if (world.columns.recorded != world.moments.recorded).any():
        found |= find_clock_faults(world, arrivals, WAIT_SECONDS * SECOND)
    ids = (
        {}
        if not with_ids
        else _find_message_ids(reports, np.concatenate([rows[:LISTED] for rows in found.values()]))
    )
    return {
        name: {"rule": _OF_AGENTS.get(name, FAULTS.get(name)), "count": len(rows)}
        | {"reports": _list_reports(world, rows[:LISTED], ids, times.get(name))}
        for name, rows in found.items()
    }


def _find_message_ids(reports: Messages, rows: Integers) -> dict[int, str]:
    """The id of the first message of each of these reports."""
    places = np.flatnonzero(np.isin(reports.row, rows) & (reports.kind == REPORT))
    return dict(zip(reports.row[places].tolist(), reports.ids.take(places).to_pylist()))


def _list_reports(
    world: World, rows: Integers, ids: dict[int, str], times: Integers | None
) -> list[dict[str, str | None]]:
    """Message, task and agent of each report; `record_received_at` if its record is late."""
    tasks = format_uuids(world.columns.task[rows]).to_pylist()
    agents = world.fleet.ids.take(world.columns.agent[rows]).to_pylist()
    listed = [
        {"message_id": ids.get(row), "task_id": task, "agent_id": agent}
        for row, task, agent in zip(rows.tolist(), tasks, agents)
    ]
    if times is not None:
        for each, at in zip(listed, format_times(times[rows]).to_pylist()):
            each["record_received_at"] = at + "Z"
    return listed
