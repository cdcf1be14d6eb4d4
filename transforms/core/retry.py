"""How long to wait before something is tried again."""

import random
from collections.abc import Iterable, Iterator
from typing import Any

import stamina

from transforms.sinks.sink import Unavailable

FIRST, LONGEST = 0.5, 15.0
"""Seconds between two tries of a place that is away; they grow from the one to the other."""


def while_away(patience: float) -> Iterable[Any]:
    """Attempts, each a context: one that ends in `Unavailable` is followed by another, until `patience` seconds have passed."""
    return stamina.retry_context(
        on=Unavailable, attempts=None, timeout=patience, wait_initial=FIRST, wait_max=LONGEST
    )


def uneven(tries: int, first: float, longest: float) -> Iterator[float]:
    """Seconds to wait after each of some tries, so that two writers in each other's way fall out of step."""
    for number in range(tries):
        yield min(longest, first * 2**number) * random.uniform(0.5, 1)
