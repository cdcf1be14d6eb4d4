"""No report is skipped, whatever an export does to its pages."""

import random
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from pipelines.relay.page_order import LEAST, PageOrder, PageWindow, choose_window, find_new

FAULTS = ("none", "short", "repeated", "empty", "count", "append", "drop")


@dataclass
class Export:
    """Pages of a list that grows and whose front is dropped, with faults."""

    reports: list[bytes]
    dropped: int = 0
    before: list[bytes] = field(default_factory=list)

    def read(self, window: PageWindow, fault: str, random_: random.Random) -> tuple[list[bytes], int]:
        kept = self.reports[self.dropped :]
        page, total = kept[window.start : window.end], len(kept)
        if fault == "short":
            page = page[: random_.randrange(len(page) + 1)]
        elif fault == "repeated":
            page = kept[max(0, window.start - window.per_page) : window.start] if window.page > 1 else page
        elif fault == "empty":
            page, total = [], window.start
        elif fault == "count":
            total = random_.randrange(2 * total + 1)
        return page, total


def drain(export: Export, order: PageOrder, faults: list[str], random_: random.Random) -> list[bytes]:
    relayed: list[bytes] = []
    idle = 0
    for step in range(3000):
        fault = faults[step] if step < len(faults) else "none"
        if fault == "append":
            export.reports += [b"%d" % (len(export.reports) + each) for each in range(random_.randrange(40))]
        if fault == "drop":  # never what was not relayed: that would be a loss of Layer 4's
            safe = next((n for n, each in enumerate(export.reports) if each not in set(relayed)), None)
            last = (len(export.reports) if safe is None else safe) - 1
            export.dropped = max(export.dropped, min(last, export.dropped + random_.randrange(60)))
        window = order.next_window()
        page, total = export.read(window, fault, random_)
        first = order.take(window, page, total)
        relayed += page[first:]
        order.advance(page[first:])
        idle = 0 if page[first:] or step < len(faults) or fault != "none" else idle + 1
        if idle > 8 + len(export.reports) // 5:
            return relayed
    raise AssertionError("it never ends")


@given(
    st.integers(0, 300),
    st.lists(st.sampled_from(FAULTS), max_size=60),
    st.integers(LEAST, 50),
    st.randoms(use_true_random=False),
)
def test_any_sequence_of_faulty_pages_skips_no_report(
    count: int, faults: list[str], most: int, random_: random.Random
) -> None:
    export = Export([b"%d" % each for each in range(count)])
    order = PageOrder(most=most)
    relayed = drain(export, order, faults, random_)
    assert set(relayed) == set(export.reports)
    firsts = list(dict.fromkeys(relayed))
    assert firsts == export.reports


@given(st.lists(st.sampled_from([b"a", b"b"]), max_size=60), st.integers(0, 60), st.integers(0, 60))
def test_reports_of_the_same_bytes_are_never_skipped(log: list[bytes], relayed: int, start: int) -> None:
    relayed, start = min(relayed, len(log)), min(start, len(log))
    memory, page = log[:relayed], log[start:]
    found = find_new(memory, page)
    if start < relayed and page:
        assert found is not None
        assert found <= relayed - start


@given(st.integers(0, 10**9), st.integers(LEAST, 1000))
def test_a_window_begins_close_before_its_place(place: int, most: int) -> None:
    window = choose_window(place, most)
    assert window.start <= place < window.end
    assert window.per_page <= most
    assert window.end - place > most // 3


def test_a_total_that_is_far_too_high_makes_no_search_long() -> None:
    order = PageOrder(5, [b"gone"])
    for _ in range(150):
        window = order.next_window()
        assert window.page < 1000  # Layer 4 may refuse larger numbers
        order.take(window, [b"1", b"2"][window.start : window.end], 10**15)
    assert order.lost >= 1


def test_a_page_that_moves_between_two_requests_leaves_no_hole() -> None:
    log = [b"%d" % each for each in range(5000)]
    order, relayed, dropped = PageOrder(), [], 0
    while len(relayed) < len(log):
        window = order.next_window()
        page = log[dropped:][window.start : window.end]
        first = order.take(window, page, len(log) - dropped)
        relayed += page[first:]
        order.advance(page[first:])
        dropped = min(dropped + 17, len(relayed) - 1)  # the export drops as fast as it takes
    assert relayed == log


def test_reports_that_are_dropped_before_they_are_read_are_noticed() -> None:
    order = PageOrder()
    order.take(order.next_window(), [], 0)
    order.advance([b"a", b"b"])
    newer = [b"x", b"y"]
    relayed: list[bytes] = []
    for _ in range(10):
        window = order.next_window()
        page = newer[window.start : window.end]
        first = order.take(window, page, 2)
        relayed += page[first:]
        order.advance(page[first:])
    assert (relayed, order.lost) == (newer, 1)
