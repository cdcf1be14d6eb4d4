"""What a stream's history remembers of one shard, and how it decides about each batch.

Batch by batch, in the order in which messages were received, `ShardMemory` gives what
`transforms.history.batch_history.apply_history` gives of all of them at once. That is possible because all
that a baseline needs has come before it is asked for, if the messages of an agent come in order: see
`transforms.history.time_rules.MAX_FUTURE_SECONDS`.

Retention. What is still to come was received at or after the watermark, and recorded at most `stale_seconds`
earlier. So the copies of a report of minute m have all come once the watermark is at (m + 1) min +
stale_seconds. The last window that m belongs to is that of minute m + 62, so the report feeds no more once
the watermark is at (m + 63) min + stale_seconds. With an hour that is 61 and 123 minutes.

Size. A report takes 24 bytes for the first span and 12 for the second, an agent about 125, and the windows of
the newest minutes at most 48 bytes for each report of the last hour. In state a report takes 32 and 20 bytes,
an agent 16 in every delta.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.readers.formats import parse_uuid
from schemas.tables import DUPLICATE, REPORT
from transforms.core.grouping import iterate_groups
from transforms.core.record_batches import BASELINED, build_batch, concat, make_empty
from transforms.core.time_units import MINUTE_US
from transforms.history.baseline import find_buckets
from transforms.history.dedup import INPUTS, deduplicate, make_duplicates
from transforms.history.rolling_window import Asked, FeedingReports, RollingWindow
from transforms.history.seen_reports import SeenReports
from transforms.history.state_codec import AGENT, FEEDING, SEEN, Contents, decode_deltas, encode_deltas
from transforms.history.time_rules import LOOKBACK_MINUTES, find_minutes, mark_late

Longs = NDArray[np.int64]
Mask = NDArray[np.bool_]

MOST_DELTAS = 1000
"""Deltas beyond which a snapshot is due."""
OUTDATED_BYTES = 1 << 20
"""Bytes of deltas that may be out of date before a snapshot is due, beside a quarter of what is kept."""


@dataclass(frozen=True)
class Admitted:
    """The result of a batch.

    `reports` (BASELINED), `duplicates` (DUPLICATE), and as `deltas` what it added to memory.
    """

    reports: pa.RecordBatch
    duplicates: pa.RecordBatch
    deltas: list[bytes]


class ShardMemory:
    """The memory of one shard, which has all reports of its agents.

    `min_samples` and `stale_seconds` are the settings.
    """

    def __init__(self, min_samples: int, stale_seconds: int) -> None:
        self.min_samples, self.stale_us = min_samples, stale_seconds * 1_000_000
        self.seen: dict[int, SeenReports] = {}
        """By minute, as long as copies may come."""
        self.window = RollingWindow()
        self.agents: dict[bytes, int] = {}
        """The code of each agent, by the 16 bytes of its UUID."""
        self.delta_count = self.delta_bytes = 0

    @classmethod
    def load(cls, deltas: Iterable[bytes], min_samples: int, stale_seconds: int) -> "ShardMemory":
        """The memory that wrote these deltas, which may be in any order.

        Raises:
            ValueError: a delta was written by another version.
        """
        memory = cls(min_samples, stale_seconds)
        parts = list(decode_deltas(memory._count(deltas)))
        if parts:
            seen_minute = np.concatenate([part.seen_minute for part in parts])
            memory._remember(seen_minute, SeenReports.concat(part.seen for part in parts))
            feeding = [
                FeedingReports(memory._code_agents(part.agents)[part.feeding.agent], part.feeding.buckets)
                for part in parts
            ]
            feeding_minute = np.concatenate([part.feeding_minute for part in parts])
            memory.window.add(feeding_minute, FeedingReports.concat(feeding))
        return memory

    def admit(self, batch: pa.RecordBatch) -> Admitted:
        """Compare a ReportBatch with what came before it and with itself, and remember it.

        A report that is known from the same message leaves no trace; one that is known from another is a
        duplicate. Within the batch `transforms.history.dedup` decides. A context row feeds and is remembered,
        but is not in the result.
        """
        if not batch.num_rows:
            return Admitted(make_empty(BASELINED), make_empty(DUPLICATE), [])
        seen, minute = SeenReports.of(batch), find_minutes(batch)
        known, repeated = self._find_known(seen, minute)
        repeated &= ~np.array(batch["context"])
        new = np.flatnonzero(~known)
        identities = batch.select(INPUTS)
        candidates = identities.take(pa.array(new)) if known.any() else identities
        unique = deduplicate(pa.Table.from_batches([candidates]))
        duplicates = unique.duplicates
        if repeated.any():
            # Each message once, however often this batch delivers it.
            _, first = np.unique(seen.message[repeated], return_index=True)
            copies = identities.take(pa.array(np.flatnonzero(repeated)[first]))
            duplicates = concat([duplicates, make_duplicates(copies)])
        rows = new[unique.rows]
        kept = batch if len(rows) == batch.num_rows else batch.take(pa.array(rows))
        reports, deltas = self._admit_new(kept, minute[rows], seen.take(rows), ~unique.context)
        return Admitted(reports, duplicates, deltas)

    def evict(self, watermark_us: int) -> None:
        """Forget what no report that was received at or after the watermark can need."""
        oldest = (watermark_us - self.stale_us) // MINUTE_US
        self.seen = {minute: seen for minute, seen in self.seen.items() if minute >= oldest}
        self.window.forget(range(min(self.window.minutes, default=oldest), oldest - LOOKBACK_MINUTES))

    def forget(self, minutes: range) -> None:
        """Forget all reports of some minutes (since 1970)."""
        self.seen = {minute: seen for minute, seen in self.seen.items() if minute not in minutes}
        self.window.forget(minutes)

    def snapshot(self) -> list[bytes]:
        """All that is remembered, as deltas that replace all earlier ones."""
        self._drop_unused_agents()
        self.delta_count = self.delta_bytes = 0
        feeding = self.window.minutes
        contents = Contents(
            list(self.agents),
            _repeat_keys({minute: len(part) for minute, part in self.seen.items()}),
            SeenReports.concat(self.seen.values()),
            _repeat_keys({minute: len(part) for minute, part in feeding.items()}),
            FeedingReports.concat(feeding.values()),
        )
        return list(self._count(encode_deltas(contents)))

    @property
    def needs_snapshot(self) -> bool:
        """Whether a snapshot should replace the deltas, which are many or hold much that is forgotten."""
        if self.expires_us is None:
            return self.delta_count > 0
        return (
            self.delta_count > MOST_DELTAS
            or self.delta_bytes > 1.25 * self._estimate_bytes() + OUTDATED_BYTES
        )

    @property
    def expires_us(self) -> int | None:
        """The watermark at which the next minute can be evicted (us); None if nothing is remembered."""
        due = [min(self.seen)] if self.seen else []
        due += [min(self.window.minutes) + LOOKBACK_MINUTES] if self.window.minutes else []
        return (min(due) + 1) * MINUTE_US + self.stale_us if due else None

    def _find_known(self, seen: SeenReports, minute: Longs) -> tuple[Mask, Mask]:
        """bool[n]: which reports are known, and which of them from another message."""
        known, repeated = np.zeros((2, len(seen)), np.bool_)
        for each, rows in iterate_groups(minute):
            if each not in self.seen:
                continue
            here, part = self.seen[each], seen.take(rows)
            place = here.find(part)
            known[rows] = place >= 0
            repeated[rows] = (place >= 0) & (here.message[place] != part.message)
        return known, repeated

    def _admit_new(
        self, reports: pa.RecordBatch, minute: Longs, seen: SeenReports, fresh: Mask
    ) -> tuple[pa.RecordBatch, list[bytes]]:
        """Remember reports, all new; BASELINED of those that are `fresh`, and the deltas of all."""
        values, buckets = find_buckets(reports)
        agents = reports["agent_id"].dictionary_encode()
        distinct = _read_uuids(agents.dictionary)
        local = agents.indices.to_numpy()
        code = self._code_agents(distinct)[local]
        feeds = ~mark_late(reports)
        self._remember(minute, seen)
        self.window.add(minute[feeds], FeedingReports(code[feeds], buckets[feeds]))
        # In a delta an agent is its place in this batch: codes are of this process.
        feeding = FeedingReports(local[feeds], buckets[feeds])
        deltas = encode_deltas(Contents(distinct, minute, seen, minute[feeds], feeding))
        rows = np.flatnonzero(fresh)
        metrics = {metric: column[rows] for metric, column in values.items()}
        asked = Asked(code[rows], minute[rows], metrics, buckets[rows])
        return self._attach_baselines(reports, rows, asked), list(self._count(deltas))

    def _attach_baselines(self, reports: pa.RecordBatch, rows: Longs, asked: Asked) -> pa.RecordBatch:
        """BASELINED of some rows (int64[k]) of reports."""
        if not len(rows):
            return make_empty(BASELINED)
        columns = self.window.compute_baselines(asked, self.min_samples)
        reports = reports if len(rows) == reports.num_rows else reports.take(pa.array(rows))
        columns |= {name: reports[name] for name in REPORT.names} | {"revision": columns["baseline_n"]}
        return build_batch(columns, BASELINED, len(rows))

    def _remember(self, minute: Longs, seen: SeenReports) -> None:
        none = SeenReports.concat([])
        for each, rows in iterate_groups(minute):
            self.seen[each] = self.seen.get(each, none).insert(seen.take(rows))

    def _code_agents(self, agents: Iterable[bytes]) -> NDArray[np.int32]:
        """int32[k]: the code of each agent, a new one if it has none."""
        known = self.agents
        return np.array([known.setdefault(agent, len(known)) for agent in agents], np.int32)

    def _drop_unused_agents(self) -> None:
        """Drop agents without feeding reports, once these are more than half of all."""
        used = np.zeros(len(self.agents), np.bool_)
        for reports in self.window.minutes.values():
            used[reports.agent] = True
        if 2 * used.sum() < len(used):
            names = list(self.agents)
            self.agents = {names[each]: code for code, each in enumerate(np.flatnonzero(used).tolist())}
            self.window.renumber(np.cumsum(used) - 1)

    def _count(self, deltas: Iterable[bytes]) -> Iterator[bytes]:
        for delta in deltas:
            self.delta_count += 1
            self.delta_bytes += len(delta)
            yield delta

    def _estimate_bytes(self) -> int:
        """About how many bytes a snapshot takes."""
        seen = sum(map(len, self.seen.values()))
        return seen * SEEN.itemsize + len(self.window) * FEEDING.itemsize + len(self.agents) * AGENT.itemsize


def _read_uuids(agent_ids: pa.Array) -> list[bytes]:
    """The 16 bytes of each agent_id, which is a UUID by its schema."""
    return parse_uuid(agent_ids)[0].astype(">u8").view(AGENT).ravel().tolist()


def _repeat_keys(counts: dict[int, int]) -> Longs:
    """Each key as often as its count says."""
    return np.repeat(np.array(list(counts), np.int64), list(counts.values()))
