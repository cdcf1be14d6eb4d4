"""Reports of a Layer 4 in a Redis stream: all of them, with their own bytes, whatever happens on the way."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from pipelines.jobs.relay import RelayJob, relay
from pipelines.relay.cursor import RelayedStream
from pipelines.relay.delivery import Delivery
from pipelines.relay.errors import Layer4Unavailable
from pipelines.relay.export import parse_page
from pipelines.relay.late import LateReports, read_recorded_at
from pipelines.settings import Settings
from tests.pipelines.relay.layer4 import Layer4, make_report
from tests.pipelines.relay.running import STREAM, read, shorten_pauses
from tests.servers import RedisServer
from transforms.redis.connection import Connection
from transforms.redis.errors import RedisUnavailable


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_pauses(monkeypatch)


def drain(layer4: Layer4, server: RedisServer, home: Path) -> Any:
    """Relay until the export is drained."""
    job = RelayJob(layer4.export, server.url, STREAM, home, once=True)
    return relay(job, Settings(), lambda _: None)


def make_reports(count: int) -> list[bytes]:
    return [make_report(number) for number in range(count)]


def test_an_export_is_drained_in_its_order_with_its_own_bytes(
    server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    reports = make_reports(2500)
    with Layer4(reports) as layer4:
        status = drain(layer4, server, tmp_path)
        assert read(client) == reports
        assert status.totals["exported"] == 2500
        layer4.offer(more := make_report(2500))
        drain(layer4, server, tmp_path)
        assert read(client) == [*reports, more]


@pytest.mark.parametrize(
    "fault", ["429", "500", "cut", "garbage", "short", "empty", "repeated", "false-last", "count"]
)
@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_fault_of_the_export_loses_no_report(
    server: RedisServer, client: redis.Redis, tmp_path: Path, fault: str, every: int
) -> None:
    reports = make_reports(350)
    with Layer4(reports) as layer4:
        layer4.largest = 100
        layer4.faults.extend([*["none"] * (every - 1), fault] * 4)
        drain(layer4, server, tmp_path)
        assert list(dict.fromkeys(read(client))) == reports


def test_reports_that_are_no_json_are_forwarded_as_they_are_and_stop_nothing_behind_them(
    server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    reports = make_reports(250)
    for place in (0, 99, 100, 101, 180, 249):
        reports[place] = reports[place].replace(b"1.50", b"NaN")
    reports[102] = reports[102][:-28]  # cut in a text
    with Layer4(reports) as layer4:
        layer4.largest = 100
        layer4.faults.extend(["garbage", "cut", "none", "short"] * 3)
        drain(layer4, server, tmp_path)
        layer4.offer(more := make_report(250))
        status = drain(layer4, server, tmp_path)
        assert read(client) == [*reports, more]
        assert status.totals["malformed"] == 7
        assert status.totals.get("lost", 0) == 0


def test_reports_dropped_from_the_front_while_one_reads_move_nothing_out_of_sight(
    server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    reports = make_reports(600)
    with Layer4(reports) as layer4:
        layer4.largest = 100

        def drop() -> None:
            layer4.dropped = max(0, min(client.xlen(STREAM) - 1, layer4.dropped + 13))

        layer4.on_request = drop
        status = drain(layer4, server, tmp_path)
        assert read(client) == reports
        assert status.totals.get("lost", 0) == 0


def test_reports_that_were_dropped_before_they_were_read_are_reported(
    server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    reports = make_reports(60)
    with Layer4(reports[:20]) as layer4:
        drain(layer4, server, tmp_path)
        layer4.offer(*reports[20:])
        layer4.dropped = 40
        status = drain(layer4, server, tmp_path)
        assert read(client) == reports[:20] + reports[40:]
        assert status.totals["lost"] == 1


def test_old_reports_go_to_an_archive_without_a_time(
    server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    reports = [make_report(0, "2025-10-22T12:00:00Z"), make_report(1), b'{"recorded_at": 7}', b'"text"']
    with Layer4(reports) as layer4:
        status = drain(layer4, server, tmp_path)
    assert read(client) == reports[1:]
    (path,) = tmp_path.glob("late-*.ndjson")
    (line,) = path.read_bytes().splitlines()
    assert b'"received_at":null' in line
    assert b"2025-10-22" in line
    assert str(path.parent) in status.backfill
    assert status.totals["archived"] == 1


class DeadError(Exception):
    """The process dies here."""


def kill_in(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, when: str, times: list[int]) -> None:
    """Let a process die before or after some calls of a method, counted from 1."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def dying(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in times and when == "before":
            raise DeadError
        result = original(*args, **options)
        if calls in times:
            raise DeadError
        return result

    monkeypatch.setattr(owner, name, dying)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("owner", "name"), [(RelayedStream, "move"), (LateReports, "append")])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_relay_that_dies_at_any_step_goes_on_without_a_loss(
    server: RedisServer, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    when: str, owner: type, name: str, at: int,
) -> None:  # fmt: skip
    reports = [make_report(n, "2025-10-22T12:00:00Z" if n % 7 == 0 else None) for n in range(250)]
    kill_in(monkeypatch, owner, name, when, [at])
    with Layer4(reports) as layer4:
        layer4.largest = 100
        with pytest.raises(DeadError):
            drain(layer4, server, tmp_path)
        drain(layer4, server, tmp_path)
    fresh = [each for number, each in enumerate(reports) if number % 7]
    assert read(client) == fresh  # in the stream: exactly once
    (path,) = tmp_path.glob("late-*.ndjson")
    archived = path.read_text()
    assert all(f'\\"{n}\\"' in archived for n in range(0, 250, 7))


def test_a_command_that_is_sent_again_after_a_lost_reply_adds_nothing_again(
    server: RedisServer, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = make_reports(150)
    original, sent = redis.Redis.eval, []

    def twice(self: redis.Redis, *words: Any) -> Any:
        sent.append(original(self, *words))
        return original(self, *words)

    monkeypatch.setattr(redis.Redis, "eval", twice)
    with Layer4(reports) as layer4:
        drain(layer4, server, tmp_path)
    assert sent
    assert read(client) == reports


def test_a_report_that_becomes_too_old_while_redis_is_away_is_archived_once(
    server: RedisServer, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    young, old = make_report(1), make_report(0, f"{datetime.now(UTC) - timedelta(minutes=40):%FT%TZ}")
    stream = RelayedStream(Connection(server.url), STREAM)
    stream.claim()
    original, outage, passed = RelayedStream.move, [True] * 3, 0.0

    def fail(*args: Any) -> None:
        nonlocal passed
        passed = 1000.0  # while Redis is away
        if outage:
            outage.pop()
            raise RedisUnavailable("away")
        original(*args)

    read_clock = RelayedStream.read_clock
    monkeypatch.setattr(RelayedStream, "read_clock", lambda self: read_clock(self) + passed)
    monkeypatch.setattr(RelayedStream, "move", fail)
    delivery = Delivery(stream, LateReports(tmp_path, STREAM), 3600, lambda _: None)
    asyncio.run(delivery.add([old, young], totals=Counter(exported=2)))
    assert read(client) == [young]
    (path,) = tmp_path.glob("late-*.ndjson")
    assert path.read_bytes().count(b"\n") == 1
    assert (stream.cursor.totals["archived"], stream.cursor.totals["exported"]) == (1, 2)


def test_a_jump_of_our_clock_does_not_change_which_reports_are_too_old(
    server: RedisServer, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = RelayedStream(Connection(server.url), STREAM)
    stream.claim()
    old = make_report(0, f"{datetime.now(UTC) - timedelta(minutes=90):%FT%TZ}")
    monkeypatch.setattr("time.time", lambda: 0.0)
    delivery = Delivery(stream, LateReports(tmp_path, STREAM), 3600, lambda _: None)
    asyncio.run(delivery.add([old, make_report(1)]))
    assert client.xlen(STREAM) == 1


@pytest.mark.parametrize(
    ("pagination", "counts"),
    [
        ("{}", (0, 0)),
        ('{"page": "1", "per_page": "100", "total_count": "7"}', (100, 7)),
        ('{"page": null, "per_page": 100.0, "total_count": null}', (100, 0)),
        ('{"per_page": -100, "total_count": [7]}', (0, 0)),
        ('{"per_page": 1e300, "total_count": 123456789012345678901234567890}', (0, 0)),
    ],
)
def test_no_number_of_the_pagination_keeps_a_page_from_being_read(
    pagination: str, counts: tuple[int, int]
) -> None:
    page = parse_page(f'{{"kpi_reports": [{{"a": 1}}], "pagination": {pagination}}}'.encode())
    assert page.reports == [b'{"a": 1}']
    assert (page.per_page, page.total) == counts


def test_a_report_that_is_nested_too_deep_ends_no_relay() -> None:
    deep = b'{"recorded_at": "2025-10-22T12:00:00Z", "a": ' + b"[" * 5000 + b"]" * 5000 + b"}"
    assert read_recorded_at(deep) is None  # it goes to the stream, where validation rejects it
    with suppress(Layer4Unavailable):
        parse_page(b'{"kpi_reports": [%b], "pagination": {}}' % deep)


def test_a_line_that_a_dead_relay_left_torn_is_cut_off(tmp_path: Path) -> None:
    LateReports(tmp_path, STREAM).append([b"{}"], [b"1"], 0)
    (path,) = tmp_path.glob("late-*.ndjson")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"source":')
    late = LateReports(tmp_path, STREAM)
    late.append([b"{}"], [b"1"], 0)
    late.append([b"{}"], [b"1"], 0)
    assert path.read_bytes() == 3 * whole
