import random

import pytest

from transforms.sources.redis.commits import LOST_SECONDS, Commits
from transforms.sources.redis.positions import Position


class Told(list):
    """What Redis is told: the last ids, in turn."""

    def __call__(self, positions):
        self.append(positions["s"].last)


def at(number: int) -> dict[str, Position]:
    return {"s": Position(f"{number}-0", number, f"{number}-0", number)}


def session(commits: Commits, begin: int, end: int):
    commits.begin(at(begin))
    return commits.end(at(end))


def rounds(commits: Commits, begin: int, count: int = 2) -> None:
    """Sessions of one entry each, a checkpoint after each of them."""
    for number in range(begin, begin + count):
        session(commits, number, number + 1)()


def test_a_position_is_told_two_rounds_after_its_bundle_was_called_back():
    told = Told()
    commits = Commits(told)
    rounds(commits, 0, 2)
    third = session(commits, 2, 3)
    assert told == []
    third()
    assert told == ["1-0"]
    session(commits, 3, 4)()
    assert told == ["1-0", "2-0"]


@pytest.mark.parametrize("seed", range(200))
def test_the_group_is_never_ahead_of_the_checkpoint_before_the_newest(seed: int):
    """Sessions and checkpoints in any order. A completed checkpoint calls back all bundles that have ended,
    also those that ended after its barrier; some callbacks never come; now and then the job goes on from one
    of the newest two checkpoints."""
    lot, now, read, told = random.Random(seed), [0.0], 0, []
    commits = Commits(lambda positions: told.append(positions["s"].index), clock=lambda: now[0])
    kept, barrier, waiting = [0, 0], None, []
    for _ in range(400):
        now[0] += lot.choice((0.1, 1, LOST_SECONDS))
        match lot.choice(
            (
                "session",
                "session",
                "session",
                "barrier",
                "complete",
                "restore" if lot.random() < 0.1 else "session",
            )
        ):
            case "session":
                waiting.append(session(commits, read, read := read + 1))
            case "barrier" if barrier is None:
                barrier = read
            case "complete" if barrier is not None:
                kept, barrier, due, waiting = [kept[1], barrier], None, waiting, []
                for callback in due:
                    if callback and lot.random() < 0.9:
                        callback()
                assert max(told, default=0) <= kept[0]
            case "restore":
                read, barrier, waiting = lot.choice(kept), None, []
                kept = [kept[0], read]


def test_one_bundle_at_a_time_waits_for_its_callback():
    commits = Commits(Told())
    waiting = session(commits, 0, 1)
    assert [session(commits, number, number + 1) for number in range(1, 5)] == [None] * 4
    waiting()
    assert session(commits, 5, 6) is not None


def test_after_a_restore_what_was_called_back_before_is_not_told():
    told = Told()
    commits = Commits(told)
    session(commits, 0, 1)()
    stale = session(commits, 1, 2)
    stale()
    late = session(commits, 2, 3)
    restored = session(commits, 1, 2)
    late()
    restored()
    session(commits, 2, 3)()
    assert told == []
    session(commits, 3, 4)()
    assert told == ["2-0"]


def test_a_session_without_a_callback_is_no_restore():
    told = Told()
    commits = Commits(told)
    session(commits, 0, 1)()
    commits.begin(at(1))
    commits.leave(at(2))
    rounds(commits, 2)
    assert told == ["1-0"]


def test_a_callback_that_never_comes_is_asked_for_again():
    now = [0.0]
    told = Told()
    commits = Commits(told, clock=lambda: now[0])
    session(commits, 0, 1)()
    lost = session(commits, 1, 2)
    now[0] = LOST_SECONDS
    again = session(commits, 2, 3)
    again()
    lost()
    rounds(commits, 3)
    assert told == ["1-0", "3-0"]


def test_a_position_is_told_only_when_its_rows_have_left_the_gathering():
    now = [0.0]
    told = Told()
    commits = Commits(told, hold_seconds=10, clock=lambda: now[0])
    for number in range(5):
        session(commits, number, number + 1)()
        now[0] += 4
    assert told == ["1-0", "2-0"]
    now[0] += 100
    session(commits, 5, 6)()
    assert told == ["1-0", "2-0", "4-0"]


def test_after_a_restore_no_position_of_before_is_held_any_longer():
    now = [0.0]
    told = Told()
    commits = Commits(told, hold_seconds=10, clock=lambda: now[0])
    session(commits, 0, 1)()
    session(commits, 1, 2)()
    now[0] = 50.0
    session(commits, 0, 1)()
    assert told == []
