"""A job runs under exactly the ACL that the code lists and the docs show: every command is used, and none is
missing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from pipelines.service.live import ZERO, LiveReports, format_id, parse_id
from tests.servers import RedisServer
from transforms.redis.access import ACL, KEY, LEASES, LIVE_STREAMS, make_rules
from transforms.redis.connection import Connection
from transforms.redis.errors import RedisUnavailable
from transforms.redis.probe import find_problem
from transforms.sinks import publish
from transforms.sinks.publish import LiveStreams
from transforms.sources.redis.check import check_streams, judge_server, verify_access
from transforms.sources.redis.group import Group
from transforms.sources.redis.lease import RedisLease
from transforms.sources.redis.reader import Reader
from transforms.sources.redis.snapshot import read_entries
from transforms.sources.redis.stream_state import read_stream
from transforms.sources.source import GroupTaken

DATABASE = 1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(
        tmp_path_factory.mktemp("redis"), "--unixsocket", str(tmp_path_factory.mktemp("socket") / "s")
    ) as server:
        yield server


@pytest.fixture
def admin(server: RedisServer) -> Iterator[redis.Redis]:
    """A client that may do everything, of a Redis that holds nothing and has counted no command."""
    with server.client() as client:
        client.flushall()
        yield client


def permitted(
    server: RedisServer, admin: redis.Redis, *uses: str, key: str = "kpi", user: str = "worker"
) -> Connection:
    """A user who may do what some uses need, and nothing else."""
    admin.execute_command(
        "ACL", "SETUSER", user, "reset", "on", ">pw", *acl_words(make_rules(*uses, key=key))
    )
    return Connection(server.url.removesuffix("0") + str(DATABASE), user, "pw")


def acl_words(text: str) -> list[str]:
    """The rules as words: a selector is one."""
    words: list[str] = []
    for word in text.split():
        if words and words[-1].startswith("(") and not words[-1].endswith(")"):
            words[-1] += f" {word}"
        else:
            words.append(word)
    return words


def used(admin: redis.Redis) -> set[str]:
    """The commands that Redis has run, as an ACL names them, without those that its administrator or redis-py
    itself gave."""
    ignored = {"acl|setuser", "config|resetstat", "flushall", "auth", "hello", "client|setinfo"}
    return {name.removeprefix("cmdstat_") for name in admin.info("commandstats")} - ignored


def listed(*uses: str) -> set[str]:
    return {command for use in uses for grant in ACL[use] for command in grant.commands}


def stream_all(connection: Connection) -> None:
    """Every way of a stream through Redis: start, start again, read, commit, be refused the lease, give it
    back."""
    verify_access(connection, ["kpi"], "g")
    lease = RedisLease(connection, "g", ["kpi"], "me")
    lease.acquire()
    with pytest.raises(GroupTaken):
        RedisLease(connection, "g", ["kpi"], "another").acquire()
    with connection.client(patience=1) as client:
        reader = Reader(client, "g", ["kpi"])
        reader.offsets.start(0)
        reader.offsets.commit(reader.read(reader.offsets.start(0), 10, 0).positions)
        read = reader.read(reader.offsets.start(1000), 10, 10)
        reader.offsets.commit(read.positions)
        assert client.ping()
    lease.release()


def test_a_stream_uses_every_command_of_its_list_and_no_other(
    server: RedisServer, admin: redis.Redis
) -> None:
    connection = permitted(server, admin, "stream")
    admin.select(DATABASE)
    admin.xadd("kpi", {"data": "{}"})
    admin.config_resetstat()
    stream_all(connection)
    assert used(admin) == listed("stream")


def test_what_is_published_live_needs_its_list_and_no_other(server: RedisServer, admin: redis.Redis) -> None:
    connection = permitted(server, admin, "stream", "stream --live")
    publisher = publish._Publish(connection, 10)
    publisher.setup()
    with publisher.client.pipeline(transaction=False) as pipeline:
        for stream in LIVE_STREAMS:
            pipeline.xadd(stream, {"data": "{}"}, maxlen=10, approximate=True)
        pipeline.execute()
    publisher.teardown()
    LiveStreams(connection, 10).verify_access()
    with pytest.raises(RedisUnavailable, match="does not allow a command or key"):
        LiveStreams(permitted(server, admin, "stream"), 10).verify_access()


def test_live_reports_are_read_under_the_list_of_the_service(
    server: RedisServer, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LiveReports, "_call", lambda *_: None)
    connection = permitted(server, admin, "serve")
    connection.check(LIVE_STREAMS[:1])
    admin.select(DATABASE)
    (name,) = [admin.xadd(LIVE_STREAMS[0], {"data": "{}"})]
    admin.config_resetstat()
    connection.check(LIVE_STREAMS[:1])
    live = LiveReports(connection)
    assert [format_id(each.id) for each in live.read_older(ZERO)] == [name.decode()]
    with connection.client(patience=0) as client:
        assert client.ping()
        assert live._read(client, live._begin(client, ZERO)) == parse_id(name.decode())
    assert used(admin) == listed("serve")


@pytest.mark.parametrize("use", ["archive", "reconcile"])
def test_what_a_stream_holds_is_read_under_the_list_of_its_command(
    server: RedisServer, admin: redis.Redis, use: str
) -> None:
    connection = permitted(server, admin, use)
    admin.select(DATABASE)
    admin.xadd("kpi", {"data": "{}"})
    admin.config_resetstat()
    connection.check(["kpi"])
    with connection.client(patience=1) as client:
        assert client.ping()
        held = read_stream(client, "kpi")
        assert held is not None
        assert [len(some) for some in read_entries(client, "kpi", held.last)] == [1]
        if use == "reconcile":
            assert Group(client, "g").last_committed("kpi") is None
    assert used(admin) == listed(use)


@pytest.mark.parametrize(
    ("command", "key"),
    [(command, key) for grant in ACL["stream"] for command in grant.commands for key in grant.keys or ("",)],
)
def test_a_start_and_doctor_name_each_command_that_is_not_allowed(
    server: RedisServer, admin: redis.Redis, command: str, key: str
) -> None:
    connection = permitted(server, admin, "stream")
    words = acl_words(make_rules("stream", key="kpi"))
    less = [" ".join(part for part in word.split() if part.strip("()") != f"+{command}") for word in words]
    less = [word if not word.startswith("(") or word.endswith(")") else f"{word})" for word in less if word]
    admin.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">pw", *less)
    (problem,) = [finding.problem for finding in check_streams(connection, ["kpi"], "g") if finding.problem]
    assert "does not allow a command or key" in problem
    assert command in problem.lower()


def test_the_list_is_as_narrow_as_it_says() -> None:
    text = make_rules("stream", "stream --live", key="kpi")
    assert text.startswith("+exec +info +multi +ping +select +time (")
    assert f"(~{LEASES} +del +eval +get +pttl +set)" in text
    assert KEY not in text
    assert "@" not in text


def test_a_replica_a_full_memory_and_one_that_deletes_are_problems_and_no_aof_is_advice() -> None:
    well = {
        "role": "master",
        "used_memory": 5,
        "maxmemory": 100,
        "maxmemory_policy": "noeviction",
        "aof_enabled": 1,
    }
    for change, problem, fix in [
        ({"role": "slave", "master_host": "h", "master_port": 1}, "it is a replica", "primary, h:1"),
        ({"used_memory": 95}, "95 % of maxmemory are used", "raise maxmemory"),
        ({"maxmemory_policy": "allkeys-lru"}, "deletes whole streams", "noeviction"),
        ({"rdb_last_bgsave_status": "err"}, "may refuse writes", "its disk"),
        ({"loading": 1}, "still loading", "try again"),
    ]:
        (found,) = [finding for finding in judge_server(well | change) if finding.problem]
        assert problem in found.problem
        assert fix in found.fix
    assert [finding for finding in judge_server(well) if finding.problem or finding.fix] == []
    (advice,) = [
        finding for finding in judge_server(well | {"aof_enabled": 0, "maxmemory": 0}) if finding.fix
    ]
    assert (advice.problem, advice.fix) == ("", "set appendonly yes")


def test_doctor_names_a_replica_and_a_full_redis(
    server: RedisServer, tmp_path: Path, admin: redis.Redis
) -> None:
    with RedisServer(tmp_path, "--replicaof", f"localhost {server.port}") as replica:
        found = [finding.problem for finding in check_streams(Connection(replica.url), ["kpi"], "g")]
        assert next(filter(None, found)).startswith("it is a replica")
        with pytest.raises(RedisUnavailable, match=r"takes no writes .*primary"):
            verify_access(Connection(replica.url), ["kpi"], "g")
    admin.config_set("maxmemory", 1)
    try:
        found = [finding.problem for finding in check_streams(Connection(server.url), ["kpi"], "g")]
        assert any("producers cannot add entries" in problem for problem in found)
    finally:
        admin.config_set("maxmemory", 0)


def test_checking_changes_nothing(server: RedisServer, admin: redis.Redis) -> None:
    admin.xadd("kpi", {"data": "{}"})
    admin.xgroup_create("kpi", "g", "0")
    before = admin.dump("kpi"), admin.keys("*")
    assert [
        finding
        for finding in (
            *check_streams(Connection(server.url), ["kpi", "new"], "g"),
            *LiveStreams(Connection(server.url), 10).check(),
        )
        if finding.problem
    ] == []
    assert (admin.dump("kpi"), admin.keys("*")) == before


def test_a_group_that_a_job_reads_is_a_problem_that_leaves_its_lease_alone(
    server: RedisServer, admin: redis.Redis
) -> None:
    lease = RedisLease(Connection(server.url), "g", ["kpi"], "a job")
    lease.acquire()
    (found,) = [finding for finding in check_streams(Connection(server.url), ["kpi"], "g") if finding.problem]
    assert "is being read for the group 'g' by another job" in found.problem
    lease.renew_by(admin)


def test_a_message_is_split_before_what_to_do() -> None:
    taken = (
        "the stream 's' is being read by another job (one; its lease lasts 3 s more); stop that job; or wait"
    )
    found = find_problem("what", ValueError(taken))
    assert (found.problem, found.fix) == (taken.split("; stop")[0], "stop that job; or wait")
    assert find_problem("what", ValueError("no advice (x; y)")).problem == "no advice (x; y)"


def test_a_stream_that_is_not_there_is_named_but_no_problem(server: RedisServer, admin: redis.Redis) -> None:
    found = [
        finding
        for finding in check_streams(Connection(server.url), ["kpi"], "g")
        if finding.what == "not there yet: kpi"
    ]
    assert [(finding.problem, finding.fix != "") for finding in found] == [("", True)]


def test_a_socket_with_a_slash_too_few_is_refused_with_the_form() -> None:
    with pytest.raises(RedisUnavailable, match=r"should begin; give .*unix:///PATH"):
        Connection("unix://tmp/redis.sock").check()
