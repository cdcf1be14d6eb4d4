"""The reports that the simulator generates."""

import json
from datetime import datetime
from itertools import pairwise

import numpy as np

from pipelines.simulator.clock import SimulatedClock
from pipelines.simulator.offers import CACHED_BLOCKS, Offers
from pipelines.simulator.reports import BLOCK, Schedule
from tests.layer4 import START, make_reports


class Numbers:
    """Reports that are their numbers."""

    count = None

    def make_block(self, number: int) -> list[bytes]:
        """A block."""
        return [b"%d" % each for each in range(number * BLOCK, (number + 1) * BLOCK)]


def test_a_block_depends_only_on_the_seed_and_its_number() -> None:
    schedule = Schedule(START, 10_000)
    first = make_reports(schedule, seed=1).make_block(7)
    assert make_reports(schedule, seed=1).make_block(7) == first
    assert make_reports(schedule, seed=1).make_block(8) != first
    assert make_reports(schedule, seed=2).make_block(7) != first


def test_no_report_occurs_in_two_blocks() -> None:
    reports = make_reports(Schedule(START, 10_000))
    tasks = [json.loads(text)["task_id"] for number in range(3) for text in reports.make_block(number)]
    assert len(set(tasks)) == 3 * BLOCK


def test_reports_are_recorded_at_most_2_s_before_they_are_offered_and_not_in_that_order() -> None:
    schedule = Schedule(START, 10_000, history=500)
    texts = make_reports(schedule).make_block(0)
    recorded = [datetime.fromisoformat(json.loads(text)["recorded_at"]).timestamp() for text in texts]
    lag = schedule.times(np.arange(BLOCK)) / 1e6 - recorded
    assert lag.min() > 0
    assert lag.max() < 3.01  # a spelling without a fraction cuts up to 1 s
    assert (np.diff(recorded) < 0).any()


def test_a_share_of_the_reports_ties_with_the_one_before() -> None:
    texts = make_reports(Schedule(START, 10_000), ties=0.5).make_block(0)
    times = [json.loads(text)["recorded_at"] for text in texts]
    assert 400 < sum(one == other for one, other in pairwise(times)) < 560


def test_the_clock_runs_at_its_speed_and_offers_at_the_rate() -> None:
    now = 50.0
    clock = SimulatedClock(START, speed=60.0, monotonic=lambda: now)
    offers = Offers(make_reports(Schedule(START, 600, history=10)), Schedule(START, 600, history=10), clock)
    assert offers.advance() == range(10)
    now = 51.0
    assert clock.now() == START + 60_000_000
    assert offers.advance() == range(10, 610)
    assert offers.advance() == range(610, 610)


def test_what_is_kept_in_memory_does_not_grow_with_what_was_offered() -> None:
    offers = Offers(Numbers(), Schedule(START, 0, history=100_000), SimulatedClock(START))
    offers.advance()
    assert sum(1 for _ in offers.read(0, offers.end)) == 100_000
    assert offers.cached == CACHED_BLOCKS
