"""When each record is received, and the messages of each schema of records."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.synthetic.columns import HOUR, SECOND
from pipelines.synthetic.fleet import make_random
from pipelines.synthetic.messages import RESPELLED, Messages, Mix
from pipelines.synthetic.records.agents import Beats, observe_health
from pipelines.synthetic.records.json_records import (
    format_agents,
    format_health,
    format_results,
    format_tasks,
)
from pipelines.synthetic.records.messages import RecordStream, draw_messages
from pipelines.synthetic.records.tasks import Integers
from pipelines.synthetic.records.world import World

_LATE_TASK = (180 * SECOND, 5 * 3600 * SECOND)
_LATE_RESULT = (180 * SECOND, 3000 * SECOND)
SHORTEST_DELAY, _MEAN_DELAY, _LONGEST_DELAY = 5_000, 10_000, 50_000
_SECOND_VERSION = SECOND // 2
NEVER = np.iinfo(np.int64).max
"""The time at which something is received that is not sent."""


@dataclass(frozen=True)
class RecordArrivals:
    """When things are received, microseconds since 1970.

    `report` int64[n]: the first message of each report; `task`, `result` int64[n]: those of its task, where
    they are sent; `corrected` int64[n]: the second version of the task; `registered` int64[a]: the first
    message of each agent of the fleet, 0 is never.
    """

    report: Integers
    task: Integers
    result: Integers
    corrected: Integers
    registered: Integers


def draw_arrivals_of_records(world: World, reports: Messages, seed: int) -> RecordArrivals:
    """Draw when the records of each report are received: some milliseconds after they are made; if late,
    minutes to hours after the report.
    """
    random = make_random(seed, "record arrivals")
    count = len(world.sound.owner)
    late_task = (_LATE_TASK[0], min(_LATE_TASK[1], max(world.moments.span // 2, 2 * _LATE_TASK[0])))
    report = np.full(count, NEVER)
    np.minimum.at(report, reports.row, reports.received)
    task = world.sound.created + _draw_delays(random, count)
    result = world.sound.completed + _draw_delays(random, count)
    corrected = task + _SECOND_VERSION
    for received, name, late in (
        (task, "task_late", late_task),
        (result, "result_late", _LATE_RESULT),
        (corrected, "quota_raised_late", late_task),
    ):
        rows = world.faults.rows(name)
        # Evenly by the logarithm: minutes are as frequent as hours.
        received[rows] = report[rows] + np.exp(
            random.uniform(np.log(late[0]), np.log(late[1]), len(rows))
        ).astype(np.int64)
    registered = np.zeros(len(world.fleet.types), np.int64)
    registered[world.beats.agent] = world.beats.registered + SHORTEST_DELAY
    return RecordArrivals(report, task, result, corrected, registered)


def _draw_delays(random: np.random.Generator, count: int) -> Integers:
    delay = SHORTEST_DELAY + random.exponential(_MEAN_DELAY, count)
    return np.minimum(delay, _LONGEST_DELAY).astype(np.int64)


def draw_streams(world: World, arrivals: RecordArrivals, mix: Mix, seed: int) -> dict[str, RecordStream]:
    """The messages of each schema of records, by schema."""
    tasks, sound, columns, fleet, beats = world.tasks, world.sound, world.columns, world.fleet, world.beats
    health = observe_health(world.moments)
    states = np.arange(len(health.recorded))
    return {
        "task": RecordStream(
            "task",
            _send_versions(world, "task", arrivals.task, arrivals.corrected, mix, seed),
            lambda rows: format_tasks(rows, tasks, sound, columns, fleet),
        ),
        "execution_result": RecordStream(
            "execution_result",
            _send_versions(world, "result", arrivals.result, arrivals.result + _SECOND_VERSION, mix, seed),
            lambda rows: format_results(rows, tasks, columns, fleet),
        ),
        "agent": RecordStream(
            "agent",
            _draw("agent", np.arange(len(beats.agent)), beats.sent + SHORTEST_DELAY, mix, seed),
            lambda rows: format_agents(rows, beats, fleet),
        ),
        "system_health": RecordStream(
            "system_health",
            draw_messages(
                "system_health", states, health.recorded + SHORTEST_DELAY, states < 0, (0, mix.dirty), seed
            ),
            lambda rows: format_health(rows, health),
        ),
    }


def _send_versions(
    world: World, name: str, received: Integers, second: Integers, mix: Mix, seed: int
) -> Messages:
    """The messages of the tasks or results: of each row that has its own and sends it, and of `second`
    versions as row n and up.
    """
    faults, count = world.faults, len(received)
    sends = (world.tasks.owner == np.arange(count)) & ~faults.find(f"{name}_never")
    twice = faults.find("two_task_versions", "quota_raised_late")
    row, again = (
        np.flatnonzero(sends),
        np.flatnonzero(twice if name == "task" else faults.find("two_result_versions")),
    )
    # Neither is repeated so late that it is stale.
    repeated = ~faults.find("result_late", "completed_before_report")
    return _draw(
        "task" if name == "task" else "execution_result",
        np.concatenate([row, count + again]),
        np.concatenate([received[row], second[again]]),
        mix,
        seed,
        np.concatenate([repeated[row], repeated[again]]),
    )


def _draw(
    schema: str,
    row: Integers,
    received: Integers,
    mix: Mix,
    seed: int,
    repeated: NDArray[np.bool_] | None = None,
) -> Messages:
    if repeated is None:
        repeated = np.ones(len(row), bool)
    return draw_messages(schema, row, received, repeated, (mix.duplicates, mix.dirty), seed)


def count_accepted(stream: RecordStream, beats: Beats) -> int:
    """The number of distinct valid records.

    Those of an agent are distinct if its type, its state or the hour in which they are received is another;
    each state of the system counts.
    """
    valid = stream.messages.kind <= RESPELLED
    row = stream.messages.row[valid]
    if stream.schema == "system_health":
        return len(row)
    if stream.schema == "agent":
        hour = stream.messages.received[valid] // HOUR
        return len(
            np.unique(np.stack([beats.agent[row], beats.kind[row], beats.state[row], hour]), axis=1)[0]
        )
    return int(np.count_nonzero(np.bincount(row)))
