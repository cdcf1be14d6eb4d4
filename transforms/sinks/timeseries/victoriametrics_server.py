"""What `transforms.sinks.timeseries.victoriametrics` asks of a server: to take lines, to put them on disk, and to say what it has."""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import urlencode

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as paj

from schemas.tables import GRANULARITIES
from transforms.core.errors import Refused, Unavailable
from transforms.sinks.error_signs import VICTORIAMETRICS
from transforms.sinks.timeseries.line_protocol import REVISION, TIMEOUT, Series, answered, post_lines, request

ROOM_MS = 5000
"""The samples of a window lie 1 to 5000 ms after its start, so that each tells its window, whatever its granularity."""
WINDOW = ("granularity", "label", "start")
"""Columns that tell a window: its granularity, the text of its label (`` for none), and its start in milliseconds since 1970."""
NEEDED = "give a single-node server, or a proxy that passes /write, /api/v1/export, /internal/force_flush, /snapshot/ and /metrics"
COUNTED_SECONDS = 1.1
"""How long it may take until its metrics count what it has dropped: it renews them once a second."""

_SAMPLES_PER_LINE = "1000"
_FEW, _GAP = 50, 10
_log = logging.getLogger(__name__)


class State(NamedTuple):
    """What a server says of itself: the second in which it was started, and how many samples it has dropped since."""

    started: str
    dropped: float


class Span(NamedTuple):
    """Windows that are read in one request: from the one that starts at `first` to that at `last` (ms), of some labels or all."""

    granularity: str
    first: int
    last: int
    labels: tuple[str, ...] = ()


def spans(windows: pa.RecordBatch) -> list[Span]:
    """What to read to know of all windows (columns WINDOW): neighbours together, their labels named where they are few."""
    found = []
    granularity = windows["granularity"].dictionary_encode()
    code, starts = granularity.indices.to_numpy(), windows["start"].to_numpy()
    for number, name in enumerate(granularity.dictionary.to_pylist()):
        mine = np.flatnonzero(code == number)
        mine = mine[np.argsort(starts[mine], kind="stable")]
        breaks = np.flatnonzero(np.diff(starts[mine]) > _GAP * 1000 * GRANULARITIES[name]) + 1
        for run in np.split(mine, breaks):
            labels = windows["label"].take(pa.array(run)).unique().to_pylist()
            few = tuple(sorted(labels)) if len(labels) <= _FEW else ()
            found.append(Span(name, int(starts[run[0]]), int(starts[run[-1]]), few))
    return found


@dataclass(frozen=True)
class Server:
    """A server at `url`, asked with a bearer token, or user and password; with labels that every series has.

    Methods raise `Unavailable` where it is away or busy, and `Refused` where it does not want or know this.
    """

    url: str
    labels: tuple[tuple[str, str], ...] = ()
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    @property
    def place(self) -> str:
        """How errors name it."""
        return f"VictoriaMetrics at {self.url}"

    def ask(self, path: str, form: Sequence[tuple[str, str]] = ()) -> httpx.Response:
        """The answer to a form."""
        headers = {"content-type": "application/x-www-form-urlencoded"}
        content = urlencode(form).encode()
        answer = request(
            self._client, self.place, VICTORIAMETRICS, "POST", path, content=content, headers=headers
        )
        return self._accepted(answer)

    def post(self, body: bytes) -> int:
        """Write lines whose times are in milliseconds; the number of requests that took."""
        answers = post_lines(self._client, self.place, VICTORIAMETRICS, "/write", {"precision": "ms"}, body)
        return len([self._accepted(answer) for answer in answers])

    def flush(self) -> None:
        """Show what was written in the next request."""
        self.ask("/internal/force_flush")

    def persist(self) -> None:
        """Put what was written on disk, and show it in the next request: that is what making a snapshot begins with."""
        made = self._snapshot("create")
        try:
            self._snapshot("delete", ("snapshot", made))
        except (Unavailable, Refused) as error:
            _log.warning(
                "%s keeps the snapshot %s, which uses space until it is deleted (%s)", self.place, made, error
            )

    def state(self) -> State:
        """What tells a restart, and dropped samples."""
        text = self.metrics()
        started = re.search(r"^vm_app_start_timestamp (\S+)$", text, re.MULTILINE)
        if started is None:
            raise Refused(f"{self.place} does not tell at /metrics when it was started; {NEEDED}")
        dropped = re.findall(
            r"^(?:vm_rows_ignored_total|vm_(?:hourly|daily)\S*_dropped_total)\S* (\S+)$", text, re.MULTILINE
        )
        return State(started[1], sum(map(float, dropped)))

    def metrics(self) -> str:
        """Its own metrics, in Prometheus' format."""
        return self.ask("/metrics").text

    def stored(self, series: Series, span: Span) -> pa.RecordBatch:
        """The revisions that it has of a span's windows: columns WINDOW, `slot` (int64, ms after the start), `revision` (int64)."""
        equal = [*self.labels, ("granularity", span.granularity)]
        matchers = [f"{name}={_quoted(value)}" for name, value in equal]
        if span.labels:
            matchers.append(f"{series.tag}=~{_quoted('|'.join(map(re.escape, span.labels)))}")
        form = [("match[]", f"{series.measurement}_{REVISION.name}{{{','.join(matchers)}}}")]
        form += [("start", str(span.first // 1000)), ("end", str((span.last + ROOM_MS) // 1000))]
        lines = self.ask("/api/v1/export", [*form, ("max_rows_per_line", _SAMPLES_PER_LINE)]).content
        try:
            return _revisions(lines, series.tag)
        except pa.ArrowInvalid as error:
            raise Unavailable(
                f"{self.place} broke off what it exports ({str(error).splitlines()[0]})"
            ) from error

    @property
    def _client(self) -> httpx.Client:
        return _client(self.url, self.user, self.password, self.token)

    def _accepted(self, response: httpx.Response) -> httpx.Response:
        if response.status_code in (401, 403):
            fix = "set KPIFLOW_VICTORIAMETRICS_TOKEN, or _USER and _PASSWORD, in the environment"
            raise Refused(f"{self.place} refuses this user or token ({answered(response)}); {fix}")
        if not response.is_success:
            raise Refused(
                f"{self.place} refuses {response.request.url.path} ({answered(response)}); {NEEDED}"
            )
        return response

    def _snapshot(self, act: str, *form: tuple[str, str]) -> str:
        answer: dict[str, Any] = {}
        response = self.ask(f"/snapshot/{act}", form)
        try:
            answer = response.json()
        except ValueError as error:
            raise Refused(
                f"{self.place} answers /snapshot/{act} by {answered(response)}; {NEEDED}"
            ) from error
        if answer.get("status") != "ok":
            said = str(answer.get("msg", answer))
            if not VICTORIAMETRICS.passes(500, said):
                raise Refused(
                    f"{self.place} cannot {act} a snapshot: {said}; let its process write its data folder"
                )
            raise Unavailable(f"{self.place} cannot {act} a snapshot: {said}")
        return str(answer.get("snapshot", ""))


@cache
def _client(url: str, user: str | None, password: str | None, token: str | None) -> httpx.Client:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    auth = httpx.BasicAuth(user, password or "") if user else None
    return httpx.Client(base_url=url, headers=headers, auth=auth, timeout=TIMEOUT)


def _quoted(text: str) -> str:
    """A text as a query has it."""
    return json.dumps(text, ensure_ascii=False)


def _revisions(lines: bytes, tag: str) -> pa.RecordBatch:
    """Exported series, a JSON document a line, as `Server.stored` gives them."""
    schema = pa.schema(
        [
            ("metric", pa.struct([("granularity", pa.string()), (tag, pa.string())])),
            ("values", pa.list_(pa.float64())),
            ("timestamps", pa.list_(pa.int64())),
        ]
    )
    options = paj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    series = paj.read_json(pa.BufferReader(lines), parse_options=options) if lines else schema.empty_table()
    exported = series.combine_chunks().to_struct_array().combine_chunks()
    metric, revisions, times = (pc.struct_field(exported, name) for name in schema.names)
    parents, time = pc.list_parent_indices(times), pc.list_flatten(times)
    slot = pa.array((time.to_numpy() - 1) % ROOM_MS + 1)
    granularity, label = (
        pc.fill_null(pc.struct_field(metric, name), "").take(parents) for name in ("granularity", tag)
    )
    columns = [granularity, label, pc.subtract(time, slot), slot, pc.list_flatten(revisions).cast(pa.int64())]
    return pa.RecordBatch.from_arrays(columns, names=[*WINDOW, "slot", "revision"])
