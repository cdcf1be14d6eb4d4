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
_SHORTEST_DELAY, _MEAN_DELAY, _LONGEST_DELAY = 5_000, 10_000, 50_000
_SECOND_VERSION = SECOND // 2


@dataclass(frozen=True)
class Arrivals:
    """When things are received, microseconds since 1970.

    `report` int64[n]: the first message of each report; `task`, `result` int64[n]: those of its task, where
    they are sent; `registered` int64[a]: the first message of each agent of the fleet, 0 is never.
    """

    report: Integers
    task: Integers
    result: Integers
    registered: Integers


def draw_arrivals_of_records(world: World, reports: Messages, beats: Beats, seed: int) -> Arrivals:
    """Draw when the records of each report are received: some milliseconds after they are made; if late,
    minutes to hours after the report.
    """
    random = make_random(seed, "record arrivals")
    count = len(world.sound.owner)
    report = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(report, reports.row, reports.received)
    task = world.sound.created + _draw_delays(random, count)
    result = world.sound.completed + _draw_delays(random, count)
    for received, name, late in ((task, "task_late", _LATE_TASK), (result, "result_late", _LATE_RESULT)):
        rows = world.faults.rows(name)
        # Evenly by the logarithm: minutes are as frequent as hours.
        received[rows] = report[rows] + np.exp(
            random.uniform(np.log(late[0]), np.log(late[1]), len(rows))
        ).astype(np.int64)
    registered = np.zeros(len(world.fleet.types), np.int64)
    registered[beats.agent] = beats.registered + _SHORTEST_DELAY
    return Arrivals(report, task, result, registered)


def _draw_delays(random: np.random.Generator, count: int) -> Integers:
    delay = _SHORTEST_DELAY + random.exponential(_MEAN_DELAY, count)
    return np.minimum(delay, _LONGEST_DELAY).astype(np.int64)


def draw_streams(
    world: World, arrivals: Arrivals, beats: Beats, mix: Mix, seed: int
) -> dict[str, RecordStream]:
    """The messages of each schema of records, by schema."""
    tasks, columns, fleet, health = world.tasks, world.columns, world.fleet, observe_health(world.moments)
    states = np.arange(len(health.recorded))
    return {
        "task": RecordStream(
            "task",
            _send_versions(world, "task", arrivals.task, mix, seed),
            lambda rows: format_tasks(rows, tasks, columns, fleet),
        ),
        "execution_result": RecordStream(
            "execution_result",
            _send_versions(world, "result", arrivals.result, mix, seed),
            lambda rows: format_results(rows, tasks, columns, fleet),
        ),
        "agent": RecordStream(
            "agent",
            _draw("agent", np.arange(len(beats.agent)), beats.sent + _SHORTEST_DELAY, mix, seed),
            lambda rows: format_agents(rows, beats, fleet),
        ),
        "system_health": RecordStream(
            "system_health",
            draw_messages(
                "system_health", states, health.recorded + _SHORTEST_DELAY, states < 0, (0, mix.dirty), seed
            ),
            lambda rows: format_health(rows, health),
        ),
    }


def _send_versions(world: World, name: str, received: Integers, mix: Mix, seed: int) -> Messages:
    """The messages of the tasks or results: of each row that has its own and sends it, and of second versions
    as row n and up.
    """
    faults, count = world.faults, len(received)
    sends = (world.tasks.owner == np.arange(count)) & ~faults.find(f"{name}_never")
    row, again = np.flatnonzero(sends), faults.rows(f"two_{name}_versions")
    # Neither is repeated so late that it is stale.
    repeated = ~faults.find("result_late", "completed_before_report")
    return _draw(
        "task" if name == "task" else "execution_result",
        np.concatenate([row, count + again]),
        np.concatenate([received[row], received[again] + _SECOND_VERSION]),
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

    Those of an agent are distinct if its state or the hour in which they are received is another; each state
    of the system counts.
    """
    valid = stream.messages.kind <= RESPELLED
    row = stream.messages.row[valid]
    if stream.schema == "system_health":
        return len(row)
    if stream.schema == "agent":
        hour = stream.messages.received[valid] // HOUR
        return len(np.unique(np.stack([beats.agent[row], beats.state[row], hour]), axis=1)[0])
    return len(np.unique(row))
