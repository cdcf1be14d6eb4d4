"""What a benchmark makes of what it has seen."""

import numpy as np

from tests.benchmarks.parts import each, growth, outage, published_at, soak_figures, soak_latency
from tests.benchmarks.stream import number, series
from tests.benchmarks.trials import Sample, Stamps

SECOND = 1_000_000


def stamped(*pairs: tuple[float, float]) -> Stamps:
    """Messages received and validated at these seconds."""
    return np.array(
        [[int(received * SECOND), int(validated * SECOND)] for received, validated in pairs], np.int64
    )


def live(since: float, until: float) -> list[tuple[float, float]]:
    """A message each half second, validated at once."""
    return [(at, at + 0.01) for at in np.arange(since, until, 0.5)]


def test_an_outage_ends_when_messages_are_prompt_again_and_stay_so() -> None:
    caught_up = stamped(*live(90, 100.1), (99.0, 107.0), (103.0, 107.5), *live(108, 119))
    assert outage(caught_up, 100 * SECOND) == (7.0, 8.01)


def test_what_was_under_way_at_a_kill_or_a_first_attempt_that_fails_is_no_recovery() -> None:
    attempts = stamped(*live(100, 100.6), (99.0, 105.0), *live(105.1, 106), (99.0, 110.0), *live(110.5, 121))
    assert outage(attempts, 100 * SECOND) == (10.0, 10.51)


def test_an_outage_that_is_not_over_is_none() -> None:
    before, late = live(90, 100), [(99.0, 107.0)]
    for seen in ([*before, *live(100, 101)], [*before, *late], [*before, *late, *live(108, 113)]):
        assert outage(stamped(*seen), 100 * SECOND) is None


def test_the_first_publication_of_a_message_counts() -> None:
    class Redis:
        entries = ((b"1500-0", b"1400-0"), (b"1600-0", b"1450-1"), (b"9000-0", b"1400-0"))

        def xrange(self, key: str, start: bytes, count: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
            return (
                [(at, {b"data": b'{"message_id":"%s"}' % of}) for at, of in self.entries]
                if start == b"-"
                else []
            )

    assert published_at(Redis()).tolist() == [[1400, 1500], [1450, 1600]]


def test_growth_is_the_slope_a_minute() -> None:
    assert round(growth([10.0, 11.0, 12.0], [1.0, 3.0, 5.0]), 9) == 2
    assert growth([10.0], [1.0]) == 0


def test_memory_that_strays_after_it_should_have_settled_is_named() -> None:
    java = [50.0 + 10 * min(minute, 6) for minute in range(36)]
    samples = [
        Sample(60.0 * minute, minute, {"java": mib, "worker 1": 100.0}, 0.5 * minute)
        for minute, mib in enumerate(java)
    ]
    figures = {figure.measure: figure.value for figure in soak_figures(samples, 35)}
    assert figures["RSS of java, at minute 5"] == 100
    assert round(figures["RSS of java, highest above that (NOT within 5%)"], 9) == 10
    assert figures["RSS of worker 1, highest above that (within 5%)"] == 0
    assert (figures["lag, median"], figures["lag, most"], round(figures["checkpoint growth"], 9)) == (
        20,
        35,
        0.5,
    )


def test_latency_is_told_apart_before_and_after_the_longest_pause() -> None:
    received = np.arange(0, 2100, 2.0)  # a message every two seconds for 35 minutes
    waited = np.where(received < 1800, 0.05, np.maximum(0.1, 1810 - received))
    stamps = np.rint(np.column_stack([received, received + waited]) * SECOND).astype(np.int64)
    figures = {figure.measure: figure.value for figure in soak_latency(stamps, 35)}
    assert round(figures["longest pause of validation (renewal)"], 2) == 11.95
    assert figures["XADD to validated before the pause, p99"] == 50
    assert figures["XADD to validated a minute after the pause, p50"] == 100


def test_a_series_has_one_row_a_minute_with_every_process() -> None:
    before, after = {"java": 300.25}, {"java": 301.0, "worker 1": 90.5}
    samples = [Sample(at, 7, before if at < 60 else after, 1.5) for at in (0.0, 30.0, 60.0, 119.0)]
    assert list(series(each(samples, 60.0))) == [
        "| minute | lag | checkpoint MiB | java MiB | worker 1 MiB |",
        "|---|---|---|---|---|",
        "| 0 | 7 | 1.50 | 300 | 0 |",
        "| 1 | 7 | 1.50 | 301 | 90.5 |",
    ]
    assert [number(value) for value in (0.123, 12.34, 123.4, 46_533.0)] == ["0.12", "12.3", "123", "46,533"]
