"""The wait for a recommendation counts from the report that completes its evidence."""

from datetime import timedelta

from tests.benchmarks.deciding import find_waits
from tests.builders import NOON


def test_a_wait_begins_with_the_first_report_of_the_minute_in_which_the_rule_was_met() -> None:
    before, decided = NOON, NOON + timedelta(minutes=1)
    sent = {("x", before): 1000.0, ("x", decided): 1060.0}
    assert find_waits({"x": (decided, 1150.0)}, sent) == [90.0]
