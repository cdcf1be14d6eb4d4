"""History: each report once, with the baseline of its agent. The one step that must see other reports.

`History` has all reports of a shard at once; `RunningHistory` sees them batch by batch and keeps what it needs of them as state.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.coders import BytesCoder, TupleCoder, VarIntCoder
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.shared import Shared
from apache_beam.utils.timestamp import Timestamp
from numpy.typing import NDArray

from schemas.readers.strict_reader import Rejection
from schemas.tables import DUPLICATE, REPORT
from transforms.core.record_batches import BASELINED, PIECE_BYTES, concat, gathered, pieces, portions
from transforms.core.stage_counters import timed
from transforms.history import baseline, dedup
from transforms.history.shard_memory import Admitted, Recent
from transforms.validation.quarantine_rows import bisected, failed

HOUR_MINUTES = 60
CONTEXT_MINUTES = 63
"""How far before an hour the reports lie that its baselines are made of."""
HOUR_US = HOUR_MINUTES * baseline.MINUTE_US
FUTURE_SECONDS = 60
"""How far ahead of its message a report may be recorded, in a stream."""

Judged = tuple[Iterator[pa.RecordBatch], pa.RecordBatch]
"""BASELINED batches, and duplicates."""
Fault = tuple[pa.RecordBatch, Rejection]
"""A report at which judging raises, as a batch of one row, and why."""

PORTION = 1 << 16
"""Most rows of a batch that leaves history: large enough to work on in columns, small enough to pass on."""


class History(beam.PTransform):
    """(shard, ReportBatch) -> `reports` (BASELINED), `duplicates` (`schemas.tables.DUPLICATE`) and `quarantine` (QUARANTINE): the
    reports at which judging raises, as long as it raises at each of them alone.

    All reports of an agent must be on one shard. `min_samples` is the size of a window that is out of warm-up.
    """

    def __init__(self, min_samples: int) -> None:
        super().__init__()
        self.min_samples = min_samples

    def expand(self, by_shard: beam.PCollection) -> Any:  # Beam warns of any other type for tagged outputs
        return (
            by_shard
            | "GroupByShard" >> beam.GroupByKey()
            | "Judge"
            >> beam.FlatMap(_tagged, self.min_samples)
            .with_output_types(pa.RecordBatch, **dict.fromkeys(_TAGS, pa.RecordBatch))
            .with_outputs(*_TAGS, main="reports")
        )


def _tagged(
    shard: tuple[int, Iterable[pa.RecordBatch]], min_samples: int
) -> Iterator[pa.RecordBatch | beam.pvalue.TaggedOutput]:
    batches = list(shard[1])
    with timed("history", sum(batch.num_rows for batch in batches)):
        (reports, duplicates), faults = _apart(lambda parts: judge(parts, min_samples), batches)
    yield from _refused(faults)
    for part in pieces(duplicates, DUPLICATE) if duplicates.num_rows else ():
        yield beam.pvalue.TaggedOutput("duplicates", part)
    yield from reports


_TAGS = ("duplicates", "quarantine")


def _apart(
    judged: Callable[[Sequence[pa.RecordBatch]], Judged], batches: Sequence[pa.RecordBatch]
) -> tuple[Judged, list[Fault]]:
    """What `judged` gives of some ReportBatches, without the rows at which it raises, and these rows.

    Raises:
        Exception: it raises at no row alone, or still without those at which it does.
    """
    try:
        return judged(batches), []
    except MemoryError:
        raise
    except Exception:
        found = [bisected(lambda part: (judged([part]), part)[1], batch) for batch in batches]
        faults = [fault for _, wrong in found for fault in wrong]
        if not faults:
            raise
        sound = [part for parts, _ in found for part in parts]
    return judged(sound or [batches[0][:0]]), faults


def _refused(faults: Iterable[Fault]) -> Iterator[beam.pvalue.TaggedOutput]:
    """QUARANTINE rows of reports at which judging raises; what is stored already stays as it is."""
    for row, why in faults:
        if not row["context"][0].as_py():
            yield beam.pvalue.TaggedOutput("quarantine", failed(row, [why]))


def judge(batches: Sequence[pa.RecordBatch], min_samples: int) -> Judged:
    """The reports of one shard, as BASELINED batches of at most PORTION rows, and the duplicates among them.

    `batches` are all its ReportBatches, at least one, in any order and cut. Context rows feed baselines and meet their
    duplicates, but do not come out. A report's revision is its baseline_n: one that was judged by more history supersedes.
    """
    table = pa.Table.from_batches(batches)
    unique = dedup.dedup(table)
    judged = baseline.baseline(table.select(baseline.INPUTS).take(pa.array(unique.rows)), min_samples)
    fresh = ~unique.context
    if not fresh.all():
        judged = judged.filter(pa.array(fresh))
    return _joined(batches, unique.rows[fresh], judged), unique.duplicates


def _joined(
    batches: Sequence[pa.RecordBatch], rows: NDArray[np.int64], judged: pa.RecordBatch
) -> Iterator[pa.RecordBatch]:
    """`rows` (ascending) of all batches, joined with the rows of `judged`, some batches at a time."""
    parts = (part for batch in batches for part in portions(batch.select(REPORT.names), PORTION))
    start = 0
    for group in gathered(parts, PIECE_BYTES, PORTION):
        part = concat(group)
        first, end = np.searchsorted(rows, (start, start + part.num_rows)).tolist()
        if first < end:
            reports, baselines = (
                part.take(pa.array(rows[first:end] - start)),
                judged.slice(first, end - first),
            )
            columns = [*reports.columns, baselines["baseline_n"], *baselines.columns]
            yield from portions(pa.RecordBatch.from_arrays(columns, schema=BASELINED), PORTION)
        start += part.num_rows


Recall = Callable[[int, range, bool], Iterable[pa.RecordBatch]]
"""The stored reports of a shard, of some hours (since 1970) and, if asked, of the 63 minutes before as context: see
`transforms.history.recall.RecallShard`."""


class RunningHistory(beam.PTransform):
    """What `History` gives, batch by batch: (shard, ReportBatch) -> `reports`, `duplicates` and `quarantine`, at the time of their
    batch.

    An agent's reports must come in the order in which they were received, and be stamped no earlier than the watermark. With
    `recall` the stored reports of each hour that is touched come out again before the first report of that hour, so that its
    windows hold them too. They are judged by what is stored and what came before, not again by what comes after them.

    Raises:
        ValueError: `future_seconds` is more than 60; a report could be judged before what its baseline is made of has come.
    """

    def __init__(
        self, min_samples: int, stale_seconds: int, future_seconds: int, recall: Recall | None = None
    ) -> None:
        super().__init__()
        if future_seconds > FUTURE_SECONDS:
            raise ValueError(
                f"future_seconds is {future_seconds}; a stream bears no more than {FUTURE_SECONDS}, because its baselines leave "
                "out only the newest two minutes for what is still on its way"
            )
        self.min_samples, self.stale_seconds, self.recall = min_samples, stale_seconds, recall

    def expand(self, by_shard: beam.PCollection) -> Any:  # Beam warns of any other type for tagged outputs
        judge = beam.ParDo(_RunningFn(self.min_samples, self.stale_seconds, self.recall))
        judge = judge.with_output_types(pa.RecordBatch, **dict.fromkeys(_TAGS, pa.RecordBatch))
        return by_shard | "Judge" >> judge.with_outputs(*_TAGS, main="reports")


NO_MARK = (0, 0, 0)


@dataclass
class _Held:
    """A shard's memory in this process, good while its `tag` is that of the state; `due` is what the timer is set to (us)."""

    tag: int
    recent: Recent
    due: int | None = None


class _Memory(dict[int, _Held]):
    """What this process holds of each shard, for all instances of a DoFn."""


class _RunningFn(beam.DoFn):
    """Keeps a shard's `Recent` in the process, and in state what makes it again: its deltas, and a mark.

    The mark is (tag, first hour, end of hours recalled). Its random tag changes with the state, so memory that is ahead of the
    state, or behind it, after a restore for example, is seen to be another's and is made again from the deltas.
    """

    DELTAS = BagStateSpec("deltas", BytesCoder())
    MARK = ReadModifyWriteStateSpec("mark", TupleCoder((VarIntCoder(), VarIntCoder(), VarIntCoder())))
    DUE = TimerSpec("due", beam.TimeDomain.WATERMARK)
    BAG, TAGGED, ALARM = beam.DoFn.StateParam(DELTAS), beam.DoFn.StateParam(MARK), beam.DoFn.TimerParam(DUE)

    def __init__(self, min_samples: int, stale_seconds: int, recall: Recall | None) -> None:
        self.options, self.recall, self.shared = (min_samples, stale_seconds), recall, Shared()

    def setup(self) -> None:
        self.memory: _Memory = self.shared.acquire(_Memory)

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
        held = self._take(shard, tag, bag)
        deltas: list[bytes] = []
        hours = range(start, stop)
        if self.recall is not None:
            for stored in self._stored(shard, held.recent, batch, hours):
                again, _ = self._admitted(held, stored, deltas, bag)
                deltas += again.deltas
                yield from portions(again.reports, PORTION)
            hours = together(touched(batch), hours)
        admitted, faults = self._admitted(held, batch, deltas, bag)
        yield from _refused(faults)
        yield from portions(admitted.reports, PORTION)
        if admitted.duplicates.num_rows:
            yield beam.pvalue.TaggedOutput("duplicates", admitted.duplicates)
        if held.recent.overgrown or hours.start < start:
            _rewrite(held.recent, bag)
        else:
            for delta in deltas + admitted.deltas:
                bag.add(delta)
        held.tag = _write_mark(mark, hours)
        self._hold(shard, held, timer)

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
        held = self._take(shard, tag, bag)
        held.recent.evict(fired.micros)
        if held.recent.overgrown:
            _rewrite(held.recent, bag)
            held.tag = _write_mark(mark, range(start, stop))
        held.due = None
        self._hold(shard, held, timer)

    def _take(self, shard: int, tag: int, bag: Any) -> _Held:
        """The memory of a shard. It is taken out, so that an error before `_hold` leaves none that is ahead of the state."""
        held = self.memory.pop(shard, None)
        if held is None or held.tag != tag:
            with timed("history: restored"):
                held = _Held(tag, Recent.load(bag.read(), *self.options))
        return held

    def _admitted(
        self, held: _Held, batch: pa.RecordBatch, deltas: list[bytes], bag: Any
    ) -> tuple[Admitted, list[Fault]]:
        """What becomes of a batch, and the rows at which judging raises. Memory that an error left half changed is made again from
        the state and from `deltas`, which are not in it yet."""
        with timed("history", batch.num_rows):
            try:
                return held.recent.admit(batch), []
            except MemoryError:
                raise
            except Exception:
                sound, faults = bisected(lambda part: (Recent(*self.options).admit(part), part)[1], batch)
                if not faults:
                    raise
                held.recent = Recent.load([*bag.read(), *deltas], *self.options)
            return held.recent.admit(concat(sound or [batch[:0]])), faults

    def _hold(self, shard: int, held: _Held, timer: Any) -> None:
        """Keep the memory of a shard, and be called when the first of it is out of date."""
        due = held.recent.expires_us
        if due is not None and due != held.due:
            timer.set(Timestamp(micros=due))
            held.due = due
        self.memory[shard] = held

    def _stored(
        self, shard: int, recent: Recent, batch: pa.RecordBatch, known: range
    ) -> Iterator[pa.RecordBatch]:
        """The stored reports that a batch needs beside those of the hours that are `known`."""
        assert self.recall is not None
        wanted = touched(batch)
        for hours, context in missing(wanted, known):
            if known and hours.start < known.start:
                recent.forget(range(HOUR_MINUTES * known.start - CONTEXT_MINUTES, HOUR_MINUTES * known.start))
            yield from self.recall(shard, hours, context)


def touched(reports: pa.RecordBatch) -> range:
    """The hours (since 1970) from that of the earliest report to that of the last baseline that one of them feeds."""
    earliest, latest = pc.min_max(reports["recorded_at"].cast(pa.int64())).as_py().values()
    return range(earliest // HOUR_US, (latest + baseline.OLDEST * baseline.MINUTE_US) // HOUR_US + 1)


def missing(wanted: range, known: range) -> list[tuple[range, bool]]:
    """The hours to recall, oldest first, and whether they need their context, when those of `known` are in memory.

    Later hours need none: it lies in the hours known, or is the context of these. For earlier ones the context of those known is
    to be forgotten, since it now comes whole.
    """
    if not known or wanted.start > known.stop + 1:
        return [(wanted, True)]
    parts = [(range(wanted.start, known.start), True), (range(known.stop, wanted.stop), False)]
    return [(hours, context) for hours, context in parts if hours]


def together(wanted: range, known: range) -> range:
    """The hours in memory once what is `missing` was recalled."""
    if not known or wanted.start > known.stop + 1:
        return wanted
    return range(min(wanted.start, known.start), max(wanted.stop, known.stop))


def _rewrite(recent: Recent, bag: Any) -> None:
    """Let a snapshot take the place of all deltas."""
    bag.clear()
    for delta in recent.snapshot():
        bag.add(delta)


def _write_mark(mark: Any, hours: range) -> int:
    """Mark the state with a new tag, and give the tag."""
    tag = secrets.randbits(62)
    mark.write((tag, hours.start, hours.stop))
    return tag
