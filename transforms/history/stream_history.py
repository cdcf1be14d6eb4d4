"""History of a stream: the same rows as from `transforms.history.batch_history`, batch by batch.

What it needs of earlier batches is kept as state. `transforms.history.shard_memory` decides; this module is
the Beam side: state, timer, recall of stored reports.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.coders import BytesCoder, TupleCoder, VarIntCoder
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.shared import Shared
from apache_beam.utils.timestamp import Timestamp

from transforms.core.record_batches import concat, split_by_rows
from transforms.core.stage_counters import time_stage
from transforms.history.history_outputs import OUTPUT_ROWS, TAGS, Fault, quarantine_faults
from transforms.history.recall import find_missing_hours, find_needed_hours, merge_hours
from transforms.history.shard_memory import Admitted, ShardMemory
from transforms.history.time_rules import GAP_MINUTES, HOUR_MINUTES, LOOKBACK_MINUTES, MAX_FUTURE_SECONDS
from transforms.validation.quarantine_rows import bisect_faults

RecallHours = Callable[[int, range, bool], Iterable[pa.RecordBatch]]
"""The stored reports of a shard, of some hours (since 1970) and, if asked for, of the minutes before as
context: see `transforms.history.recall.RecallShard`."""


class StreamHistory(beam.PTransform):
    """(shard, ReportBatch) -> the outputs of BatchHistory, at the time of their batch.

    An agent's reports must come in the order in which they were received, and be stamped no earlier than the
    watermark. With `recall`, the stored reports of each affected hour are emitted again before the first
    report of that hour, so that its windows hold them too. They are compared with what is stored and what
    came before, not again with what comes after them.

    Raises:
        ValueError: `future_seconds` is more than MAX_FUTURE_SECONDS.
    """

    def __init__(
        self, min_samples: int, stale_seconds: int, future_seconds: int, recall: RecallHours | None = None
    ) -> None:
        super().__init__()
        if future_seconds > MAX_FUTURE_SECONDS:
            raise ValueError(
                f"future_seconds is {future_seconds}; a stream allows at most {MAX_FUTURE_SECONDS}, "
                f"because its baselines leave out only the newest {GAP_MINUTES} minutes"
            )
        self.min_samples, self.stale_seconds, self.recall = min_samples, stale_seconds, recall

    def expand(self, by_shard: beam.PCollection) -> Any:  # Beam warns of any other type for tagged outputs
        apply = beam.ParDo(_StreamHistoryFn(self.min_samples, self.stale_seconds, self.recall))
        apply = apply.with_output_types(tuple[int, pa.RecordBatch], **dict.fromkeys(TAGS, pa.RecordBatch))
        return by_shard | "Apply history" >> apply.with_outputs(*TAGS, main="reports")


NO_MARK = (0, 0, 0)


@dataclass
class _Cached:
    """A shard's memory in this process, valid while its `tag` is that of the state.

    `due` is when the timer fires (us).
    """

    tag: int
    memory: ShardMemory
    due: int | None = None


class _Cache(dict[int, _Cached]):
    """The memory of each shard of this process, shared by all instances of the DoFn."""


class _StreamHistoryFn(beam.DoFn):
    """Keeps a shard's ShardMemory in the process, and in state what rebuilds it: its deltas, and a mark.

    The mark is (tag, first hour, end of the hours recalled). Its random tag changes with the state. So memory
    that is ahead of the state or behind it, after a restore for example, is recognised and rebuilt from the
    deltas.
    """

    DELTAS = BagStateSpec("deltas", BytesCoder())
    MARK = ReadModifyWriteStateSpec("mark", TupleCoder((VarIntCoder(), VarIntCoder(), VarIntCoder())))
    DUE = TimerSpec("due", beam.TimeDomain.WATERMARK)
    BAG, TAGGED, ALARM = beam.DoFn.StateParam(DELTAS), beam.DoFn.StateParam(MARK), beam.DoFn.TimerParam(DUE)

    def __init__(self, min_samples: int, stale_seconds: int, recall: RecallHours | None) -> None:
        self.options, self.recall, self.shared = (min_samples, stale_seconds), recall, Shared()

    def setup(self) -> None:
        self.cache: _Cache = self.shared.acquire(_Cache)

    def process(
        self,
        keyed: tuple[int, pa.RecordBatch],
        bag: Any = BAG,
        mark: Any = TAGGED,
        timer: Any = ALARM,
    ) -> Iterator[Any]:  # Beam warns of a bare TaggedOutput
        shard, batch = keyed
        if not batch.num_rows:
            return
        tag, start, stop = mark.read() or NO_MARK
        cached = self._take(shard, tag, bag)
        deltas: list[bytes] = []
        hours = range(start, stop)
        if self.recall is not None:
            needed = find_needed_hours(batch)
            for stored in self._recall(shard, cached.memory, needed, hours):
                again, _ = self._admit(cached, stored, deltas, bag)
                deltas += again.deltas
                for part in split_by_rows(again.reports, OUTPUT_ROWS):
                    yield shard, part
            hours = merge_hours(needed, hours)
        admitted, faults = self._admit(cached, batch, deltas, bag)
        yield from quarantine_faults(faults)
        for part in split_by_rows(admitted.reports, OUTPUT_ROWS):
            yield shard, part
        if admitted.duplicates.num_rows:
            yield beam.pvalue.TaggedOutput("duplicates", admitted.duplicates)
        if cached.memory.needs_snapshot or hours.start < start:
            _write_snapshot(cached.memory, bag)
        else:
            for delta in deltas + admitted.deltas:
                bag.add(delta)
        cached.tag = _write_mark(mark, hours)
        self._keep(shard, cached, timer)

    @on_timer(DUE)
    def evict(
        self,
        shard: Any = beam.DoFn.KeyParam,
        fired: Any = beam.DoFn.TimestampParam,
        bag: Any = BAG,
        mark: Any = TAGGED,
        timer: Any = ALARM,
    ) -> None:
        tag, start, stop = mark.read() or NO_MARK
        cached = self._take(shard, tag, bag)
        cached.memory.evict(fired.micros)
        if cached.memory.needs_snapshot:
            _write_snapshot(cached.memory, bag)
            cached.tag = _write_mark(mark, range(start, stop))
        cached.due = None
        self._keep(shard, cached, timer)

    def _take(self, shard: int, tag: int, bag: Any) -> _Cached:
        """The memory of a shard, taken out of the cache.

        So an error before `_keep` leaves no memory that is ahead of the state.
        """
        cached = self.cache.pop(shard, None)
        if cached is None or cached.tag != tag:
            with time_stage("history: restored"):
                cached = _Cached(tag, ShardMemory.load(bag.read(), *self.options))
        return cached

    def _admit(
        self, cached: _Cached, batch: pa.RecordBatch, deltas: list[bytes], bag: Any
    ) -> tuple[Admitted, list[Fault]]:
        """The result of admitting a batch, and the rows at which that raises.

        An error may leave memory half changed. It is then rebuilt from the state and from `deltas`, which are
        not in the state yet.
        """
        with time_stage("history", batch.num_rows):
            try:
                return cached.memory.admit(batch), []
            except MemoryError:
                raise
            except Exception:
                sound, faults = bisect_faults(
                    lambda part: (ShardMemory(*self.options).admit(part), part)[1], batch
                )
                if not faults:
                    raise
                cached.memory = ShardMemory.load([*bag.read(), *deltas], *self.options)
            return cached.memory.admit(concat(sound or [batch[:0]])), faults

    def _keep(self, shard: int, cached: _Cached, timer: Any) -> None:
        """Put the memory of a shard into the cache, and set the timer to when its oldest minute expires."""
        due = cached.memory.expires_us
        if due is not None and due != cached.due:
            timer.set(Timestamp(micros=due))
            cached.due = due
        self.cache[shard] = cached

    def _recall(
        self, shard: int, memory: ShardMemory, needed: range, known: range
    ) -> Iterator[pa.RecordBatch]:
        """The stored reports of the `needed` hours that are not among the `known` ones."""
        assert self.recall is not None
        for hours, context in find_missing_hours(needed, known):
            if known and hours.start < known.start:
                first = HOUR_MINUTES * known.start
                memory.forget(range(first - LOOKBACK_MINUTES, first))
            yield from self.recall(shard, hours, context)


def _write_snapshot(memory: ShardMemory, bag: Any) -> None:
    """Replace all deltas of the state by a snapshot."""
    bag.clear()
    for delta in memory.snapshot():
        bag.add(delta)


def _write_mark(mark: Any, hours: range) -> int:
    """Mark the state with a new tag and the hours recalled; returns the tag."""
    tag = secrets.randbits(62)
    mark.write((tag, hours.start, hours.stop))
    return tag
