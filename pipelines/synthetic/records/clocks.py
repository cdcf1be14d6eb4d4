"""Clocks of hosts that differ from that of the system which makes tasks and results."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipelines.synthetic.columns import SECOND
from pipelines.synthetic.fleet import make_random
from pipelines.synthetic.records.streams import RecordArrivals
from pipelines.synthetic.records.tasks import Integers
from pipelines.synthetic.records.world import World

LARGEST_SKEW = 30.0
"""Seconds. With a larger skew reports would be in the future, or late, for validation."""
TOLERANCE_SECONDS = 5
"""Times that differ by this much or less agree: the default of `clock_tolerance_seconds`."""


def check_skew(seconds: float) -> None:
    """Raises:
    ValueError: more seconds than LARGEST_SKEW, or less than 0.
    """
    if not 0 <= seconds <= LARGEST_SKEW:
        raise ValueError(f"clock_skew = {seconds} is not possible; give 0 to {LARGEST_SKEW:g} seconds")


def skew_clocks(world: World, seconds: float, seed: int) -> World:
    """The world in which the clock of each agent's host is up to so many seconds ahead or behind.

    Raises:
        ValueError: as check_skew.
    """
    check_skew(seconds)
    if not seconds:
        return world
    offsets = make_random(seed, "clocks").uniform(-seconds, seconds, len(world.fleet.types))
    columns = world.columns
    recorded = columns.recorded + (offsets * SECOND).astype(np.int64)[columns.agent]
    # Every time has six digits: one that is cut would be earlier than the truth says.
    options = columns.options | {"time_style": np.zeros_like(columns.options["time_style"])}
    return replace(
        world, injected=replace(world.injected, columns=replace(columns, recorded=recorded, options=options))
    )


def find_clock_faults(world: World, arrivals: RecordArrivals, wait: int) -> dict[str, Integers]:
    """The rows of the reports that a clock puts before the creation of their task, or after its completion;
    `wait` microseconds after they are received these are known.
    """
    owner, recorded, tolerance = world.tasks.owner, world.columns.recorded, TOLERANCE_SECONDS * SECOND
    until = arrivals.report + wait

    def find(broken: NDArray[np.bool_], received: Integers, *others: str) -> Integers:
        is_known = (received[owner] <= until) & ~world.faults.find(*others)[owner]
        return np.flatnonzero(world.fates.good & is_known & broken)

    return {
        "clock_behind": find(
            recorded < world.tasks.created[owner] - tolerance,
            arrivals.task,
            "task_never",
            "created_after_report",
        ),
        "clock_ahead": find(
            recorded > world.tasks.completed[owner] + tolerance,
            arrivals.result,
            "result_never",
            "completed_before_report",
        ),
    }
