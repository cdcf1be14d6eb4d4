from transforms.sources.commits import LOST_SECONDS, Commits
from transforms.sources.positions import Position


class Told(list):
    """What Redis is told: the last ids, in turn."""

    def __call__(self, positions):
        self.append(positions["s"].last)


def at(number: int) -> dict[str, Position]:
    return {"s": Position(f"{number}-0", number, f"{number}-0", number)}


def session(commits: Commits, begin: int, end: int):
    commits.begin(at(begin))
    return commits.end(at(end))


def test_a_position_is_told_one_round_after_its_bundle_was_called_back():
    told = Told()
    commits = Commits(told)
    callback = session(commits, 0, 1)
    callback()
    second = session(commits, 1, 2)
    assert told == []
    second()
    assert told == ["1-0"]
    session(commits, 2, 3)()
    assert told == ["1-0", "2-0"]


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
    assert told == ["1-0"]
    session(commits, 2, 3)()
    assert told == ["1-0", "2-0"]


def test_a_session_without_a_callback_is_no_restore():
    told = Told()
    commits = Commits(told)
    session(commits, 0, 1)()
    commits.begin(at(1))
    commits.leave(at(2))
    session(commits, 2, 3)()
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
    assert told == ["1-0"]
    session(commits, 3, 4)()
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
    assert told == ["1-0", "2-0", "5-0"]


def test_after_a_restore_no_position_of_before_is_held_any_longer():
    now = [0.0]
    told = Told()
    commits = Commits(told, hold_seconds=10, clock=lambda: now[0])
    session(commits, 0, 1)()
    session(commits, 1, 2)()
    now[0] = 50.0
    session(commits, 0, 1)()
    assert told == []
