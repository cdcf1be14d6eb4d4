"""InfluxDB 2 as a sink: aggregates as points, through its HTTP API.

A point of the same measurement, tags and time replaces the fields of the one before, and a window's point
always has the time of its start. So a repeated write changes nothing, and a revision replaces the one written
before it. InfluxDB does not compare them: where an older revision is written again (a stream goes on from a
checkpoint), it is shown until the newer one has come again too.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlencode

import httpx
import pyarrow as pa

from schemas.tables import AGGREGATIONS, FLEET, Table
from transforms.core.error_signs import INFLUXDB
from transforms.core.errors import Finding, Refused, Unavailable
from transforms.core.events import WINDOWS_DROPPED, log_event
from transforms.sinks.sink import Written
from transforms.sinks.timeseries.http_client import TIMEOUT, HttpServer, describe_answer, parse_http_url
from transforms.sinks.timeseries.line_protocol import (
    FIELDS,
    REVISION,
    SERIES,
    format_bodies,
    keep_newest,
    to_milliseconds,
)

_FORM = "influxdb+https://HOST:PORT/BUCKET?org=ORG, and &agent_id=true for series of each agent"
_WRITE = "/api/v2/write"
_NO_POINTS = "requires points"
_TOKEN = "set KPIFLOW_INFLUXDB_TOKEN to a token that may read and write the bucket"


@dataclass(frozen=True)
class InfluxDB:
    """A bucket of the organisation `org` on an InfluxDB 2 at `url` (http or https).

    It takes kpi_fleet as the measurement `kpi` with the tags granularity and agent_type; with `agent_id` it
    takes kpi_aggregations instead, as `kpi_agent` with granularity and agent_id. All fields are floats.
    """

    url: str
    bucket: str
    org: str
    token: str = field(repr=False)
    gather_seconds: int = 5
    agent_id: bool = False

    @classmethod
    def from_url(cls, url: SplitResult, token: str, gather_seconds: int = 5) -> "InfluxDB":
        """Return the sink of `influxdb+https://HOST[:PORT][/PATH]/BUCKET?org=ORG[&agent_id=true]`.

        Raises:
            ValueError: the URL has another form, the message shows the right one; or the token is malformed.
        """
        path, _, bucket = url.path.rpartition("/")
        options = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        org, agents = options.pop("org", ""), options.pop("agent_id", "false")
        if not bucket or not org or options or agents not in ("true", "false"):
            raise ValueError(f"give {_FORM}")
        if not token or not token.isascii() or not token.isprintable():
            raise ValueError(f"the token is empty, or has characters that no token has; {_TOKEN}")
        return cls(
            parse_http_url(url, _FORM) + path, unquote(bucket), org, token, gather_seconds, agents == "true"
        )

    @property
    def name(self) -> str:
        options = {"org": self.org} | ({"agent_id": "true"} if self.agent_id else {})
        return f"influxdb+{self.url}/{self.bucket}?{urlencode(options)}"

    @property
    def tables(self) -> tuple[str, ...]:
        return (AGGREGATIONS.name,) if self.agent_id else (FLEET.name,)

    def write(self, table: Table, rows: Sequence[pa.RecordBatch]) -> Written:
        """As `Sink.write`. Windows older than the bucket's retention are dropped, logged and not counted."""
        wanted = keep_newest(table, rows)
        times = to_milliseconds(wanted["time_window_start"])
        requests = dropped = 0
        for body in format_bodies(wanted, SERIES[table.name], times, (*FIELDS, REVISION)):
            answers = self._server.post_lines(_WRITE, self._params, body)
            requests += len(answers)
            dropped += sum(map(self._count_dropped, answers))
        if dropped:
            log_event(WINDOWS_DROPPED, sink=self._place, windows=dropped, limit="bucket's retention")
        return Written(wanted.num_rows - dropped, requests)

    def check(self) -> Iterator[Finding]:
        """As `Sink.check`."""
        try:
            self._server.send("GET", "/ping")
            yield Finding(f"{self.url} answers")
            answer = self._server.send("POST", _WRITE, params=self._params, content=b"")
            if _NO_POINTS not in answer.text:
                self._count_dropped(answer)
            yield Finding(f"the bucket {self.bucket} of {self.org} can be written")
            yield self._find_retention()
        except Unavailable as error:
            yield Finding(f"{self.url} can be reached", str(error), "start it, or correct the URL")
        except Refused as error:
            yield Finding(
                f"the bucket {self.bucket} of {self.org} can be written", *str(error).rsplit("; ", 1)
            )

    @property
    def _place(self) -> str:
        return f"InfluxDB at {self.url}"

    @property
    def _params(self) -> dict[str, str]:
        return {"org": self.org, "bucket": self.bucket, "precision": "ms"}

    @property
    def _server(self) -> HttpServer:
        return HttpServer(_client(self.url, self.token), self._place, INFLUXDB)

    def _count_dropped(self, response: httpx.Response) -> int:
        """How many points a write left out as older than the bucket's retention.

        Raises:
            Refused: it left them out for another reason.
        """
        if response.is_success:
            return 0
        message = _read_message(response)
        if "retention policy" in message and "conflict" not in message:
            count = re.search(r"dropped[= ](\d+)", message)
            return int(count[1]) if count else 0
        fixes = {
            401: _TOKEN,
            403: _TOKEN,
            404: f"create the bucket {self.bucket} in the organisation {self.org}, or correct their names",
            413: "have the proxy before it let larger requests through",
            422: "write to a bucket of its own, where no field has another type",
        }
        limit = (
            "raise that limit of the server, or write without agent_id, which makes a series of each agent"
        )
        fix = fixes.get(response.status_code, "see the first line that it names")
        fix = fixes[422] if "conflict" in message else limit if "max-" in message else fix
        raise Refused(
            f"{self._place} refuses to write to {self.bucket} ({response.status_code} {message}); {fix}"
        )

    def _find_retention(self) -> Finding:
        """How long the bucket keeps points, if the token may know."""
        answer = self._server.send("GET", "/api/v2/buckets", params={"org": self.org, "name": self.bucket})
        try:
            rules = answer.json()["buckets"][0]["retentionRules"]
            seconds = sum(rule["everySeconds"] for rule in rules)
        except (ValueError, LookupError, TypeError):
            return Finding("this token cannot see its retention; older points are dropped, and logged")
        keeps = f"for {seconds / 86400:g} days: older ones are dropped, and logged" if seconds else "for ever"
        return Finding(f"it keeps points {keeps}")


def _read_message(response: httpx.Response) -> str:
    """The message of an error's document, or the answer as it is."""
    try:
        document: Any = json.loads(response.text)
        return " ".join(str(document["message"]).split())[:500]
    except (ValueError, LookupError, TypeError):
        return describe_answer(response)


@cache
def _client(url: str, token: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"authorization": f"Token {token}"}, timeout=TIMEOUT)
