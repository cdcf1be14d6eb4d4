"""What history remembers of one shard in a stream, and how it judges each batch by it.

Batch by batch, in the order in which messages were received, `Recent` gives what `transforms.history.history.judge` gives of all of them
at once. A report of minute m is judged by the minutes [m - 62, m - 2). What feeds them was received within a minute of being
recorded, so before minute m - 1; a report of minute m is received no earlier, since none is recorded more than a minute ahead.
So what a window needs has come before it is asked for, if the messages of an agent come in order.

Retention. What is still to come was received at or after the watermark, and recorded at most `stale_seconds` earlier. So the copies
of a report of minute m have all come once the watermark is at (m + 1) min + stale_seconds, and as the last window that m belongs to
is that of minute m + 62, its buckets are no longer asked for once it is at (m + 63) min + stale_seconds. With an hour that is 61
and 123 minutes. A report takes 24 bytes for the first span and 12 for the second, an agent about 125, and the windows of the newest
minutes at most 48 bytes for each report of the last hour. In state a report takes 32 and 20 bytes, an agent 16 in every delta.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.readers.formats import parse_uuid
from schemas.tables import DUPLICATE, REPORT
from transforms.core.record_batches import BASELINED, build_batch, concat, make_empty
from transforms.history import dedup
from transforms.history.rolling_window import Asked, FeedingReports, RollingWindow, by_value, find_buckets
from transforms.history.seen_reports import SeenReports
from transforms.history.state_codec import AGENT, FED, SEEN, Remembered, decode_deltas, encode_deltas
from transforms.history.time_rules import MINUTE_US, REACH_MINUTES, find_minutes, mark_late

Longs = NDArray[np.int64]
Mask = NDArray[np.bool_]

PIECES = 1000
"""Deltas beyond which a snapshot is due."""
SLACK = 1 << 20
"""Bytes of deltas that may be out of date before a snapshot is due, beside a quarter of what is remembered."""


@dataclass(frozen=True)
class Admitted:
    """What became of a batch: `reports` (BASELINED), `duplicates` (DUPLICATE), and what it added to memory, as `deltas`."""

    reports: pa.RecordBatch
    duplicates: pa.RecordBatch
    deltas: list[bytes]


class ShardMemory:
    """The memory of one shard; an agent's reports are all in one. `min_samples` and `stale_seconds` are the settings."""

    def __init__(self, min_samples: int, stale_seconds: int) -> None:
        self.min_samples, self.stale_us = min_samples, stale_seconds * 1_000_000
        self.seen: dict[int, SeenReports] = {}
        self.feeding = RollingWindow()
        self.agents: dict[bytes, int] = {}
        self.pieces = self.stored = 0

    @classmethod
    def load(cls, deltas: Iterable[bytes], min_samples: int, stale_seconds: int) -> "ShardMemory":
        """The memory that deltas tell of, in any order.

        Raises:
            ValueError: a delta was written by another version.
        """
        recent = cls(min_samples, stale_seconds)
        parts = list(decode_deltas(recent._counted(deltas)))
        if parts:
            recent._remember(
                np.concatenate([part.seen_minute for part in parts]),
                SeenReports.joined(part.seen for part in parts),
            )
            fed = (
                FeedingReports(recent._codes(part.agents)[part.fed.agent], part.fed.buckets) for part in parts
            )
            recent.feeding.feed(
                np.concatenate([part.fed_minute for part in parts]), FeedingReports.joined(fed)
            )
        return recent

    def admit(self, batch: pa.RecordBatch) -> Admitted:
        """Judge a ReportBatch by what came before it and by itself, and remember it.

        A report that is known from the same message leaves no trace, one that is known from another is a duplicate. Within the
        batch `transforms.history.dedup` decides. A context row feeds and is remembered; it does not come out.
        """
        if not batch.num_rows:
            return Admitted(make_empty(BASELINED), make_empty(DUPLICATE), [])
        seen, minute = SeenReports.of(batch), find_minutes(batch)
        known, lost = self._known(seen, minute)
        lost &= ~np.array(batch["context"])
        new = np.flatnonzero(~known)
        identities = batch.select(dedup.INPUTS)
        unique = dedup.deduplicate(
            pa.Table.from_batches([identities.take(pa.array(new)) if known.any() else identities])
        )
        duplicates = unique.duplicates
        if lost.any():
            _, each = np.unique(seen.message[lost], return_index=True)
            duplicates = concat(
                [duplicates, _duplicates(identities.take(pa.array(np.flatnonzero(lost)[each])))]
            )
        rows = new[unique.rows]
        standing = batch if len(rows) == batch.num_rows else batch.take(pa.array(rows))
        return self._judged(standing, minute[rows], seen.take(rows), ~unique.context, duplicates)

    def evict(self, watermark_us: int) -> None:
        """Forget what no report that was received at or after the watermark can ask for."""
        oldest = (watermark_us - self.stale_us) // MINUTE_US
        self.seen = {minute: seen for minute, seen in self.seen.items() if minute >= oldest}
        self.feeding.forget(range(min(self.feeding.minutes, default=oldest), oldest - REACH_MINUTES))

    def forget(self, minutes: range) -> None:
        """Forget all reports of some minutes (since 1970)."""
        self.seen = {minute: seen for minute, seen in self.seen.items() if minute not in minutes}
        self.feeding.forget(minutes)

    def snapshot(self) -> list[bytes]:
        """All that is remembered, as deltas that take the place of all before."""
        self._renumber()
        self.pieces = self.stored = 0
        seen, fed = self.seen, self.feeding.minutes
        whole = Remembered(
            list(self.agents),
            _repeated({minute: len(each) for minute, each in seen.items()}),
            SeenReports.joined(seen.values()),
            _repeated({minute: len(each) for minute, each in fed.items()}),
            FeedingReports.joined(fed.values()),
        )
        return list(self._counted(encode_deltas(whole)))

    @property
    def needs_snapshot(self) -> bool:
        """Whether its deltas hold so much that is forgotten, or are so many, that a snapshot should take their place."""
        if self.expires_us is None:
            return self.pieces > 0
        return self.pieces > PIECES or self.stored > 1.25 * self._size() + SLACK

    @property
    def expires_us(self) -> int | None:
        """The watermark at which the next minute can be evicted (us); None if nothing is remembered."""
        due = [min(self.seen)] if self.seen else []
        due += [min(self.feeding.minutes) + REACH_MINUTES] if self.feeding.minutes else []
        return (min(due) + 1) * MINUTE_US + self.stale_us if due else None

    def _known(self, seen: SeenReports, minute: Longs) -> tuple[Mask, Mask]:
        """bool[n]: which reports are known, and which of them from another message."""
        known, lost = np.zeros((2, len(seen)), np.bool_)
        for each, rows in by_value(minute):
            if each not in self.seen:
                continue
            here, part = self.seen[each], seen.take(rows)
            place = here.find(part)
            known[rows] = place >= 0
            lost[rows] = (place >= 0) & (here.message[place] != part.message)
        return known, lost

    def _judged(
        self,
        reports: pa.RecordBatch,
        minute: Longs,
        seen: SeenReports,
        fresh: Mask,
        duplicates: pa.RecordBatch,
    ) -> Admitted:
        """Remember reports, all new, and judge those of them that are `fresh`."""
        values, buckets = find_buckets(reports)
        agents = reports["agent_id"].dictionary_encode()
        distinct = _uuids(agents.dictionary)
        local = agents.indices.to_numpy()
        code = self._codes(distinct)[local]
        feeds = ~mark_late(reports)
        self._remember(minute, seen)
        self.feeding.feed(minute[feeds], FeedingReports(code[feeds], buckets[feeds]))
        added = Remembered(
            distinct, minute, seen, minute[feeds], FeedingReports(local[feeds], buckets[feeds])
        )
        deltas = list(self._counted(encode_deltas(added)))
        rows = np.flatnonzero(fresh)
        asked = Asked(
            code[rows],
            minute[rows],
            {metric: column[rows] for metric, column in values.items()},
            buckets[rows],
        )
        return Admitted(self._baselined(reports, rows, asked), duplicates, deltas)

    def _baselined(self, reports: pa.RecordBatch, rows: Longs, asked: Asked) -> pa.RecordBatch:
        if not len(rows):
            return make_empty(BASELINED)
        columns = self.feeding.judge(asked, self.min_samples)
        reports = reports if len(rows) == reports.num_rows else reports.take(pa.array(rows))
        columns |= {name: reports[name] for name in REPORT.names} | {"revision": columns["baseline_n"]}
        return build_batch(columns, BASELINED, len(rows))

    def _remember(self, minute: Longs, seen: SeenReports) -> None:
        none = SeenReports(*np.zeros((3, 0), np.uint64))
        for each, rows in by_value(minute):
            self.seen[each] = self.seen.get(each, none).plus(seen.take(rows))

    def _codes(self, agents: Iterable[bytes]) -> NDArray[np.int32]:
        """int32[k]: the number of each agent, a new one if it has none."""
        known = self.agents
        return np.array([known.setdefault(agent, len(known)) for agent in agents], np.int32)

    def _renumber(self) -> None:
        """Forget agents of whom nothing is remembered, once they are the most."""
        used = np.zeros(len(self.agents), np.bool_)
        for fed in self.feeding.minutes.values():
            used[fed.agent] = True
        if 2 * used.sum() < len(used):
            names = list(self.agents)
            self.agents = {names[each]: code for code, each in enumerate(np.flatnonzero(used).tolist())}
            self.feeding.renumber(np.cumsum(used) - 1)

    def _counted(self, deltas: Iterable[bytes]) -> Iterator[bytes]:
        for delta in deltas:
            self.pieces += 1
            self.stored += len(delta)
            yield delta

    def _size(self) -> int:
        """About how many bytes a snapshot takes."""
        seen = sum(map(len, self.seen.values()))
        return seen * SEEN.itemsize + len(self.feeding) * FED.itemsize + len(self.agents) * AGENT.itemsize


def _uuids(agent_ids: pa.Array) -> list[bytes]:
    """The 16 bytes of each agent_id, which schemas hold to be a UUID."""
    return parse_uuid(agent_ids)[0].astype(">u8").view(AGENT).ravel().tolist()


def _repeated(counts: dict[int, int]) -> Longs:
    """Each key as often as its count says."""
    return np.repeat(np.array(list(counts), np.int64), list(counts.values()))


def _duplicates(copies: pa.RecordBatch) -> pa.RecordBatch:
    columns = {name: copies[name] for name in DUPLICATE.names if name in dedup.INPUTS}
    return build_batch(
        columns | {"revision": pa.array(np.ones(copies.num_rows, np.int64))}, DUPLICATE, copies.num_rows
    )
