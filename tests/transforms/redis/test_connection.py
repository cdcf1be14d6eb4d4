import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.certificates import Certificates, make_certificates
from tests.servers import RedisServer, free_port
from transforms.redis.connection import Connection
from transforms.redis.errors import RedisUnavailable
from transforms.sources.redis.lease import RedisLease
from transforms.sources.source import GroupTaken


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("pems"))


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, pems: Certificates) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("secure"), password="pass", certificates=pems) as server:
        yield server


def lease(server: RedisServer, owner: str, *streams: str, seconds: float = 30) -> RedisLease:
    return RedisLease(Connection(server.url), "g", streams or ("s",), owner, seconds)


def test_no_secret_shows():
    connection = Connection("redis://me:word@host:6379/2?protocol=2&password=word", password="word")
    assert connection.public == "redis://host:6379/2?protocol=2"
    assert "word" not in f"{connection}{connection!r}"
    assert pickle.loads(pickle.dumps(connection)) == connection


def test_tls_with_both_certificates_and_a_password_connects(secure, pems):
    connection = Connection(secure.url, None, "pass", str(pems.ca), str(pems.client), str(pems.client_key))
    connection.check()
    with connection.client() as client:
        assert client.connection_pool.get_connection()._sock.version() == "TLSv1.3"
    Connection(
        secure.url.replace("//", "//:pass@"), None, None, str(pems.ca), str(pems.client), str(pems.client_key)
    ).check()


def test_whatever_keeps_redis_from_being_used_is_named_with_its_mend(server, secure, pems):
    authority, ours = {"ca": str(pems.ca)}, {"certificate": str(pems.client), "key": str(pems.client_key)}
    for connection, cause, mend in [
        (Connection(f"redis://localhost:{free_port()}"), "refused", "start it"),
        (Connection("http://localhost"), "no URL of Redis", "redis://HOST:PORT"),
        (
            Connection(secure.url, None, "wrong", **authority, **ours),
            "refuses this user or password",
            "redis_password",
        ),
        (
            Connection(secure.url, None, None, **authority, **ours),
            "refuses this user or password",
            "redis_password",
        ),
        (Connection(secure.url, None, "pass", **ours), "fails at TLS", "redis_ca"),
        (Connection(secure.url, None, "pass", **authority), "fails at TLS", "redis_certificate"),
        (Connection(secure.url, None, "pass", ca="/no/such"), "no file /no/such", "PEM files"),
        (
            Connection(secure.url.replace("rediss", "redis"), None, "pass"),
            "closes the connection",
            "rediss://",
        ),
    ]:
        with pytest.raises(RedisUnavailable, match=cause) as raised:
            connection.check()
        assert mend in str(raised.value)
        assert "pass'" not in str(raised.value)


def test_an_older_redis_is_refused(server, monkeypatch):
    monkeypatch.setattr(redis.Redis, "info", lambda *_: {"redis_version": "6.2.14"})
    with pytest.raises(RedisUnavailable, match=r"6\.2\.14; kpiflow needs 7\.0"):
        Connection(server.url).check()


def test_a_unix_socket_is_a_server_as_any_other(tmp_path: Path):
    socket = tmp_path / "redis.sock"
    with RedisServer(tmp_path, "--unixsocket", str(socket)):
        connection = Connection(f"unix:///{str(socket)[1:]}?db=2")
        connection.check(["s"])
        lease = RedisLease(connection, "g", ["s"], "me")
        lease.acquire()
        lease.release()
        assert connection.public == f"unix://{socket}?db=2"
        Connection(connection.public).check()


def test_a_key_of_another_type_is_named(server):
    with server.client() as client:
        client.set("text", "x")
    with pytest.raises(RedisUnavailable, match="'text' holds a string"):
        Connection(server.url).check(["missing", "text"])


def test_a_command_rides_out_a_server_that_is_away(tmp_path: Path):
    with RedisServer(tmp_path) as server, Connection(server.url).client() as client:
        client.ping()
        server.kill()
        back = threading.Timer(0.5, server.start)
        back.start()
        assert client.ping()
        back.join()


def test_patience_ends(tmp_path: Path):
    with RedisServer(tmp_path) as server, Connection(server.url).client(patience=0.2) as client:
        server.kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()


def test_a_lease_keeps_other_jobs_away_and_lets_its_own_in_again(server):
    lease(server, "one").acquire()
    lease(server, "one").acquire()
    with pytest.raises(
        GroupTaken, match=r"stream 's' is being read for the group 'g' by another job \(one; .* --group"
    ):
        lease(server, "two").acquire()
    lease(server, "two").release()
    with pytest.raises(GroupTaken):
        lease(server, "two").acquire()
    lease(server, "one").release()
    lease(server, "two").acquire()
    lease(server, "two").release()


def test_a_job_that_gets_one_stream_but_not_the_other_holds_none(server):
    lease(server, "one", "b").acquire()
    with pytest.raises(GroupTaken):
        lease(server, "two", "a", "b").acquire()
    lease(server, "three", "a").acquire()


def test_a_lease_that_is_not_renewed_runs_out(server):
    lease(server, "one", "c", seconds=0.05).acquire()
    time.sleep(0.1)
    lease(server, "two", "c").acquire()
    with server.client() as client, pytest.raises(GroupTaken, match="two"):
        lease(server, "one", "c").renew_by(client)


def test_a_client_uses_new_certificates_for_its_next_connection(tmp_path):
    used, renewed = tmp_path / "used", tmp_path / "renewed"
    for folder in (used, renewed, tmp_path / "data"):
        folder.mkdir()
    pems = make_certificates(used)
    with RedisServer(tmp_path / "data", certificates=pems) as server:
        connection = Connection(server.url, None, None, str(pems.ca), str(pems.client), str(pems.client_key))
        with connection.client() as client:
            assert client.ping()
            make_certificates(renewed)  # of another authority
            for path in renewed.iterdir():
                path.replace(used / path.name)
            server.restart()
            assert client.ping()
