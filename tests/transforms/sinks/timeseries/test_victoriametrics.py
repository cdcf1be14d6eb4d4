"""VictoriaMetrics as a sink, on the real server: what queries show after repetitions, revisions, crashes and
cut answers."""

import pickle
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
import httpx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.tables import AGGREGATIONS, FLEET, GRANULARITIES
from tests.builders import agent
from tests.patience import PATIENCE
from tests.victoriametrics import VictoriaMetricsServer
from transforms.core.errors import Refused, Unavailable
from transforms.sinks.sink import Written
from transforms.sinks.timeseries.victoriametrics import VictoriaMetrics, next_slots
from transforms.sinks.timeseries.victoriametrics_server import SLOTS, Server

NOON = datetime(2025, 10, 22, 12, 0, tzinfo=UTC)
START = int(NOON.timestamp())
Row = dict[str, Any]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VictoriaMetricsServer]:
    """A server for tests that write under a label of their own."""
    with VictoriaMetricsServer(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[VictoriaMetricsServer]:
    """A server that may be killed."""
    with VictoriaMetricsServer(tmp_path / "data") as server:
        yield server


def fleet(*rows: Row) -> list[pa.RecordBatch]:
    """Rows of kpi_fleet, windows of 5 s at noon of one task each unless they say otherwise."""
    filled = [
        {"granularity": "5s", "time_window_start": NOON, "target_agent_type": "a", "task_count": 1, **row}
        for row in rows
    ]
    return [pa.RecordBatch.from_pylist(filled, schema=FLEET.schema)]


def window(place: int, revision: int = 1, **values: Any) -> Row:
    """The 5 s window at a place after noon; its number of tasks tells the revision."""
    return {
        "time_window_start": NOON + timedelta(seconds=5 * place),
        "revision": revision,
        "task_count": revision,
        **values,
    }


def shown(server: VictoriaMetricsServer, match: str = "kpi_tasks") -> dict[tuple[str, datetime], float]:
    """{(agent type, start of the 5 s window): tasks}, of windows that show one sample; others are an
    error."""
    found = {}
    for labels, samples in server.samples(match).items():
        for at, value in samples.items():
            key = dict(labels).get("agent_type", ""), datetime.fromtimestamp((at - 1) // SLOTS * 5, UTC)
            assert key not in found
            found[key] = value
    return found


def test_a_row_is_a_sample_of_each_metric_just_after_its_windows_start(own: VictoriaMetricsServer) -> None:
    row = {
        "revision": 10,
        "task_count": 4,
        "avg_latency_ms": 120.0,
        "avg_memory_mb": 512.5,
        "granularity": "1m",
    }
    assert VictoriaMetrics(own.url).write(FLEET, fleet(row, {**row, "target_agent_type": None})) == Written(
        2, 1
    )
    values = {"revision": 10.0, "tasks": 4.0, "latency_seconds": 0.12, "memory_bytes": 512_500_000.0}
    assert own.samples() == {
        (("__name__", f"kpi_{name}"), *agent_type, ("granularity", "1m")): {START * 1000 + 221: value}
        for name, value in values.items()
        for agent_type in ([("agent_type", "a")], [])
    }


def test_agents_are_series_of_their_own_when_they_are_asked_for(own: VictoriaMetricsServer) -> None:
    sink = VictoriaMetrics(own.url, agent_id=True)
    row = {
        "granularity": "1h",
        "time_window_start": NOON,
        "target_agent_type": "t",
        "task_count": 3,
        "revision": 5,
    }
    rows = pa.RecordBatch.from_pylist(
        [{**row, "agent_id": agent(1)}, {**row, "agent_id": agent(2)}], schema=AGGREGATIONS.schema
    )
    assert (sink.tables, VictoriaMetrics(own.url).tables) == (("kpi_aggregations",), ("kpi_fleet",))
    sink.write(AGGREGATIONS, [rows])
    assert own.query("kpi_agent_tasks", START + 1) == {
        (("__name__", "kpi_agent_tasks"), ("agent_id", agent(number)), ("granularity", "1h")): 3.0
        for number in (1, 2)
    }


def test_a_repeated_write_changes_nothing(own: VictoriaMetricsServer) -> None:
    sink, rows = VictoriaMetrics(own.url), fleet(*(window(place, place + 1) for place in range(30)))
    assert sink.write(FLEET, rows).rows == 30
    before = own.samples()
    assert sink.write(FLEET, rows).rows == 0
    own.restart()
    assert sink.write(FLEET, [*rows, *rows]).rows == 0
    assert own.samples() == before
    assert sink.write(FLEET, []) == Written(0, 0)


def test_a_second_sample_of_one_time_replaces_the_first_until_parts_are_merged(
    own: VictoriaMetricsServer,
) -> None:
    """Why revisions have times of their own: the last write wins only for a while."""
    names = [str(number) for number in range(200)]
    for value in (3, 2, 1):
        lines = [f"x,name={name} v={value} {START * 1000}" for name in names]
        assert httpx.post(f"{own.url}/write?precision=ms", content="\n".join(lines)).is_success
        own.get("/internal/force_flush")
    assert len(own.samples("x_v")) == 200
    own.get("/internal/force_merge")
    own.restart()
    assert {value for samples in own.samples("x_v").values() for value in samples.values()} != {1.0}


@settings(max_examples=8)
@given(st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=3), min_size=1, max_size=5), st.booleans())
def test_the_largest_revision_shows_in_whatever_order_they_come(
    shared: VictoriaMetricsServer, writes: list[list[int]], merged: bool
) -> None:
    run = str(uuid.uuid4())
    sink = VictoriaMetrics(shared.url, labels=(("run", run),))
    for revisions in writes:
        sink.write(FLEET, fleet(*(window(place, revision) for place, revision in enumerate(revisions))))
    if merged:
        shared.get("/internal/force_merge")
    match = f'kpi_tasks{{run="{run}"}}'
    wanted = {
        ("a", NOON + timedelta(seconds=5 * place)): max(write[place] for write in writes)
        for place in range(3)
    }
    assert shown(shared, match) == wanted
    (total,) = shared.query(f"sum_over_time({match}[15s])", START + 15).values()
    assert total == sum(wanted.values())


def test_revisions_of_a_minute_and_an_hour_stand_alone_too(own: VictoriaMetricsServer) -> None:
    sink = VictoriaMetrics(own.url)
    for revision in (7, 20, 11, 21):
        sink.write(FLEET, fleet(*(window(0, revision, granularity=name) for name in GRANULARITIES)))
    found = own.query("count_over_time(kpi_tasks[1h]) * 1000 + last_over_time(kpi_tasks[1h])", START + 3600)
    assert found == {(("agent_type", "a"), ("granularity", name)): 1021.0 for name in GRANULARITIES}


@given(st.lists(st.tuples(st.integers(1, 1 << 53), st.integers(1, 1 << 53), st.integers(0, SLOTS))))
def test_a_larger_revision_has_a_later_slot_an_equal_one_the_same_and_a_smaller_one_none(
    rows: list[tuple[int, int, int]],
) -> None:
    revision, stored, slot = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    for (ours, theirs, place), chosen in zip(rows, next_slots(revision, stored, slot).tolist()):
        if place == 0 or ours > theirs:
            assert place < chosen <= max(place + 1, 3392) or (chosen == 0 and place == SLOTS)
        else:
            assert chosen == (place if ours == theirs else 0)


@given(st.integers(1, 1 << 53), st.integers(1, 1 << 53))
def test_writers_that_do_not_see_each_other_give_the_larger_of_two_revisions_a_later_slot(
    one: int, other: int
) -> None:
    nothing = np.zeros(2, dtype=np.int64)
    smaller, larger = sorted((one, other))
    early, late = next_slots(np.array([smaller, larger]), nothing, nothing).tolist()
    assert early < late or (early == late and (smaller == larger or larger < smaller * 1.02))


@settings(max_examples=5)
@given(
    st.sets(
        st.text(max_size=8) | st.text("a\\,= \n\r%\0\x7f\"'#|{}.*(+[?", max_size=6), min_size=1, max_size=80
    )
)
def test_any_text_is_a_label_under_which_revisions_are_found_again(
    shared: VictoriaMetricsServer, texts: set[str]
) -> None:
    run = str(uuid.uuid4())
    sink = VictoriaMetrics(shared.url, labels=(("run", run),))
    rows = fleet(
        *({**window(0, 1 + number), "target_agent_type": text} for number, text in enumerate([*texts, None]))
    )
    assert [sink.write(FLEET, rows).rows for _ in range(2)] == [len(texts) + 1, 0]
    assert sorted(shown(shared, f'kpi_tasks{{run="{run}"}}').values()) == list(range(1, len(texts) + 2))


def test_a_new_series_is_found_though_the_server_itself_was_first_to_make_it_searchable(
    own: VictoriaMetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    persist = Server.persist

    def persist_late(server: Server, snapshots: bool) -> None:
        time.sleep(1.5)  # once a second the server does so, and then keeps what searches found for 10 s
        persist(server, snapshots)

    monkeypatch.setattr(Server, "persist", persist_late)
    sink = VictoriaMetrics(own.url)
    assert [sink.write(FLEET, fleet(window(0, revision))).rows for revision in (7, 7, 8)] == [1, 0, 1]
    assert shown(own) == {("a", NOON): 8.0}


def test_outputs_that_share_a_server_under_labels_of_their_own_do_not_mix(own: VictoriaMetricsServer) -> None:
    first, second = (VictoriaMetrics(own.url, labels=(("site", name),)) for name in ("b c", 'd="e"'))
    first.write(FLEET, fleet(window(0, 9)))
    second.write(FLEET, fleet(window(0, 4)))
    assert shown(own, 'kpi_tasks{site="b c"}') == {("a", NOON): 9.0}
    assert shown(own, 'kpi_tasks{site="d=\\"e\\""}') == {("a", NOON): 4.0}


class Cut(BaseHTTPRequestHandler):
    """Passes requests on to `server`; the request whose number from 0 is `at` meets with `fault`."""

    disable_nagle_algorithm = True
    protocol_version = "HTTP/1.1"
    upstream: VictoriaMetricsServer
    passing = httpx.Client(verify=False, trust_env=False, timeout=PATIENCE)
    at = -1
    fault: Callable[["Cut"], None]
    seen = 0

    def do_POST(self) -> None:
        cls = type(self)
        self.body = self.rfile.read(int(self.headers["content-length"]))
        cls.seen += 1
        if cls.seen - 1 == cls.at:
            cls.fault(self)
        else:
            self.answer()

    def forward(self) -> httpx.Response:
        headers = {
            name: self.headers[name] for name in ("content-type", "content-encoding") if name in self.headers
        }
        return self.passing.post(self.upstream.url + self.path, content=self.body, headers=headers)

    def answer(self, part: float = 1.0) -> None:
        response = self.forward()
        self.send_response(response.status_code)
        if response.status_code != 204:
            self.send_header("content-length", str(len(response.content)))
        self.end_headers()
        self.wfile.write(response.content[: int(len(response.content) * part)])

    def end(self) -> None:
        self.close_connection = True

    def lost(self) -> None:
        """The server does as it is asked; its answer never comes."""
        self.forward()
        self.end()

    def halved(self) -> None:
        """The connection breaks in the middle of the answer."""
        self.answer(0.5)
        self.end()

    def crashed_before(self) -> None:
        """The server crashes, and has started anew when it gets the request."""
        self.upstream.restart()
        self.answer()

    def crashed_after(self) -> None:
        """The server crashes when it has answered."""
        self.answer()
        self.upstream.restart()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def cut(own: VictoriaMetricsServer) -> Iterator[tuple[type[Cut], str]]:
    """A handler between a client and the server `own`, and its URL."""

    class Handler(Cut):
        upstream = own

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield Handler, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    "fault",
    [
        Cut.lost,
        Cut.halved,
        *(pytest.param(fault, marks=pytest.mark.slow) for fault in (Cut.crashed_before, Cut.crashed_after)),
    ],
)
def test_nothing_is_lost_or_doubled_whichever_request_meets_a_fault(
    own: VictoriaMetricsServer, cut: tuple[type[Cut], str], fault: Callable[[Cut], None]
) -> None:
    handler, url = cut
    sink = VictoriaMetrics(url)
    VictoriaMetrics(own.url).write(FLEET, fleet(*(window(place, 1) for place in range(0, 40, 2))))
    place, handler.fault = 0, fault
    while True:
        handler.seen, handler.at = 0, place
        for _ in range(3):
            with suppress(Unavailable):
                sink.write(FLEET, fleet(window(place, 7), window(place, 3, target_agent_type="b")))
                break
        else:
            pytest.fail("one fault holds up more than two writes")
        if handler.seen <= place:
            break
        place += 1
    assert place >= 6
    own.restart()
    even = {("a", NOON + timedelta(seconds=5 * late)): 1.0 for late in range(0, 40, 2)}
    moments = [NOON + timedelta(seconds=5 * number) for number in range(place + 1)]
    assert shown(own) == even | {("a", moment): 7.0 for moment in moments} | {
        ("b", moment): 3.0 for moment in moments
    }


@pytest.mark.parametrize("revision", [4, 10])
def test_a_write_of_another_job_between_two_requests_leaves_the_larger_revision(
    own: VictoriaMetricsServer, cut: tuple[type[Cut], str], revision: int
) -> None:
    handler, url = cut
    place = 0

    def overtake(self: Cut) -> None:
        VictoriaMetrics(own.url).write(
            FLEET, fleet(window(place, revision), window(place, 6, target_agent_type="b"))
        )
        self.answer()

    handler.fault = overtake
    while handler.seen > handler.at:
        handler.seen, handler.at = 0, place
        VictoriaMetrics(url).write(FLEET, fleet(window(place, 7), window(place, 3, target_agent_type="b")))
        place += 1
    assert place >= 6
    moments = [NOON + timedelta(seconds=5 * number) for number in range(place)]
    wanted = {("a", moment): float(max(7, revision)) for moment in moments} | {
        ("b", moment): 6.0 for moment in moments
    }
    del wanted[("b", moments[-1])]
    assert shown(own) == wanted | {("a", moments[-1]): 7.0, ("b", moments[-1]): 3.0}


def test_the_last_slot_is_still_the_windows_and_there_is_none_after_it(
    own: VictoriaMetricsServer, caplog: pytest.LogCaptureFixture
) -> None:
    last = START * 1000 + SLOTS
    httpx.post(f"{own.url}/write?precision=ms", content=f"kpi,granularity=5s,agent_type=a revision=3 {last}")
    own.get("/internal/force_flush")
    assert [
        VictoriaMetrics(own.url).write(FLEET, fleet(window(0, revision))).rows for revision in (3, 4)
    ] == [0, 0]
    assert list(own.samples("kpi_tasks").values()) == [{last: 3.0}]
    assert "no revision is left for another change of 1 window" in caplog.text


def test_a_server_that_is_away_is_unavailable_until_it_is_back(own: VictoriaMetricsServer) -> None:
    sink = VictoriaMetrics(own.url)
    own.kill()
    with pytest.raises(Unavailable, match=f"VictoriaMetrics at {own.url} cannot be reached: .*refused"):
        sink.write(FLEET, fleet(window(0)))
    own.start()
    assert sink.write(FLEET, fleet(window(0))).rows == 1


def test_two_writers_at_once_leave_the_largest_revisions(own: VictoriaMetricsServer) -> None:
    writes = [
        [fleet(*(window(place, base + 5 * round_) for place in range(20))) for round_ in range(6)]
        for base in (1, 3)
    ]
    problems: list[BaseException] = []

    def writer(mine: list[list[pa.RecordBatch]]) -> None:
        for rows in mine:
            try:
                VictoriaMetrics(own.url).write(FLEET, rows)
            except BaseException as error:
                problems.append(error)

    threads = [threading.Thread(target=writer, args=(mine,)) for mine in writes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert shown(own) == {("a", NOON + timedelta(seconds=5 * place)): 28.0 for place in range(20)}


def test_windows_beyond_the_retention_are_logged_and_not_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    recent = [{**window(0, 2), "time_window_start": now - timedelta(hours=hours)} for hours in (1, 2)]
    old = [{**window(0, 2), "time_window_start": now - timedelta(days=days)} for days in (40, 50, 60)]
    with VictoriaMetricsServer(tmp_path, retention="10d") as server:
        assert VictoriaMetrics(server.url).write(FLEET, fleet(*recent, *old)) == Written(2, 1)
        assert set(shown(server)) == {("a", row["time_window_start"]) for row in recent}
    assert "drops 3 windows, older than its -retentionPeriod" in caplog.text


def test_without_snapshots_a_write_shows_at_once(own: VictoriaMetricsServer) -> None:
    sink = VictoriaMetrics(own.url, snapshots=False)
    assert [sink.write(FLEET, fleet(window(0, revision))).rows for revision in (3, 3, 5)] == [1, 0, 1]
    assert shown(own) == {("a", NOON): 5.0}


def test_a_good_server_has_no_problem_and_a_check_changes_nothing(own: VictoriaMetricsServer) -> None:
    findings = list(VictoriaMetrics(own.url).check())
    assert [finding.problem for finding in findings] == [""] * len(findings)
    assert any("-retentionPeriod=100y" in finding.what for finding in findings)
    assert own.samples() == {}


@pytest.mark.parametrize(
    ("dedup", "problem"),
    [("0s", "queries count each revision of a window"), ("1m", "queries miss windows of 5 s"), ("1s", None)],
)
def test_a_check_reports_an_interval_that_does_not_fit(
    tmp_path: Path, dedup: str, problem: str | None
) -> None:
    with VictoriaMetricsServer(tmp_path, dedup=dedup) as server:
        found = [(one.problem, one.fix) for one in VictoriaMetrics(server.url).check() if one.problem]
    assert found == ([(problem, "start it with -dedup.minScrapeInterval=5s")] if problem else [])


def test_a_check_of_a_server_that_is_away_says_so_and_ends() -> None:
    (finding,) = VictoriaMetrics("http://127.0.0.1:1").check()
    assert "cannot be reached" in finding.problem
    assert finding.fix.startswith("start it")


def test_a_wrong_password_is_refused_with_the_fix_and_is_not_shown(tmp_path: Path) -> None:
    with VictoriaMetricsServer(tmp_path, "-httpAuth.username=u", "-httpAuth.password=right") as server:
        wrong, right = (VictoriaMetrics(server.url, user="u", password=word) for word in ("wr0ng", "right"))
        with pytest.raises(
            Refused, match=r"refuses this user or token .*KPIFLOW_VICTORIAMETRICS_TOKEN"
        ) as refused:
            wrong.write(FLEET, fleet(window(0)))
        problems = [finding.problem for finding in wrong.check()]
        assert "refuses this user or token" in problems[-1]
        assert "wr0ng" not in f"{refused.value} {problems} {wrong!r} {wrong.name}"
        assert right.write(FLEET, fleet(window(0))).rows == 1


def test_what_is_no_victoriametrics_is_refused(cut: tuple[type[Cut], str]) -> None:
    with pytest.raises(
        Refused, match=r"refuses /nowhere/metrics .* give a single-node server, or a proxy that passes /write"
    ):
        VictoriaMetrics(f"{cut[1]}/nowhere").write(FLEET, fleet(window(0)))


@pytest.mark.parametrize(
    "text",
    [
        "victoriametrics+http://localhost:8428",
        "victoriametrics+https://vm.example.org/prefix?agent_id=true",
        "victoriametrics+http://[::1]:8428?snapshots=false&extra_label=site%3Da+b&extra_label=x%3Dy%3Dz",
    ],
)
def test_a_target_is_its_url(text: str) -> None:
    sink = VictoriaMetrics.from_url(urlsplit(text), 7, user="u", password="secret", token="hidden")
    other = pickle.loads(pickle.dumps(sink))
    assert sink.name == text
    assert (other, hash(other)) == (sink, hash(sink))
    assert not re.search("secret|hidden", repr(sink))
    assert sink.gather_seconds == 7


@pytest.mark.parametrize(
    "text",
    [
        "victoriametrics+http://",
        "victoriametrics+http://host:port",
        "victoriametrics+http://host:8428?agent_id=yes",
        "victoriametrics+http://host?agents=true",
        "victoriametrics+http://user:secret@host",
        "victoriametrics+http://host#x",
        "victoriametrics+http://host?extra_label=granularity=1m",
        "victoriametrics+http://host?extra_label=a",
        "victoriametrics+http://host?extra_label=a-b=c",
        "victoriametrics+http://host?extra_label=a=%0A",
    ],
)
def test_a_url_that_means_nothing_is_answered_with_the_right_form(text: str) -> None:
    with pytest.raises(ValueError, match=r"victoriametrics\+http://HOST:PORT") as error:
        VictoriaMetrics.from_url(urlsplit(text))
    assert "secret" not in str(error.value)


SUMMARY = """
WITH (
  tasks = last_over_time(kpi_agent_tasks{granularity="1h"}[1h]),
  mean  = last_over_time(kpi_agent_latency_seconds{granularity="1h"}[1h]),
  dev   = last_over_time(kpi_agent_latency_stddev_seconds{granularity="1h"}[1h]) default 0,
  n     = sum_over_time(tasks[1d:1h]),
  avg   = sum_over_time((tasks * mean)[1d:1h]) / n
)
"""
LATENCY = SUMMARY + "avg"
DEVIATION = (
    SUMMARY
    + "sqrt((sum_over_time(((tasks - 1) * dev ^ 2 + tasks * mean ^ 2)[1d:1h]) - n * avg ^ 2) / (n - 1))"
)
ACCURACY = """
sort_desc(
  sum_over_time((
      last_over_time(kpi_agent_accuracy_ratio{granularity="1h"}[1h])
      * last_over_time(kpi_agent_tasks{granularity="1h"}[1h])
  )[1d:1h]) / sum_over_time(kpi_agent_tasks{granularity="1h"}[1d])
)
"""
TASKS = 'sum_over_time(kpi_agent_tasks{granularity="1h"}[1d])'
HOURLY = {
    "avg_latency": 'last_over_time(kpi_agent_latency_seconds{granularity="1h"}[1h])',
    "avg_accuracy": 'last_over_time(kpi_agent_accuracy_ratio{granularity="1h"}[1h])',
    "sample_size": 'last_over_time(kpi_agent_tasks{granularity="1h"}[1h])',
}
OFTEN = ' if last_over_time(kpi_agent_tasks{granularity="1h"}[1h]) > 10'


@pytest.fixture(scope="module")
def day(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[VictoriaMetricsServer, duckdb.DuckDBPyConnection]]:
    """A server that has the hours of a day's reports of four agents, some hours twice; and a database that
    has the reports."""
    random = np.random.default_rng(5)
    count = 900
    reports = {
        "agent_id": [agent(int(number)) for number in random.integers(0, 4, count)],
        "recorded_at": [
            NOON + timedelta(seconds=float(at)) for at in random.triangular(0, 20_000, 86_400, count)
        ],
        "latency_ms": random.lognormal(5.5, 0.3, count),
        "accuracy": random.uniform(0.5, 1.0, count),
    }
    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    database.register("kpi_reports", pa.table(reports))
    hours = """
        SELECT '1h' AS granularity, date_trunc('hour', recorded_at) AS time_window_start, agent_id,
            count(*) AS task_count, avg(latency_ms) AS avg_latency_ms, avg(accuracy) AS avg_accuracy,
            stddev_samp(latency_ms) AS latency_stddev, count(*) AS revision
        FROM kpi_reports {} GROUP BY ALL"""
    with VictoriaMetricsServer(tmp_path_factory.mktemp("day")) as server:
        sink = VictoriaMetrics(server.url, agent_id=True)
        for condition in ("WHERE accuracy < 0.8", "", "WHERE accuracy > 0.6"):
            rows = database.sql(hours.format(condition)).to_arrow_table()
            sink.write(AGGREGATIONS, rows.to_batches())
        yield server, database


def agents(found: dict[tuple[tuple[str, str], ...], Any]) -> dict[str, Any]:
    return {dict(labels)["agent_id"]: value for labels, value in found.items()}


def test_the_agent_summary_is_that_of_the_reports(
    day: tuple[VictoriaMetricsServer, duckdb.DuckDBPyConnection],
) -> None:
    server, database = day
    wanted = database.sql(
        "SELECT agent_id, avg(latency_ms) / 1000, avg(accuracy), count(*), stddev(latency_ms) / 1000 "
        "FROM kpi_reports GROUP BY ALL"
    ).fetchall()
    for column, query in enumerate([LATENCY, ACCURACY, TASKS, DEVIATION], 1):
        assert agents(server.query(query, START + 86_400)) == pytest.approx(
            {row[0]: row[column] for row in wanted}, rel=1e-9
        )


def test_the_hourly_pattern_is_that_of_the_reports(
    day: tuple[VictoriaMetricsServer, duckdb.DuckDBPyConnection],
) -> None:
    server, database = day
    wanted = database.sql(
        "SELECT agent_id, epoch(date_trunc('hour', recorded_at))::BIGINT AS hour, "
        "avg(latency_ms) / 1000 AS avg_latency, avg(accuracy) AS avg_accuracy, count(*) AS sample_size "
        "FROM kpi_reports GROUP BY ALL HAVING count(*) > 10"
    ).to_arrow_table().to_pylist()  # fmt: skip
    assert 20 < len(wanted) < 90
    for name, query in HOURLY.items():
        shown_ = agents(server.query_range(query + OFTEN, START + 3600, START + 86_400, 3600))
        found = {
            (one, end - 3600): value for one, samples in shown_.items() for end, value in samples.items()
        }
        assert found == pytest.approx({(row["agent_id"], row["hour"]): row[name] for row in wanted}, rel=1e-9)
