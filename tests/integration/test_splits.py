"""A backfill of some messages and then of the others is a backfill of all: a hundred ways to split them, and
late reports of each minute of an hour.

Each experiment has a time and an agent of its own, so that none recalls, or rebuilds, anything for another;
some share an output.
"""

import json
import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.jobs.backfill import backfill
from pipelines.jobs.engines import LocalEngine
from pipelines.settings import Settings
from pipelines.verify.parity import compare_outputs
from tests.builders import NOON, agent, report
from tests.integration.archives import envelope, stream, write
from transforms.core.time_range import Span
from transforms.sources.archives.archive_files import find_files

pytestmark = pytest.mark.slow

DAYS = 10
SETTINGS = Settings(min_samples=4, shards=2, file_minutes=60)
Split = tuple[list[bytes], list[bytes]]


def by_choice(lines: Sequence[bytes], draw: random.Random) -> Split:
    """Each message by itself, with a chance that is the same for all."""
    chance = draw.uniform(0.05, 0.95)
    first = [draw.random() < chance for _ in lines]
    return [line for line, here in zip(lines, first) if here], [
        line for line, here in zip(lines, first) if not here
    ]


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
    return [line for i, line in enumerate(lines) if i not in few], [
        line for i, line in enumerate(lines) if i in few
    ]


def a_gap_afterwards(lines: Sequence[bytes], draw: random.Random) -> Split:
    """Some stretch of time comes last."""
    start, end = sorted(draw.sample(range(len(lines)), 2))
    return [*lines[:start], *lines[end:]], list(lines[start:end])


def some_twice(lines: Sequence[bytes], draw: random.Random) -> Split:
    """Parts that overlap: the messages in both are the same messages."""
    before, after = by_choice(lines, draw)
    return before, after + draw.sample(before, len(before) // 3)


def the_end_of_an_hour_afterwards(lines: Sequence[bytes], draw: random.Random) -> Split:
    """One message of the last minutes of an hour comes last.

    Nothing else then causes the hours after it to be recalled. The other ways to split rarely do that: most
    parts have messages of every hour, and a single message that is drawn from all is rarely of these minutes.
    """
    late = [i for i, line in enumerate(lines) if _recorded(line)[14:16] >= "58"]
    place = late[0] if late else draw.randrange(len(lines))
    return [*lines[:place], *lines[place + 1 :]], [lines[place]]


def _recorded(line: bytes) -> str:
    """When a message was recorded; empty if it is not valid."""
    data = json.loads(line)["data"]
    return data["recorded_at"] if isinstance(data, dict) else ""


Splitter = Callable[[Sequence[bytes], random.Random], Split]
SPLITS: list[Splitter] = [
    by_choice,
    by_time,
    late_before_early,
    a_few_afterwards,
    a_gap_afterwards,
    some_twice,
    the_end_of_an_hour_afterwards,
]


@pytest.mark.parametrize("seed", range(10))
def test_the_parts_one_after_the_other_give_what_the_whole_gives(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    whole, first, second = [], [], []
    for day in range(DAYS):
        number, start = DAYS * seed + day, NOON + timedelta(days=day, minutes=draw.randrange(60))
        lines = stream(
            draw.randint(60, 200), agents=1, seconds=draw.uniform(20, 90), seed=number, start=start
        )
        before, after = SPLITS[number % len(SPLITS)](lines, draw)
        whole, first, second = whole + lines, first + before, second + after
    assert_parts_give_the_whole(tmp_path, whole, first, second)


def test_a_late_report_of_any_minute_gives_what_the_whole_gives(tmp_path: Path) -> None:
    first, second = [], []
    for minute in range(60):
        start = NOON + timedelta(hours=6 * minute)
        hours = stream(40, agents=1, seconds=250, seed=minute, start=start)
        late = report(
            999_999, start + timedelta(minutes=minute), agent_id=agent(10 * minute), latency_ms=900.0
        )
        first, second = first + hours, [*second, envelope(late, f"late-{minute}", None)]
    assert_parts_give_the_whole(tmp_path, first + second, first, second)


def assert_parts_give_the_whole(
    tmp_path: Path, whole: list[bytes], first: list[bytes], second: list[bytes]
) -> None:
    for name, lines in (("whole", whole), ("first", first), ("second", second)):
        write(tmp_path / f"{name}.ndjson", lines)
    for output, name in (("all", "whole"), ("parts", "first"), ("parts", "second")):
        files = find_files([str(tmp_path / f"{name}.ndjson")])
        backfill(files, [str(tmp_path / output)], SETTINGS, Span(), LocalEngine())
    compared = compare_outputs(tmp_path / "all", tmp_path / "parts", identity=True)
    assert [str(each) for comparison in compared.values() for each in comparison.differences] == []
    assert all(comparison.same for comparison in compared.values())
