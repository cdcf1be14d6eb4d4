"""Baselines in a stream: the reports that feed, minute by minute, and the windows over them.

What `transforms.history.baseline` computes for all reports at once is computed here for a few, from the
buckets of the past hours. The same ranks in the same buckets give the same floats.

A window is a sorted array of (group, bucket), so a quantile is an index into it and a rank a binary search.
The newest minutes, which nearly all reports ask for, are sorted once for all agents and kept. For any other
minute only the reports of the agents that ask are gathered.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.tables import METRICS
from transforms.core.grouping import group_rows, iterate_groups
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
from transforms.history.time_rules import GAP_MINUTES, LOOKBACK_MINUTES
from transforms.history.wavelet_matrix import NthValues, RankCounts

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]

KEPT_WINDOWS = 3
"""Newest minutes whose windows are kept for all agents: clocks differ, and messages take up to about a minute
to arrive."""
BITS = 13
"""Bits of a bucket in the key of a window: the largest scale has 4,156 buckets."""
_BUCKET = (1 << BITS) - 1
_QUARTERS = {metric: (1, 2, 3) if metric == "latency" else (1, 3) for metric in METRICS}


@dataclass
class FeedingReports:
    """Reports that feed.

    `agent` int32[n] is the agent's code, `buckets` int16[n, 4] in the order of METRICS.

    `by_agent` says whether they are sorted by agent.
    """

    agent: NDArray[np.int32]
    buckets: NDArray[np.int16]
    by_agent: bool = False

    @classmethod
    def concat(cls, parts: Iterable["FeedingReports"]) -> "FeedingReports":
        """The reports of all parts, in their order."""
        agents, buckets = [np.zeros(0, np.int32)], [np.zeros((0, len(METRICS)), np.int16)]
        for part in parts:
            agents.append(part.agent)
            buckets.append(part.buckets)
        return cls(np.concatenate(agents), np.concatenate(buckets))

    def __len__(self) -> int:
        return len(self.agent)

    def sort_by_agent(self) -> None:
        """Put the reports in the order of their agents, once."""
        if not self.by_agent:
            order = np.argsort(self.agent, kind="stable")
            self.agent, self.buckets, self.by_agent = self.agent[order], self.buckets[order], True


class Window:
    """Reports in groups, with the buckets of each metric in order within a group.

    `agent` of the reports numbers the groups.
    """

    def __init__(self, grouped: FeedingReports) -> None:
        # Group and bucket in one integer: a plain sort orders both. 32 bits, where they are enough, sort
        # faster.
        wide = grouped.agent.max(initial=0) >= 1 << (32 - BITS)
        group = grouped.agent.astype(np.uint64 if wide else np.uint32) * (1 << BITS)
        self.keys: list[NDArray[np.unsignedinteger]] = [
            np.sort(group | column.astype(group.dtype)) for column in grouped.buckets.T
        ]

    def __len__(self) -> int:
        return len(self.keys[0])

    def find_groups(self, groups: Longs) -> tuple[Longs, Longs]:
        """int64[g]: the first place of each group, and the place after its last.

        The same for every metric.
        """
        return self._search(0, groups << BITS), self._search(0, (groups << BITS) | _BUCKET, "right")

    def read(self, metric: int, places: Longs) -> NthValues:
        """The bucket at each of `places` (int64[m]), its place among its equals, and their number.

        Equals are the same bucket of the same group.
        """
        keys = self.keys[metric]
        found = keys[places]
        first, end = np.searchsorted(keys, found), np.searchsorted(keys, found, "right")
        return NthValues((found & keys.dtype.type(_BUCKET)).astype(np.int32), places - first, end - first)

    def rank(self, metric: int, groups: Longs, first: Longs, buckets: Longs) -> RankCounts:
        """How many of each group are below a bucket, and how many in it.

        `first` is the first place of the group. All int64[m].
        """
        keys = (groups << BITS) | buckets
        low, high = self._search(metric, keys), self._search(metric, keys, "right")
        return RankCounts(low - first, high - low)

    def _search(self, metric: int, keys: Longs, side: str = "left") -> Longs:
        ordered = self.keys[metric]
        return np.searchsorted(ordered, keys.astype(ordered.dtype), side)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Asked:
    """Reports whose baselines are asked for.

    `agent` int32[n] (its code), `minute` int64[n], `values` float64[n] of each metric, `buckets` int16[n, 4].
    """

    agent: NDArray[np.int32]
    minute: Longs
    values: dict[str, Floats]
    buckets: NDArray[np.int16]


class RollingWindow:
    """The feeding reports of one shard, by minute, as long as a baseline may still need them."""

    def __init__(self) -> None:
        self.minutes: dict[int, FeedingReports] = {}
        self._windows: dict[int, Window] = {}
        self._newest = -(1 << 62)

    def __len__(self) -> int:
        return sum(len(reports) for reports in self.minutes.values())

    def add(self, minute: Longs, reports: FeedingReports) -> None:
        """Take in reports, with the minute of each (int64[n])."""
        for each, rows in iterate_groups(minute):
            part = FeedingReports(reports.agent[rows], reports.buckets[rows])
            known = self.minutes.get(each)
            self.minutes[each] = part if known is None else FeedingReports.concat([known, part])

    def forget(self, minutes: range) -> None:
        """Drop the reports of some minutes, and the windows that hold one of these."""
        if any(minute in minutes for minute in self.minutes):
            self.minutes = {minute: part for minute, part in self.minutes.items() if minute not in minutes}
            self._windows = {
                minute: window
                for minute, window in self._windows.items()
                if minute - LOOKBACK_MINUTES >= minutes.stop or minute - GAP_MINUTES <= minutes.start
            }

    def renumber(self, codes: Longs) -> None:
        """Give each agent another code, `codes[old]`; the order of codes stays."""
        for reports in self.minutes.values():
            reports.agent = codes[reports.agent].astype(np.int32)
        self._windows = {}

    def compute_baselines(self, asked: Asked, min_samples: int) -> dict[str, pa.Array]:
        """The BASELINE columns of each report, as of `transforms.history.baseline.compute_baselines`."""
        # Minute and agent in one integer, so that one sort finds the distinct windows.
        key = (asked.minute << 32) + asked.agent
        distinct = group_rows(key)
        pairs = key[distinct.picks]
        baselines = _Baselines(asked, distinct.ids, len(pairs), min_samples)
        minutes, agents = pairs >> 32, pairs & 0xFFFFFFFF
        self._newest = max(self._newest, int(minutes.max(initial=self._newest)))
        recent = minutes > self._newest - KEPT_WINDOWS
        for minute in np.unique(minutes[recent]).tolist():
            here = np.flatnonzero(minutes == minute)
            baselines.fill(here, agents[here], self._window_of_all(minute))
        if not recent.all():
            older = np.flatnonzero(~recent)
            baselines.fill(older, np.arange(len(older)), self._window_of_pairs(minutes[older], agents[older]))
        return baselines.build_columns()

    def _window_of_all(self, minute: int) -> Window:
        """The window of a minute, of all agents, whose codes number the groups."""
        window_minutes = range(minute - LOOKBACK_MINUTES, minute - GAP_MINUTES)
        parts = [self.minutes[each] for each in window_minutes if each in self.minutes]
        window = self._windows.get(minute)
        if window is None or len(window) != sum(map(len, parts)):
            window = Window(FeedingReports.concat(parts))
            oldest = self._newest - KEPT_WINDOWS
            self._windows = {each: kept for each, kept in self._windows.items() if each > oldest}
            self._windows[minute] = window
        return window

    def _window_of_pairs(self, minutes: Longs, agents: Longs) -> Window:
        """The windows of some pairs of minute (int64[p], ascending) and agent (int64[p]).

        A pair's place numbers its group.
        """
        found = []
        for minute, reports in self.minutes.items():
            # The pairs whose window holds this minute are neighbours, since minutes ascend.
            bounds = (minute + GAP_MINUTES, minute + LOOKBACK_MINUTES)
            start, stop = np.searchsorted(minutes, bounds, "right").tolist()
            if start == stop:
                continue
            reports.sort_by_agent()
            wanted = agents[start:stop].astype(np.int32)
            first, end = (
                np.searchsorted(reports.agent, wanted),
                np.searchsorted(reports.agent, wanted, "right"),
            )
            counts = end - first
            groups = np.repeat(np.arange(start, stop, dtype=np.int32), counts)
            if len(groups):
                # Concatenates the ranges [first, end) of all pairs without a loop.
                rows = np.arange(len(groups)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
                found.append(FeedingReports(groups, reports.buckets[rows]))
        return Window(FeedingReports.concat(found))


class _Baselines:
    """The baselines of distinct (minute, agent) pairs and of their reports, filled in window by window."""

    def __init__(self, asked: Asked, of_row: Longs, pairs: int, min_samples: int) -> None:
        self.asked, self.of_row, self.min_samples = asked, of_row, min_samples
        self.samples = np.zeros(pairs, np.int64)
        self.states = {metric: np.full(pairs, WARMUP, np.int8) for metric in METRICS}
        self.quartiles = {
            (metric, quarter): np.full(pairs, np.nan) for metric in METRICS for quarter in _QUARTERS[metric]
        }
        self.percentiles = np.full(len(of_row), np.nan)

    def fill(self, pairs: Longs, groups: Longs, window: Window) -> None:
        """Fill in some pairs from a window.

        `pairs` (int64[p]) are places among all pairs, `groups` (int64[p]) their groups in the window.
        """
        first, end = window.find_groups(groups)
        samples = end - first
        self.samples[pairs] = samples
        enough = samples >= self.min_samples
        if not enough.any():
            return
        pairs, groups, first, samples = pairs[enough], groups[enough], first[enough], samples[enough]
        for place, metric in enumerate(METRICS):
            scale = SCALES[metric]
            # Rank ceil(q n / 4), counted from 0: see the definition of a quantile in
            # `transforms.history.baseline`.
            found = {q: window.read(place, first + (q * samples + 3) // 4 - 1) for q in _QUARTERS[metric]}
            q1, q3, flat = compute_quartiles(scale, found[1], found[3])
            self.quartiles[metric, 1][pairs], self.quartiles[metric, 3][pairs] = q1, q3
            self.states[metric][pairs] = np.where(flat, FLAT, READY)
            if 2 in found:
                self.quartiles[metric, 2][pairs] = interpolate(scale, found[2])
        self._fill_percentiles(pairs, groups, first, window)

    def _fill_percentiles(self, pairs: Longs, groups: Longs, first: Longs, window: Window) -> None:
        place_of = np.full(len(self.samples), -1)
        place_of[pairs] = np.arange(len(pairs))
        rows = np.flatnonzero(place_of[self.of_row] >= 0)
        place = place_of[self.of_row[rows]]
        accuracy = METRICS.index("accuracy")
        buckets = self.asked.buckets[rows, accuracy].astype(np.int64)
        counted = window.rank(accuracy, groups[place], first[place], buckets)
        self.percentiles[rows] = 100 * (counted.smaller + counted.equals / 2) / self.samples[pairs[place]]

    def build_columns(self) -> dict[str, pa.Array]:
        """The columns of BASELINE, a row for each report asked for."""
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
