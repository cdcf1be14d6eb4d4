"""When aggregates are emitted: granularities, their Beam windows, and the triggers of these.

The granularity is a column of an aggregate, so a Beam window decides only when its rows are emitted.
"""

from dataclasses import dataclass

import apache_beam as beam
from apache_beam.transforms.trigger import AccumulationMode, AfterProcessingTime, AfterWatermark
from apache_beam.transforms.window import FixedWindows
from apache_beam.utils.timestamp import Duration

from schemas.tables import GRANULARITIES

LATE_PANE_SECONDS = 10
"""Late reports of a window are emitted in one pane, this long after the first of them."""


@dataclass(frozen=True)
class Windows:
    """Granularities that are emitted at the same time.

    Attributes: granularities: their names, finest first. into: fixed windows of the last granularity's
    length, accumulating; None keeps the windows that the reports are in. gather_seconds: how long partials
    are gathered and merged before they enter the windows, because each pane reads all of its window again;
    None for not at all. shards: of a batch, how many blocks the agents of the same hours are divided into.
    """

    granularities: tuple[str, ...]
    into: beam.WindowInto | None = None
    gather_seconds: int | None = None
    shards: int = 1


def make_batch_windows(shards: int = 1) -> tuple[Windows, ...]:
    """Every granularity, once: a batch of reports has all reports of some hours, of a shard at least."""
    return (Windows(tuple(GRANULARITIES), shards=shards),)


def make_stream_windows(gather_seconds: int, lateness_seconds: int) -> tuple[Windows, ...]:
    """Each granularity in windows of its own, which are emitted when the watermark passes their end.

    Windows of 1 min and 1 h are also emitted before their end, so that the running hour can be seen. Late
    reports, up to `lateness_seconds` after the window's end, make a further pane, which supersedes the ones
    before.
    """
    return tuple(
        Windows((name,), _make_fixed_windows(seconds, early, lateness_seconds), gathered)
        for (name, seconds), early, gathered in zip(
            GRANULARITIES.items(),
            (None, 2 * gather_seconds, 1),
            (gather_seconds, gather_seconds, 3 * gather_seconds),
        )
    )


def _make_fixed_windows(seconds: int, early: int | None, lateness_seconds: int) -> beam.WindowInto:
    """Windows of a number of seconds.

    `early`: seconds of processing time between panes before the window's end.
    """
    return beam.WindowInto(
        FixedWindows(seconds),
        trigger=AfterWatermark(
            early=None if early is None else AfterProcessingTime(early),
            late=AfterProcessingTime(LATE_PANE_SECONDS),
        ),
        allowed_lateness=Duration(lateness_seconds),
        accumulation_mode=AccumulationMode.ACCUMULATING,
    )
