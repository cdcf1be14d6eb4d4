"""VictoriaMetrics as a sink: aggregates as time series, of which a query shows each window's largest revision, once.

The server overwrites nothing. Of samples with one time it shows any, and of those in one interval of `-dedup.minScrapeInterval` the
latest. So the revisions of a window stand at its start plus 1 to 5000 ms, a larger one at a later *slot*: with an interval of 5 s,
which begins just after the start of a window and includes its end, the last one stands alone. Where a revision stands is kept in
the store itself, as the metric `<measurement>_revision`. A write

1. reads the revisions of its windows. A row below what is there is left out, an equal one keeps its slot, a larger one moves on;
2. writes the revisions, has them put on disk, and reads them back. A row that another writer has overtaken goes back to 1; what
   the server does not show it has dropped, since it answers 204 to samples beyond its retention too;
3. writes the other fields at the same slots, and has them put on disk. The server would do so some seconds after its answer, and a
   crash would lose them; making a snapshot, which is deleted at once, does it now.

If the process dies in between, the next one finds the slots and writes the same samples. If the server was started anew in between,
something may be lost, and the write fails as `Unavailable`, to be done again.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlencode

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import AGGREGATIONS, FLEET, Table
from transforms.core.errors import Finding, Refused, Unavailable
from transforms.core.grouping import Ints, number_groups
from transforms.sinks.sink import Written
from transforms.sinks.timeseries.line_protocol import (
    FIELDS,
    REVISION,
    SERIES,
    Field,
    Series,
    bodies,
    http_url,
    label_texts,
    milliseconds,
    newest,
)
from transforms.sinks.timeseries.victoriametrics_server import (
    COUNTED_SECONDS,
    NEEDED,
    ROOM_MS,
    WINDOW,
    Server,
    Span,
    State,
    spans,
)

_EXACT = 1024
_CONFLICTS = 5
_FORM = "victoriametrics+http://HOST:PORT, and ?agent_id=true for series of each agent"
_LABEL = re.compile(r"([A-Za-z][A-Za-z0-9_]*)=([^\x00-\x1f\x7f\\]+)")
_OWN_LABELS = ("granularity", *(series.tag for series in SERIES.values()))
_DEDUP = "start it with -dedup.minScrapeInterval=5s"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VictoriaMetrics:
    """A single-node VictoriaMetrics at `url` (http or https).

    It takes kpi_fleet as `kpi_*{granularity, agent_type}`; with `agent_id` it takes kpi_aggregations instead, as
    `kpi_agent_*{granularity, agent_id}`. `labels` are on every series; outputs that share a server need different ones. Without
    `snapshots` a crash of the server may lose what it took in its last seconds. Each request has the bearer `token`, or `user` and
    `password`.
    """

    url: str
    gather_seconds: int = 5
    agent_id: bool = False
    labels: tuple[tuple[str, str], ...] = ()
    snapshots: bool = True
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    @classmethod
    def from_url(
        cls,
        url: SplitResult,
        gather_seconds: int = 5,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
    ) -> "VictoriaMetrics":
        """The sink of `victoriametrics+http://HOST:PORT[/PATH][?agent_id=true&extra_label=NAME=VALUE&snapshots=false]`.

        Raises:
            ValueError: the URL has another form; the message shows the right one.
        """
        switches, labels = {"agent_id": False, "snapshots": True}, {}
        for name, value in parse_qsl(url.query, keep_blank_values=True):
            if name in switches and value in ("true", "false"):
                switches[name] = value == "true"
            elif name == "extra_label" and (given := _LABEL.fullmatch(value)) and given[1] not in _OWN_LABELS:
                labels[given[1]] = given[2]
            else:
                raise ValueError(f"{name}={value} means nothing here; give {_FORM}")
        address = http_url(url, _FORM) + url.path.rstrip("/")
        return cls(
            address,
            gather_seconds,
            labels=tuple(labels.items()),
            user=user,
            password=password,
            token=token,
            **switches,
        )

    @property
    def name(self) -> str:
        options = [("agent_id", "true")] * self.agent_id + [("snapshots", "false")] * (not self.snapshots)
        query = urlencode([*options, *(("extra_label", f"{name}={value}") for name, value in self.labels)])
        return f"victoriametrics+{self.url}{'?' if query else ''}{query}"

    @property
    def tables(self) -> tuple[str, ...]:
        return (AGGREGATIONS.name,) if self.agent_id else (FLEET.name,)

    def write(self, table: Table, rows: Sequence[pa.RecordBatch]) -> Written:
        """As `Sink.write`. Windows that the server drops, as beyond its retention, are logged and not counted."""
        wanted = newest(table, rows)
        return _Write(self, SERIES[table.name], wanted).run() if wanted.num_rows else Written(0, 0)

    def check(self) -> Iterator[Finding]:
        """As `Sink.check`."""
        server = _server(self)
        looks: list[tuple[str, Callable[[], object]]] = [
            (f"{self.url} answers", lambda: server.ask("/health")),
            ("lines can be written", lambda: server.post(b"")),
            ("revisions can be read", lambda: server.stored(SERIES[self.tables[0]], Span("5s", 0, 0))),
            ("its own metrics can be read", server.state),
            ("samples can be shown at once", server.flush),
            *([("snapshots can be made", lambda: server.ask("/snapshot/list"))] * self.snapshots),
        ]
        for what, look in looks:
            try:
                look()
            except (Unavailable, Refused) as error:
                yield Finding(what, str(error), f"start it, or {NEEDED}")
                return
            yield Finding(what)
        yield from _flags_found(server.metrics())


def next_slots(revision: Ints, stored: Ints, slot: Ints) -> Ints:
    """int64[n]: the slot where each row is to stand, if the store has the revision `stored` of it at `slot` (0: nothing); 0 where a
    larger revision stands.

    The least slot of a revision grows with it, by one up to 1024 and then by 64 for each doubling: so a larger revision is later
    even where two writers do not see each other, unless the two are close, within 2 %, or the window has seen many.
    """
    fraction, exponent = np.frexp(revision.astype(np.float64))
    doubled = _EXACT + 64 * (exponent.astype(np.int64) - 11) + (128 * fraction).astype(np.int64) - 64
    later = np.maximum(slot + 1, np.where(revision < _EXACT, revision, doubled))
    slots = np.where((slot == 0) | (revision > stored), later, np.where(revision == stored, slot, 0))
    full = slots > ROOM_MS
    if full.any():
        _log.warning("%d windows were revised too often to keep their last revision", np.count_nonzero(full))
    return np.where(full, 0, slots)


class _Stored(NamedTuple):
    """int64[n] each: the last sample that the store shows of some rows' windows; slot 0 where there is none."""

    revision: Ints
    slot: Ints


class _Write:
    """One write of rows, each of another window."""

    def __init__(self, sink: VictoriaMetrics, series: Series, rows: pa.RecordBatch) -> None:
        self.sink, self.series, self.rows = sink, series, rows
        self.server = _server(sink)
        self.revision = rows["revision"].to_numpy()
        labels = pc.fill_null(label_texts(rows[series.column]), "")
        starts = pa.array(milliseconds(rows["time_window_start"]))
        self.windows = pa.RecordBatch.from_arrays([rows["granularity"], labels, starts], names=WINDOW)
        self.spans = spans(self.windows)
        self.requests = 0

    def run(self) -> Written:
        state = self.server.state()
        before = self.stored()
        slots = self.placed(before, state)
        self.send(slots, FIELDS)
        self.refuse_restart(state)
        taken = (slots > 0) & ((before.slot == 0) | (before.revision != self.revision))
        return Written(int(np.count_nonzero(taken)), self.requests)

    def placed(self, stored: _Stored, state: State) -> Ints:
        """int64[n]: the slot of each row, where its revision stands on disk; 0 for a row that is not to be written."""
        slots = next_slots(self.revision, *stored)
        for _ in range(_CONFLICTS):
            self.send(slots, (REVISION,))
            stored = self.stored()
            unseen = (slots > 0) & (stored.slot == 0)
            if unseen.any():
                self.refuse_restart(state)
                self.tell_dropped(int(np.count_nonzero(unseen)), state)
            slots = np.where(unseen, 0, slots)
            again = np.where(unseen, 0, next_slots(self.revision, *stored))
            if (again <= slots).all():
                return again
            slots = again
        raise Unavailable(
            f"{self.server.place}: another job keeps writing the same windows; let one of the two end"
        )

    def send(self, slots: Ints, fields: Sequence[Field]) -> None:
        """Write fields of the rows that have a slot, and have the server put them on disk."""
        chosen = np.flatnonzero(slots)
        if not len(chosen):
            return
        rows = self.rows.take(pa.array(chosen))
        times = milliseconds(rows["time_window_start"]) + slots[chosen]
        for body in bodies(rows, self.series, times, fields, dict(self.sink.labels)):
            self.requests += self.server.post(body)
        self.server.persist() if self.sink.snapshots else self.server.flush()

    def stored(self) -> _Stored:
        """What the store shows of each row's window."""
        found = [self.server.stored(self.series, span) for span in self.spans]
        groups = number_groups(
            pa.concat_batches([self.windows, *(one.select(WINDOW) for one in found)]), WINDOW
        )
        ours, theirs = np.split(groups, [self.rows.num_rows])
        revision, slot = (
            np.concatenate([one[name].to_numpy() for one in found]) for name in ("revision", "slot")
        )
        ascending = np.lexsort((revision, slot))
        last = _Stored(np.zeros(len(groups), np.int64), np.zeros(len(groups), np.int64))
        for values, into in zip((revision, slot), last):
            into[theirs[ascending]] = values[ascending]
        return _Stored(last.revision[ours], last.slot[ours])

    def refuse_restart(self, state: State) -> None:
        if self.server.state().started != state.started:
            raise Unavailable(
                f"{self.server.place} was started anew during a write, and may have lost a part of it"
            )

    def tell_dropped(self, count: int, state: State) -> None:
        for pause in (0, COUNTED_SECONDS):
            time.sleep(pause)
            if self.server.state().dropped > state.dropped:
                _log.warning(
                    "%s dropped %d windows, older than its -retentionPeriod or in its future",
                    self.server.place,
                    count,
                )
                return
        raise Unavailable(f"{self.server.place} does not show {count} windows that it took")


def _server(sink: VictoriaMetrics) -> Server:
    return Server(sink.url, sink.labels, sink.user, sink.password, sink.token)


def _flags_found(metrics: str) -> Iterator[Finding]:
    """What the server's flags mean for a job."""
    flags = dict(re.findall(r'^flag\{name="([^"]*)", ?value="([^"]*)"', metrics, re.MULTILINE))
    if not flags:
        yield Finding(f"its flags are not shown: see to it that it was started as this needs: {_DEDUP}")
        return
    interval = flags.get("dedup.minScrapeInterval", "0s")
    what = f"-dedup.minScrapeInterval={interval}"
    if interval in ("1s", "5s"):
        yield Finding(f"{what}: a query shows one revision of a window")
    else:
        problem = (
            "queries count each revision of a window"
            if interval in ("0s", "1ms")
            else "queries miss windows of 5 s"
        )
        yield Finding(what, problem, _DEDUP)
    months = flags.get("retentionPeriod", "1")
    yield Finding(
        f"-retentionPeriod={months}{' (months)' if months.isdigit() else ''}: older windows are dropped, and logged"
    )
    if flags.get("snapshotsMaxAge", "0") == "0":
        yield Finding(
            "-snapshotsMaxAge is not set: a snapshot that a killed job left stays; 1h would delete it"
        )
