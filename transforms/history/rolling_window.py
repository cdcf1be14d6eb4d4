"""Baselines in a stream: the reports that feed, minute by minute, and the windows that are asked of them.

What `transforms.history.baseline` computes for all reports at once is computed here for a few, from the buckets of the past hours: the
same ranks in the same buckets give the same floats. A window is a sorted array of (report's place in the question, bucket), so a
quantile is an index into it and a rank a binary search. The newest minutes, which nearly all reports ask about, are sorted once
for all agents and kept; for any other minute only the agents that ask are gathered.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.tables import METRIC_COLUMNS, METRICS
from transforms.core.histogram_scales import SCALES
from transforms.history.baseline import (
    FLAT,
    NORMAL_IQR,
    READY,
    STATES,
    WARMUP,
    compute_quartiles,
    interpolate,
)
from transforms.history.time_rules import GAP_MINUTES, REACH_MINUTES
from transforms.history.wavelet_matrix import Counted, Found

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]

KEPT = 3
"""Newest minutes whose windows are kept for all agents: clocks differ and messages are on their way by about a minute."""
BITS = 13
"""Bits of a bucket in the key of a window: the largest scale has 4,156 buckets."""
_BUCKET = (1 << BITS) - 1
_QUARTERS = {metric: (1, 2, 3) if metric == "latency" else (1, 3) for metric in METRICS}


@dataclass
class FeedingReports:
    """The reports of one minute that feed: `agent` int32[n], its code, and `buckets` int16[n, 4], in the order of METRICS."""

    agent: NDArray[np.int32]
    buckets: NDArray[np.int16]
    by_agent: bool = False

    @classmethod
    def joined(cls, parts: Iterable["FeedingReports"]) -> "FeedingReports":
        """The reports of all parts, in their order."""
        agents, buckets = [np.zeros(0, np.int32)], [np.zeros((0, len(METRICS)), np.int16)]
        for part in parts:
            agents.append(part.agent)
            buckets.append(part.buckets)
        return cls(np.concatenate(agents), np.concatenate(buckets))

    def __len__(self) -> int:
        return len(self.agent)

    def sort(self) -> None:
        """Put the reports in the order of their agents."""
        if not self.by_agent:
            order = np.argsort(self.agent, kind="stable")
            self.agent, self.buckets, self.by_agent = self.agent[order], self.buckets[order], True


class Window:
    """Reports in groups, each with the buckets of every metric in order; `agent` is the number of the group."""

    def __init__(self, grouped: FeedingReports) -> None:
        wide = grouped.agent.max(initial=0) >= 1 << (32 - BITS)
        group = grouped.agent.astype(np.uint64 if wide else np.uint32) * (1 << BITS)
        self.keys: list[NDArray[np.unsignedinteger]] = [
            np.sort(group | column.astype(group.dtype)) for column in grouped.buckets.T
        ]

    def __len__(self) -> int:
        return len(self.keys[0])

    def spans(self, groups: Longs) -> tuple[Longs, Longs]:
        """int64[g] first and end: where the groups lie. It is the same for every metric."""
        return self._search(0, groups << BITS), self._search(0, (groups << BITS) | _BUCKET, "right")

    def nth(self, metric: int, places: Longs) -> Found:
        """What lies at `places`, with its place among its equals of the group and their number."""
        keys = self.keys[metric]
        found = keys[places]
        first, end = np.searchsorted(keys, found), np.searchsorted(keys, found, "right")
        return Found((found & keys.dtype.type(_BUCKET)).astype(np.int32), places - first, end - first)

    def rank(self, metric: int, groups: Longs, first: Longs, buckets: Longs) -> Counted:
        """How many of each group, whose first place is given, lie below a bucket, and how many in it."""
        keys = (groups << BITS) | buckets
        low, high = self._search(metric, keys), self._search(metric, keys, "right")
        return Counted(low - first, high - low)

    def _search(self, metric: int, keys: Longs, side: str = "left") -> Longs:
        return np.searchsorted(self.keys[metric], keys.astype(self.keys[metric].dtype), side)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Asked:
    """Reports to be judged: `agent` int32[n] (its code), `minute` int64[n], float64[n] of each metric, buckets int16[n, 4]."""

    agent: NDArray[np.int32]
    minute: Longs
    values: dict[str, Floats]
    buckets: NDArray[np.int16]


class RollingWindow:
    """The reports of one shard that feed baselines, as far as they are still asked for."""

    def __init__(self) -> None:
        self.minutes: dict[int, FeedingReports] = {}
        self._windows: dict[int, Window] = {}
        self._newest = -(1 << 62)

    def __len__(self) -> int:
        return sum(len(fed) for fed in self.minutes.values())

    def feed(self, minute: Longs, fed: FeedingReports) -> None:
        """Take in reports, with the minute of each (int64[n])."""
        for each, rows in by_value(minute):
            part = FeedingReports(fed.agent[rows], fed.buckets[rows])
            self.minutes[each] = (
                FeedingReports.joined([self.minutes[each], part]) if each in self.minutes else part
            )

    def forget(self, minutes: range) -> None:
        """Drop the reports of some minutes."""
        if any(minute in minutes for minute in self.minutes):
            self.minutes = {minute: fed for minute, fed in self.minutes.items() if minute not in minutes}
            apart = {
                each
                for each in self._windows
                if each - REACH_MINUTES >= minutes.stop or each - GAP_MINUTES <= minutes.start
            }
            self._windows = {each: window for each, window in self._windows.items() if each in apart}

    def renumber(self, codes: Longs) -> None:
        """Give each agent another code, `codes[old]`, in the same order."""
        for fed in self.minutes.values():
            fed.agent = codes[fed.agent].astype(np.int32)
        self._windows = {}

    def judge(self, asked: Asked, min_samples: int) -> dict[str, pa.Array]:
        """The columns of `schemas.tables.BASELINE` of each report: see `transforms.history.baseline.baseline`."""
        pairs, of_row = np.unique((asked.minute << 32) + asked.agent, return_inverse=True)
        answers = _Answers(asked, of_row, len(pairs), min_samples)
        minutes, agents = pairs >> 32, pairs & 0xFFFFFFFF
        self._newest = max(self._newest, int(minutes.max(initial=self._newest)))
        recent = minutes > self._newest - KEPT
        for minute in np.unique(minutes[recent]).tolist():
            here = np.flatnonzero(minutes == minute)
            answers.add(here, agents[here], self._window(minute))
        if not recent.all():
            older = np.flatnonzero(~recent)
            answers.add(older, np.arange(len(older)), self._gathered(minutes[older], agents[older]))
        return answers.columns()

    def _window(self, minute: int) -> Window:
        """The window of a minute, of all agents, whose codes are the groups."""
        fed = [
            self.minutes[each]
            for each in range(minute - REACH_MINUTES, minute - GAP_MINUTES)
            if each in self.minutes
        ]
        window = self._windows.get(minute)
        if window is None or len(window) != sum(len(each) for each in fed):
            window = Window(FeedingReports.joined(fed))
            self._windows = {each: kept for each, kept in self._windows.items() if each > self._newest - KEPT}
            self._windows[minute] = window
        return window

    def _gathered(self, minutes: Longs, agents: Longs) -> Window:
        """The windows of some minutes (ascending) and agents, each a group by its place."""
        found = []
        for minute, fed in self.minutes.items():
            start, stop = np.searchsorted(
                minutes, (minute + GAP_MINUTES, minute + REACH_MINUTES), "right"
            ).tolist()
            if start == stop:
                continue
            fed.sort()
            wanted = agents[start:stop].astype(np.int32)
            first, end = np.searchsorted(fed.agent, wanted), np.searchsorted(fed.agent, wanted, "right")
            counts = end - first
            groups = np.repeat(np.arange(start, stop, dtype=np.int32), counts)
            if len(groups):
                rows = np.arange(len(groups)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
                found.append(FeedingReports(groups, fed.buckets[rows]))
        return Window(FeedingReports.joined(found))


class _Answers:
    """The baselines of the (minute, agent) pairs that are asked for, and of their reports, filled in one window after another."""

    def __init__(self, asked: Asked, of_row: Longs, pairs: int, min_samples: int) -> None:
        self.asked, self.of_row, self.min_samples = asked, of_row, min_samples
        self.samples = np.zeros(pairs, np.int64)
        self.states = {metric: np.full(pairs, WARMUP, np.int8) for metric in METRICS}
        self.quartiles = {
            (metric, quarter): np.full(pairs, np.nan) for metric in METRICS for quarter in _QUARTERS[metric]
        }
        self.percentiles = np.full(len(of_row), np.nan)

    def add(self, pairs: Longs, groups: Longs, window: Window) -> None:
        """Fill in pairs whose reports are `groups` of a window."""
        first, end = window.spans(groups)
        samples = end - first
        self.samples[pairs] = samples
        enough = samples >= self.min_samples
        if not enough.any():
            return
        pairs, groups, first, samples = pairs[enough], groups[enough], first[enough], samples[enough]
        for place, metric in enumerate(METRICS):
            scale = SCALES[metric]
            found = {q: window.nth(place, first + (q * samples + 3) // 4 - 1) for q in _QUARTERS[metric]}
            q1, q3, flat = compute_quartiles(scale, found[1], found[3])
            self.quartiles[metric, 1][pairs], self.quartiles[metric, 3][pairs] = q1, q3
            self.states[metric][pairs] = np.where(flat, FLAT, READY)
            if 2 in found:
                self.quartiles[metric, 2][pairs] = interpolate(scale, found[2])
        self._rank(pairs, groups, first, window)

    def _rank(self, pairs: Longs, groups: Longs, first: Longs, window: Window) -> None:
        place_of = np.full(len(self.samples), -1)
        place_of[pairs] = np.arange(len(pairs))
        rows = np.flatnonzero(place_of[self.of_row] >= 0)
        place = place_of[self.of_row[rows]]
        accuracy = METRICS.index("accuracy")
        counted = window.rank(
            accuracy, groups[place], first[place], self.asked.buckets[rows, accuracy].astype(np.int64)
        )
        self.percentiles[rows] = 100 * (counted.smaller + counted.equals / 2) / self.samples[pairs[place]]

    def columns(self) -> dict[str, pa.Array]:
        floats: dict[str, Floats] = {"accuracy_percentile": self.percentiles}
        for metric in METRICS:
            floats |= {f"{metric}_q{q}": self.quartiles[metric, q][self.of_row] for q in (1, 3)}
        q1, median, q3 = (self.quartiles["latency", q] for q in (1, 2, 3))
        sigma = np.where(self.states["latency"] == READY, (q3 - q1) / NORMAL_IQR, np.nan)
        floats["latency_zscore"] = (self.asked.values["latency"] - median[self.of_row]) / sigma[self.of_row]
        columns = {name: pa.array(column, from_pandas=True) for name, column in floats.items()}
        states = {
            f"{metric}_baseline_state": STATES.take(pa.array(self.states[metric][self.of_row]))
            for metric in METRICS
        }
        return columns | states | {"baseline_n": pa.array(self.samples[self.of_row])}


def find_buckets(reports: pa.Table | pa.RecordBatch) -> tuple[dict[str, Floats], NDArray[np.int16]]:
    """The metrics of reports, float64[n] each, and their buckets, int16[n, 4]."""
    values = {metric: reports[METRIC_COLUMNS[metric]].to_numpy() for metric in METRICS}
    return values, np.stack(
        [SCALES[metric].index(values[metric]).astype(np.int16) for metric in METRICS], axis=1
    )


def by_value(values: Longs) -> Iterator[tuple[int, NDArray[np.int64] | slice]]:
    """Each value, ascending, with its rows in their order."""
    if len(values) and values[0] == values[-1] and (values == values[0]).all():
        yield int(values[0]), slice(None)
        return
    order = np.argsort(values, kind="stable")
    found, starts = np.unique(values[order], return_index=True)
    for value, start, end in zip(found.tolist(), starts.tolist(), [*starts[1:].tolist(), len(order)]):
        yield value, order[start:end]
