"""What the sink asks of a VictoriaMetrics: to take lines, to put them on disk, and to say what it has."""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlencode

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as paj

from transforms.core.error_signs import VICTORIAMETRICS
from transforms.core.errors import Refused, Unavailable
from transforms.core.events import SNAPSHOT_KEPT, log_event
from transforms.sinks.timeseries.http_client import TIMEOUT, HttpServer, describe_answer
from transforms.sinks.timeseries.line_protocol import REVISION, Series

SLOTS = 5000
"""The samples of a window are 1 to 5000 ms after its start, so each tells its window, of any granularity."""
WINDOW = ("granularity", "label", "start")
"""Columns that name a window: granularity, text of the label (empty for none), start in ms since 1970."""
NEEDED = (
    "give a single-node server, or a proxy that passes /write, /api/v1/export, /internal/force_flush, "
    "/snapshot/ and /metrics"
)

_NO_LABEL = "kpiflow_request"
_AUTHORIZE = "set KPIFLOW_VICTORIAMETRICS_TOKEN, or _USER and _PASSWORD, in the environment"


@dataclass(frozen=True)
class Server:
    """A server at `url`, asked with a bearer token, or with user and password.

    Methods raise `Unavailable` if it cannot be reached or is busy, and `Refused` if it will never do this.
    """

    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    @property
    def place(self) -> str:
        """How errors name it."""
        return f"VictoriaMetrics at {self.url}"

    @property
    def _server(self) -> HttpServer:
        return HttpServer(_client(self), self.place, VICTORIAMETRICS)

    def ask(self, path: str, form: Mapping[str, str] | None = None) -> httpx.Response:
        """Return the answer to a form."""
        headers = {"content-type": "application/x-www-form-urlencoded"}
        content = urlencode(form or {}).encode()
        return self._accepted(self._server.send("POST", path, content=content, headers=headers))

    def post(self, body: bytes) -> int:
        """Write lines whose times are in milliseconds; return the number of requests."""
        answers = self._server.post_lines("/write", {"precision": "ms"}, body)
        return len([self._accepted(answer) for answer in answers])

    def metrics(self) -> "Metrics":
        """Return what it says of itself."""
        return Metrics(self.ask("/metrics").text)

    def persist(self, snapshots: bool) -> None:
        """Show what was written in the next request; with `snapshots` put it on disk, as making one does."""
        if not snapshots:
            self.ask("/internal/force_flush")
            return
        made = self._snapshot("create")
        try:
            self._snapshot("delete", {"snapshot": made})
        except (Unavailable, Refused) as error:
            log_event(SNAPSHOT_KEPT, sink=self.place, snapshot=made, error=str(error))

    def revisions(self, series: Series, labels: Mapping[str, str], first: int, last: int) -> pa.RecordBatch:
        """Return its revisions of all windows with some labels that start from `first` to `last` (ms).

        Columns are those of WINDOW, `slot` (int64, ms after the start) and `revision` (int64).
        """
        matchers = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels.items()]
        # The server keeps for 10 s which series matched, also after it was asked to show new ones. So each
        # request has a matcher of its own, for a label that no series has.
        matchers.append(f'{_NO_LABEL}!="{uuid.uuid4().hex}"')
        form = {
            "match[]": f"{series.measurement}_{REVISION.name}{{{','.join(matchers)}}}",
            "start": str(first // 1000),
            "end": str((last + SLOTS) // 1000),
            "max_rows_per_line": "1000",
        }
        try:
            return _parse_revisions(self.ask("/api/v1/export", form).content, series.tag)
        except pa.ArrowInvalid as error:
            broken = str(error).splitlines()[0]
            raise Unavailable(f"{self.place} broke off what it exports ({broken})") from error

    def _snapshot(self, act: str, form: Mapping[str, str] | None = None) -> str:
        response = self.ask(f"/snapshot/{act}", form)
        try:
            answer: dict[str, Any] = response.json()
        except ValueError as error:
            raise Refused(
                f"{self.place} answers /snapshot/{act} by {describe_answer(response)}; {NEEDED}"
            ) from error
        if answer.get("status") != "ok":
            problem = f"{self.place} cannot {act} a snapshot: {answer.get('msg', answer)}"
            if VICTORIAMETRICS.passes(500, problem):
                raise Unavailable(problem)
            raise Refused(f"{problem}; let its process write its data folder")
        return str(answer.get("snapshot", ""))

    def _accepted(self, response: httpx.Response) -> httpx.Response:
        if response.status_code in (401, 403):
            raise Refused(
                f"{self.place} refuses this user or token ({describe_answer(response)}); {_AUTHORIZE}"
            )
        if not response.is_success:
            raise Refused(
                f"{self.place} refuses {response.request.url.path} ({describe_answer(response)}); {NEEDED}"
            )
        return response


@dataclass(frozen=True)
class Metrics:
    """A server's own metrics, in Prometheus' format."""

    text: str

    @property
    def started(self) -> str:
        """The second in which it was started: it tells a restart."""
        found = re.search(r"^vm_app_start_timestamp (\S+)$", self.text, re.MULTILINE)
        if found is None:
            raise Refused(f"the VictoriaMetrics does not tell at /metrics when it was started; {NEEDED}")
        return found[1]

    @property
    def flags(self) -> dict[str, str]:
        """Its flags, as far as it shows them."""
        return dict(re.findall(r'^flag\{name="([^"]*)", ?value="([^"]*)"', self.text, re.MULTILINE))


def _parse_revisions(lines: bytes, tag: str) -> pa.RecordBatch:
    """Exported series, a JSON document a line, as `Server.revisions` returns them."""
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
    parents, at = pc.list_parent_indices(times), pc.list_flatten(times)
    slot = pa.array((at.to_numpy() - 1) % SLOTS + 1)
    granularity, label = (
        pc.fill_null(pc.struct_field(metric, name), "").take(parents) for name in ("granularity", tag)
    )
    columns = [granularity, label, pc.subtract(at, slot), slot, pc.list_flatten(revisions).cast(pa.int64())]
    return pa.RecordBatch.from_arrays(columns, names=[*WINDOW, "slot", "revision"])


@cache
def _client(server: Server) -> httpx.Client:
    headers = {"authorization": f"Bearer {server.token}"} if server.token else {}
    auth = httpx.BasicAuth(server.user, server.password or "") if server.user else None
    return httpx.Client(base_url=server.url, headers=headers, auth=auth, timeout=TIMEOUT)
