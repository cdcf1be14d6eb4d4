"""A backfill of some messages and then of the others is a backfill of all: a hundred ways to split them.

Each experiment has a day and an agent of its own, so that none recalls, or rebuilds, anything for another; ten share an output.
"""

import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.backfill import backfill
from pipelines.settings import Settings
from pipelines.tables.parity import parity
from tests.builders import NOON
from tests.integration.archives import stream, write
from transforms.sources.archives import find

pytestmark = pytest.mark.slow

DAYS = 10
SETTINGS = Settings(min_samples=4, shards=2, file_minutes=60)
Split = tuple[list[bytes], list[bytes]]


def by_choice(lines: Sequence[bytes], draw: random.Random) -> Split:
    """Each message by itself, with a chance that is the same for all."""
    chance = draw.uniform(0.05, 0.95)
    first = [draw.random() < chance for _ in lines]
    return [line for line, here in zip(lines, first) if here], [line for line, here in zip(lines, first) if not here]


def by_time(lines: Sequence[bytes], draw: random.Random) -> Split:
    """What came before some message, and the rest."""
    cut = draw.randrange(1, len(lines))
    return list(lines[:cut]), list(lines[cut:])


def late_before_early(lines: Sequence[bytes], draw: random.Random) -> Split:
    """The rest first."""
    before, after = by_time(lines, draw)
    return after, before


def a_few_afterwards(lines: Sequence[bytes], draw: random.Random) -> Split:
    """All but one or two."""
    few = set(draw.sample(range(len(lines)), draw.randint(1, 2)))
    return [line for i, line in enumerate(lines) if i not in few], [line for i, line in enumerate(lines) if i in few]


def a_gap_afterwards(lines: Sequence[bytes], draw: random.Random) -> Split:
    """Some stretch of time comes last."""
    start, end = sorted(draw.sample(range(len(lines)), 2))
    return [*lines[:start], *lines[end:]], list(lines[start:end])


def some_twice(lines: Sequence[bytes], draw: random.Random) -> Split:
    """Parts that overlap: the messages in both are the same messages."""
    before, after = by_choice(lines, draw)
    return before, after + draw.sample(before, len(before) // 3)


Splitter = Callable[[Sequence[bytes], random.Random], Split]
SPLITS: list[Splitter] = [by_choice, by_time, late_before_early, a_few_afterwards, a_gap_afterwards, some_twice]


@pytest.mark.parametrize("seed", range(10))
def test_the_parts_one_after_the_other_give_what_the_whole_gives(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    whole, first, second = [], [], []
    for day in range(DAYS):
        number, start = DAYS * seed + day, NOON + timedelta(days=day, minutes=draw.randrange(60))
        lines = stream(draw.randint(60, 200), agents=1, seconds=draw.uniform(20, 90), seed=number, start=start)
        before, after = SPLITS[number % len(SPLITS)](lines, draw)
        whole, first, second = whole + lines, first + before, second + after
    for name, lines in (("whole", whole), ("first", first), ("second", second)):
        write(tmp_path / f"{name}.ndjson", lines)
    for output, name in (("all", "whole"), ("parts", "first"), ("parts", "second")):
        backfill(find([str(tmp_path / f"{name}.ndjson")]), [str(tmp_path / output)], SETTINGS)
    compared = parity(tmp_path / "all", tmp_path / "parts", identity=True)
    assert [str(each) for comparison in compared.values() for each in comparison.differences] == []
    assert all(comparison.same for comparison in compared.values())
