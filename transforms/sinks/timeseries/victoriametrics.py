"""VictoriaMetrics as a sink: aggregates as time series; a query shows the largest revision of each window.

The server overwrites nothing. Of samples with one time it shows any, and of those in one interval of
`-dedup.minScrapeInterval` the latest. So the revisions of a window are 1 to 5000 ms after its start, a larger
one at a later *slot*: with an interval of 5 s, which begins just after the start of a window, the last one is
shown. The slot of a revision is kept in the store itself, as the metric `<measurement>_revision`. A write

1. reads the revisions of its windows. A row below what is there is left out, an equal one keeps its slot, a
   larger one gets a later slot;
2. writes the rows, each with its revision;
3. makes and deletes a snapshot, which puts them on disk. The server would do so some seconds after its
   answer, and a crash would lose them. If the server was restarted meanwhile, the write fails as
   `Unavailable`, to be done again.

If the process dies in between, the next one finds the same slots and writes the same samples.
docs/outputs.md says why a write cannot do without the read.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, urlencode

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import AGGREGATIONS, FLEET, GRANULARITIES, Table
from transforms.core.errors import Finding, Refused, Unavailable
from transforms.core.events import REVISIONS_EXHAUSTED, WINDOWS_DROPPED, log_event
from transforms.core.grouping import Ints, number_groups
from transforms.sinks.sink import Written
from transforms.sinks.timeseries.http_client import parse_http_url
from transforms.sinks.timeseries.line_protocol import (
    FIELDS,
    REVISION,
    SERIES,
    Series,
    escape_labels,
    format_bodies,
    keep_newest,
    to_milliseconds,
)
from transforms.sinks.timeseries.victoriametrics_server import NEEDED, SLOTS, WINDOW, Metrics, Server

_GAP = 10
_FORM = "victoriametrics+http://HOST:PORT, and ?agent_id=true for series of each agent"
_LABEL = re.compile(r"([A-Za-z][A-Za-z0-9_]*)=([^\x00-\x1f\x7f\\]+)")
_OWN_LABELS = ("granularity", *(series.tag for series in SERIES.values()))
_DEDUP = "start it with -dedup.minScrapeInterval=5s"
_DAYS = {"h": 1 / 24, "d": 1, "w": 7, "": 31, "M": 31, "y": 365}
"""Days in the units of the flag -retentionPeriod; a number alone is of months."""


@dataclass(frozen=True)
class VictoriaMetrics:
    """A single-node VictoriaMetrics at `url` (http or https).

    It takes kpi_fleet as `kpi_*{granularity, agent_type}`; with `agent_id` it takes kpi_aggregations instead,
    as `kpi_agent_*{granularity, agent_id}`. `labels` are on every series; outputs that share a server need
    different ones. Without `snapshots` a crash of the server may lose what it took in its last seconds. Each
    request has the bearer `token`, or `user` and `password`.
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
        """Return the sink of `victoriametrics+http://HOST:PORT[/PATH]`.

        Its options are `agent_id=true`, `extra_label=NAME=VALUE` (any number) and `snapshots=false`.

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
                raise ValueError(f"{name}={value} is not an option; give {_FORM}")
        address = parse_http_url(url, _FORM) + url.path.rstrip("/")
        options = (switches["agent_id"], tuple(labels.items()), switches["snapshots"])
        return cls(address, gather_seconds, *options, user, password, token)

    @property
    def name(self) -> str:
        options = [("agent_id", "true")] * self.agent_id + [("snapshots", "false")] * (not self.snapshots)
        query = urlencode([*options, *(("extra_label", f"{name}={value}") for name, value in self.labels)])
        return f"victoriametrics+{self.url}{'?' if query else ''}{query}"

    @property
    def tables(self) -> tuple[str, ...]:
        return (AGGREGATIONS.name,) if self.agent_id else (FLEET.name,)

    def write(self, table: Table, rows: Sequence[pa.RecordBatch]) -> Written:
        """As `Sink.write`. Windows that are older than the server's retention are logged and not written."""
        server, series = self._server, SERIES[table.name]
        before = server.metrics()
        wanted = self._drop_expired(keep_newest(table, rows), before)
        if not wanted.num_rows:
            return Written(0, 0)
        revision = wanted["revision"].to_numpy()
        stored, slot = self._read_revisions(series, wanted)
        slots = next_slots(revision, stored, slot)
        chosen = np.flatnonzero(slots)
        kept = wanted.take(pa.array(chosen))
        times = to_milliseconds(kept["time_window_start"]) + slots[chosen]
        lines = format_bodies(kept, series, times, (*FIELDS, REVISION), dict(self.labels))
        requests = sum(map(server.post, lines))
        if requests:
            server.persist(self.snapshots)
        if server.metrics().started != before.started:
            raise Unavailable(f"{server.place} was restarted during a write, and may have lost a part of it")
        changed = (slots > 0) & ((slot == 0) | (stored != revision))
        return Written(int(np.count_nonzero(changed)), requests)

    def check(self) -> Iterator[Finding]:
        """As `Sink.check`."""
        server = self._server
        looks: dict[str, Callable[[], object]] = {
            f"{self.url} answers": lambda: server.ask("/health"),
            "lines can be written": lambda: server.post(b""),
            "revisions can be read": lambda: server.revisions(SERIES[self.tables[0]], {}, 0, 0),
            "its own metrics can be read": lambda: server.metrics().started,
            "samples can be shown at once": lambda: server.ask("/internal/force_flush"),
        }
        if self.snapshots:
            looks["snapshots can be made"] = lambda: server.ask("/snapshot/list")
        for what, look in looks.items():
            try:
                look()
            except (Unavailable, Refused) as error:
                yield Finding(what, str(error), f"start it, or {NEEDED}")
                return
            yield Finding(what)
        yield from _check_flags(server.metrics().flags)

    @property
    def _server(self) -> Server:
        return Server(self.url, self.user, self.password, self.token)

    def _drop_expired(self, rows: pa.RecordBatch, metrics: Metrics) -> pa.RecordBatch:
        """The rows that the server does not drop as older than its retention; all if that is not known."""
        period = re.fullmatch(r"(\d+)([hdwMy]?)", metrics.flags.get("retentionPeriod", ""))
        if period is None:
            return rows
        oldest = (time.time() - int(period[1]) * _DAYS[period[2]] * 86_400) * 1000
        recent = to_milliseconds(rows["time_window_start"]) >= oldest
        if not recent.all():
            count = int(np.count_nonzero(~recent))
            log_event(WINDOWS_DROPPED, sink=self._server.place, windows=count, limit="-retentionPeriod")
        return rows.filter(pa.array(recent))

    def _read_revisions(self, series: Series, rows: pa.RecordBatch) -> tuple[Ints, Ints]:
        """int64[n] each: the revision that the server shows of each row's window, and its slot; 0: none."""
        labels = pc.fill_null(escape_labels(rows[series.column]), "")
        starts = pa.array(to_milliseconds(rows["time_window_start"]))
        windows = pa.RecordBatch.from_arrays([rows["granularity"], labels, starts], names=WINDOW)
        found = [
            self._server.revisions(series, dict(self.labels) | {"granularity": granularity}, first, last)
            for granularity, first, last in _spans(windows)
        ]
        groups = number_groups(pa.concat_batches([windows, *(part.select(WINDOW) for part in found)]), WINDOW)
        ours, theirs = np.split(groups, [rows.num_rows])
        revision, slot = (
            np.concatenate([part[name].to_numpy() for part in found]) for name in ("revision", "slot")
        )
        ascending = np.lexsort((revision, slot))
        last_revision, last_slot = np.zeros((2, len(groups)), np.int64)
        # Assigned in ascending order, the latest sample of a window remains.
        last_revision[theirs[ascending]], last_slot[theirs[ascending]] = revision[ascending], slot[ascending]
        return last_revision[ours], last_slot[ours]


def next_slots(revision: Ints, stored: Ints, slot: Ints) -> Ints:
    """int64[n]: the slot of each row, where the store has the revision `stored` of it at `slot` (0: nothing).

    It is 0 where a larger revision is stored, or no slot is left. The least slot of a revision grows by 64
    with each doubling: so the larger of two revisions is later even if two writers do not see each other,
    unless the two are close, within 2 %, or the window has had many revisions.
    """
    later = np.maximum(slot + 1, (64 * np.log2(revision + 1.0)).astype(np.int64))
    slots = np.where((slot == 0) | (revision > stored), later, np.where(revision == stored, slot, 0))
    full = slots > SLOTS
    if full.any():
        log_event(REVISIONS_EXHAUSTED, windows=int(np.count_nonzero(full)))
    return np.where(full, 0, slots)


def _spans(windows: pa.RecordBatch) -> Iterator[tuple[str, int, int]]:
    """The times to read (granularity, first and last start in ms) that cover the windows, neighbours
    together."""
    granularity = windows["granularity"].dictionary_encode()
    starts = windows["start"].to_numpy()
    for code, name in enumerate(granularity.dictionary.to_pylist()):
        mine = np.unique(starts[granularity.indices.to_numpy() == code])
        for run in np.split(mine, np.flatnonzero(np.diff(mine) > _GAP * 1000 * GRANULARITIES[name]) + 1):
            yield name, int(run[0]), int(run[-1])


def _check_flags(flags: dict[str, str]) -> Iterator[Finding]:
    """What the server's flags mean for a job."""
    if not flags:
        yield Finding(f"its flags are not shown: make sure that it was started as this needs: {_DEDUP}")
        return
    interval = flags.get("dedup.minScrapeInterval", "0s")
    what = f"-dedup.minScrapeInterval={interval}"
    if interval in ("1s", "5s"):
        yield Finding(f"{what}: a query shows one revision of a window")
    elif interval in ("0s", "1ms"):
        yield Finding(what, "queries count each revision of a window", _DEDUP)
    else:
        yield Finding(what, "queries miss windows of 5 s", _DEDUP)
    period = flags.get("retentionPeriod", "1")
    months = " (months)" if period.isdigit() else ""
    yield Finding(f"-retentionPeriod={period}{months}: older windows are dropped, and logged")
    if flags.get("snapshotsMaxAge", "0") == "0":
        yield Finding(
            "-snapshotsMaxAge is not set: a snapshot that a killed job left is kept; 1h would delete it"
        )
