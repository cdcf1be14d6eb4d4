"""InfluxDB as a sink.

Its protocol is tested on a server of this file's own, which is strict about what the documentation of
InfluxDB 2 says of authorisation, buckets, points and errors; that lines are read as they are meant, also on
VictoriaMetrics, which takes the same requests. It has not met an InfluxDB.
"""

import gzip
import json
import pickle
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pytest

from schemas.tables import AGGREGATIONS, FLEET
from tests.transforms.sinks.timeseries.test_line_protocol import parsed
from tests.victoriametrics import VictoriaMetricsServer
from transforms.core.errors import Refused, Unavailable
from transforms.sinks.sink import Written
from transforms.sinks.timeseries.influxdb import InfluxDB

NOON = datetime(2025, 10, 22, 12, 0, tzinfo=UTC)
START = int(NOON.timestamp()) * 1000
TOKEN = "t0ken"
Answer = tuple[int, dict[str, Any] | None]


class Fake(BaseHTTPRequestHandler):
    """A bucket `kpi b` of the organisation `o`: points, by series and time.

    `faults` are what becomes of writes, one each: another answer, or one that is lost, or halved, after the
    points were taken.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    points: ClassVar[dict[Any, dict[str, float]]]
    faults: ClassVar[list[Answer | str]]
    keeps: ClassVar[int]

    def do_GET(self) -> None:
        path, query = self.asked()
        if path == "/ping":
            return self.say(204)
        assert (path, query) == ("/api/v2/buckets", {"org": "o", "name": "kpi b"})
        rules = [{"type": "expire", "everySeconds": self.keeps}] if self.keeps else []
        return self.say(200, {"buckets": [{"name": "kpi b", "retentionRules": rules}]})

    def do_POST(self) -> None:
        path, query = self.asked()
        body = self.rfile.read(int(self.headers["content-length"]))
        assert (path, query.pop("precision")) == ("/api/v2/write", "ms")
        fault = self.faults.pop() if self.faults and body else None
        if isinstance(fault, tuple):
            return self.say(*fault)
        answer = self.take(query, body)
        if fault is None:
            return self.say(*answer)
        if fault == "halved":
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}")
        self.close_connection = True
        return None

    def take(self, query: dict[str, str], body: bytes) -> Answer:
        if self.headers["authorization"] != f"Token {TOKEN}":
            return 401, {"code": "unauthorized", "message": "unauthorized access"}
        if query["org"] != "o":
            return 404, {"code": "not found", "message": f'organization name "{query["org"]}" not found'}
        if query["bucket"] != "kpi b":
            return 404, {"code": "not found", "message": f'bucket "{query["bucket"]}" not found'}
        if not body:
            return 400, {"code": "invalid", "message": "writing requires points"}
        old = 0
        for point in parsed(gzip.decompress(body)):
            if self.keeps and point.time < START - self.keeps * 1000:
                old += 1
            else:
                self.points.setdefault((point.measurement, *point.tags.items(), point.time), {}).update(
                    point.fields
                )
        if old:
            beyond = f"partial write: points beyond retention policy dropped={old}"
            message = f"failure writing points to database: {beyond}"
            return 422, {"code": "unprocessable entity", "message": message}
        return 204, None

    def asked(self) -> tuple[str, dict[str, str]]:
        url = urlsplit(self.path)
        return url.path, {
            name: value for name, (value,) in parse_qs(url.query, strict_parsing=bool(url.query)).items()
        }

    def say(self, status: int, document: dict[str, Any] | None = None) -> None:
        body = json.dumps(document).encode() if document else b""
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def influx() -> Iterator[tuple[type[Fake], InfluxDB]]:
    """A server, and a sink that fits it."""

    class Handler(Fake):
        points: ClassVar[dict[Any, dict[str, float]]] = {}
        faults: ClassVar[list[Answer | str]] = []
        keeps = 0

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield Handler, sink(f"127.0.0.1:{server.server_port}")
        server.shutdown()


def sink(host: str, bucket: str = "kpi%20b", org: str = "o", token: str = TOKEN) -> InfluxDB:
    return InfluxDB.from_url(urlsplit(f"influxdb+http://{host}/{bucket}?org={org}"), token)


def fleet(*rows: dict[str, Any]) -> list[pa.RecordBatch]:
    """Rows of kpi_fleet, windows of 1 min at noon unless they say otherwise."""
    filled = [
        {"granularity": "1m", "time_window_start": NOON, "target_agent_type": "a", **row} for row in rows
    ]
    return [pa.RecordBatch.from_pylist(filled, schema=FLEET.schema)]


def test_a_window_is_a_point_at_its_start_and_its_newest_revision_replaces_the_others(
    influx: tuple[type[Fake], InfluxDB],
) -> None:
    server, place = influx
    older = fleet(
        {"revision": 4, "task_count": 2},
        {"revision": 2, "task_count": 1},
        {"target_agent_type": "b c", "revision": 1},
    )
    newer = fleet({"revision": 9, "task_count": 3, "avg_latency_ms": 5.0})
    for rows in (older, newer, newer):
        place.write(FLEET, rows)
    assert server.points == {
        ("kpi", ("granularity", "1m"), ("agent_type", "a"), START): {
            "tasks": 3,
            "revision": 9,
            "latency_seconds": 0.005,
        },
        ("kpi", ("granularity", "1m"), ("agent_type", "b c"), START): {"revision": 1},
    }


def test_agents_are_points_of_their_own_when_they_are_asked_for(influx: tuple[type[Fake], InfluxDB]) -> None:
    server, place = influx
    agents = InfluxDB.from_url(urlsplit(f"influxdb+{place.url}/kpi%20b?org=o&agent_id=true"), TOKEN)
    row = {
        "granularity": "5s",
        "time_window_start": NOON,
        "agent_id": "x",
        "target_agent_type": "t",
        "revision": 1,
    }
    assert (agents.tables, place.tables) == (("kpi_aggregations",), ("kpi_fleet",))
    assert agents.write(
        AGGREGATIONS, [pa.RecordBatch.from_pylist([row], schema=AGGREGATIONS.schema)]
    ) == Written(1, 1)
    assert server.points == {("kpi_agent", ("granularity", "5s"), ("agent_id", "x"), START): {"revision": 1}}


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("lost", "cannot be reached: Server disconnected"),
        ("halved", "cannot be reached: peer closed connection"),
        ((500, {"message": "internal error"}), 'is unavailable: 500 {"message": "internal error"}'),
        ((429, None), "is unavailable: 429 Too Many Requests"),
        ((503, None), "is unavailable: 503 Service Unavailable"),
    ],
)
def test_a_write_that_failed_for_now_can_be_done_again(
    influx: tuple[type[Fake], InfluxDB], fault: Any, cause: str
) -> None:
    server, place = influx
    rows = fleet({"revision": 3}, {"revision": 1, "target_agent_type": "b"})
    server.faults.append(fault)
    with pytest.raises(Unavailable) as unavailable:
        place.write(FLEET, rows)
    assert str(unavailable.value).startswith(f"InfluxDB at {place.url} {cause}")
    assert len(server.points) == (0 if isinstance(fault, tuple) else 2)
    assert place.write(FLEET, rows) == Written(2, 1)
    assert sorted(point["revision"] for point in server.points.values()) == [1, 3]


def test_points_beyond_the_retention_are_logged_and_not_counted(
    influx: tuple[type[Fake], InfluxDB], caplog: pytest.LogCaptureFixture
) -> None:
    server, place = influx
    server.keeps = 86_400
    rows = fleet(
        *({"revision": 1, "time_window_start": NOON - timedelta(hours=hours)} for hours in (1, 23, 25, 99))
    )
    assert place.write(FLEET, rows) == Written(2, 1)
    assert len(server.points) == 2
    assert "drops 2 windows, older than its bucket's retention" in caplog.text


def test_the_first_influxdb_2_says_500_of_points_beyond_the_retention(
    influx: tuple[type[Fake], InfluxDB],
) -> None:
    server, place = influx
    said = (
        "unexpected error writing points to database: partial write: points beyond retention policy dropped=1"
    )
    server.faults.append((500, {"code": "internal error", "message": said}))
    assert place.write(FLEET, fleet({"revision": 1})) == Written(0, 1)


@pytest.mark.parametrize(
    ("status", "said", "fix"),
    [
        (400, "unable to parse 'kpi x': missing field value", "see the first line that it names"),
        (
            422,
            'partial write: field type conflict: input field "tasks" on measurement "kpi" is type float',
            "a bucket of its own",
        ),
        (413, "too large", "have the proxy before it let larger requests through"),
    ],
)
def test_what_it_will_never_take_is_refused_with_its_reason(
    influx: tuple[type[Fake], InfluxDB], status: int, said: str, fix: str
) -> None:
    server, place = influx
    server.faults += [(status, {"code": "x", "message": said})]
    with pytest.raises(Refused) as refused:
        place.write(FLEET, fleet({"revision": 1}))
    assert str(refused.value).startswith(
        f"InfluxDB at {place.url} refuses to write to kpi b ({status} {said}); "
    )
    assert fix in str(refused.value)


WRONG = [
    ({"token": "wr0ng"}, "401 unauthorized access", "set KPIFLOW_INFLUXDB_TOKEN"),
    ({"bucket": "other"}, '404 bucket "other" not found', "create the bucket other in the organisation o"),
    (
        {"org": "other"},
        '404 organization name "other" not found',
        "create the bucket kpi b in the organisation other",
    ),
]


@pytest.mark.parametrize(("options", "cause", "fix"), WRONG)
def test_a_wrong_token_bucket_or_organisation_is_named_by_write_and_check(
    influx: tuple[type[Fake], InfluxDB], options: dict[str, str], cause: str, fix: str
) -> None:
    wrong = sink(influx[1].url.removeprefix("http://"), **options)
    with pytest.raises(Refused) as refused:
        wrong.write(FLEET, fleet({"revision": 1}))
    *_, finding = wrong.check()
    assert cause in str(refused.value)
    assert cause in finding.problem
    assert fix in str(refused.value)
    assert fix in finding.fix
    assert "wr0ng" not in f"{refused.value} {finding} {wrong!r} {wrong.name}"


@pytest.mark.parametrize(
    ("keeps", "said"), [(0, "it keeps points for ever"), (129_600, "it keeps points for 1.5 days: ")]
)
def test_a_good_bucket_has_no_problem_and_a_check_writes_nothing(
    influx: tuple[type[Fake], InfluxDB], keeps: int, said: str
) -> None:
    server, place = influx
    server.keeps = keeps
    findings = list(place.check())
    assert [finding.problem for finding in findings] == ["", "", ""]
    assert findings[-1].what.startswith(said)
    assert server.points == {}


def test_a_server_that_is_away_is_unavailable_and_a_check_says_so() -> None:
    away = sink("127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"InfluxDB at http://127.0.0.1:1 cannot be reached"):
        away.write(FLEET, fleet({"revision": 1}))
    (finding,) = away.check()
    assert finding.fix == "start it, or correct the URL"


def test_victoriametrics_reads_the_same_points(tmp_path: Path) -> None:
    row = {"granularity": "1h", "revision": 2, "avg_memory_mb": 1.5, "target_agent_type": 'a,b=c d"e'}
    with VictoriaMetricsServer(tmp_path) as server:
        sink(server.url.removeprefix("http://")).write(FLEET, fleet(row))
        found = server.samples()
    labels = (("agent_type", 'a,b=c d"e'), ("granularity", "1h"))
    assert {tuple(pair for pair in key if pair[0] != "db"): value for key, value in found.items()} == {
        (("__name__", "kpi_memory_bytes"), *labels): {START: 1_500_000},
        (("__name__", "kpi_revision"), *labels): {START: 2},
    }


@pytest.mark.parametrize(
    "text",
    [
        "influxdb+https://host/kpi?org=o",
        "influxdb+http://host:8086/behind/proxy/kpi?org=a+b%26c&agent_id=true",
    ],
)
def test_a_target_is_its_url(text: str) -> None:
    place = InfluxDB.from_url(urlsplit(text), "hidden", 7)
    other = pickle.loads(pickle.dumps(place))
    assert place.name == text
    assert (other, hash(other), other.gather_seconds) == (place, hash(place), 7)
    assert "hidden" not in repr(place)


@pytest.mark.parametrize(
    "text",
    [
        "influxdb+http://host/kpi",
        "influxdb+http://host?org=o",
        "influxdb+http:///kpi?org=o",
        "influxdb+http://host/kpi?org=o&x=1",
        "influxdb+http://host/kpi?org=o&agent_id=1",
        "influxdb+http://u:secret@host/kpi?org=o",
        "influxdb+http://host:x/kpi?org=o",
    ],
)
def test_a_url_that_means_nothing_is_answered_with_the_right_form(text: str) -> None:
    with pytest.raises(ValueError, match=r"influxdb\+https://HOST:PORT/BUCKET\?org=ORG") as error:
        InfluxDB.from_url(urlsplit(text), TOKEN)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("token", ["", "a\nb", "ä"])
def test_a_malformed_token_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(
        ValueError,
        match="the token is empty, or has characters that no token has; set KPIFLOW_INFLUXDB_TOKEN",
    ):
        InfluxDB.from_url(urlsplit("influxdb+http://host/kpi?org=o"), token)
