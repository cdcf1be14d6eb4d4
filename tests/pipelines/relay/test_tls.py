"""TLS to Layer 4: what is refused, in words that name the cause; and new certificates without a restart."""

import shutil
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from pipelines.failures import WrongUse
from pipelines.jobs.relay import RelayJob, relay
from pipelines.relay.errors import Layer4Refused
from pipelines.relay.handshake import find_cause
from pipelines.relay.tls import Tls, TlsFiles, check_url
from pipelines.settings import Settings
from tests.certificates import Pair, make_ca, make_certificate, make_crl
from tests.pipelines.relay.layer4 import Layer4, make_report
from tests.pipelines.relay.running import STREAM, run_relay, shorten_pauses, wait_for
from tests.servers import RedisServer


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_pauses(monkeypatch)


def serve(ca: Pair, server: Pair, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """The context of a Layer 4 that asks for certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = newest
    context.load_cert_chain(server.certificate, server.key)
    context.load_verify_locations(ca.certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


Change = Callable[[Path, Pair, TlsFiles], tuple[ssl.SSLContext | None, TlsFiles]]


def wrong_ca(folder: Path, ca: Pair, files: TlsFiles) -> tuple[ssl.SSLContext | None, TlsFiles]:
    return serve(ca, make_certificate(make_ca(folder, "other"), "theirs")), files


def expired(folder: Path, ca: Pair, files: TlsFiles) -> tuple[ssl.SSLContext | None, TlsFiles]:
    return serve(ca, make_certificate(ca, "server", expired=True)), files


def wrong_name(folder: Path, ca: Pair, files: TlsFiles) -> tuple[ssl.SSLContext | None, TlsFiles]:
    return serve(ca, make_certificate(ca, "server", hosts=["elsewhere"])), files


def old_tls(folder: Path, ca: Pair, files: TlsFiles) -> tuple[ssl.SSLContext | None, TlsFiles]:
    return serve(ca, make_certificate(ca, "server"), ssl.TLSVersion.TLSv1_2), files


def revoked(folder: Path, ca: Pair, files: TlsFiles) -> tuple[ssl.SSLContext | None, TlsFiles]:
    server = make_certificate(ca, "server")
    return serve(ca, server), replace(files, crl=make_crl(ca, [server]))


def own_expired(folder: Path, ca: Pair, files: TlsFiles) -> tuple[ssl.SSLContext | None, TlsFiles]:
    own = make_certificate(ca, "own", expired=True)
    return serve(ca, make_certificate(ca, "server")), replace(files, certificate=own.certificate, key=own.key)


def own_unknown(folder: Path, ca: Pair, files: TlsFiles) -> tuple[ssl.SSLContext | None, TlsFiles]:
    own = make_certificate(make_ca(folder, "other"), "own")
    return serve(ca, make_certificate(ca, "server")), replace(files, certificate=own.certificate, key=own.key)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (wrong_ca, "not signed by the authority of --ca"),
        (expired, "its certificate has expired"),
        (wrong_name, "its certificate has another name"),
        (old_tls, "does not speak TLS 1.3"),
        (revoked, "its certificate was revoked"),
        (own_expired, "our certificate has expired"),
        (own_unknown, "closes the connection when it sees our certificate"),
    ],
)
def test_what_is_wrong_with_tls_is_refused_and_named(
    server: RedisServer, client: redis.Redis, tmp_path: Path, change: Change, cause: str
) -> None:
    ca = make_ca(tmp_path)
    own = make_certificate(ca, "client")
    context, files = change(tmp_path, ca, TlsFiles(own.certificate, own.key, ca.certificate))
    with Layer4([make_report(0)], context) as layer4:
        job = RelayJob(layer4.export, server.url, STREAM, tmp_path / "relay", None, files, True)
        with pytest.raises(WrongUse, match=cause):
            relay(job, Settings(), lambda _: None)
    assert client.xlen(STREAM) == 0


def test_plain_text_where_tls_is_expected_is_named(server: RedisServer, tmp_path: Path) -> None:
    ca = make_ca(tmp_path)
    own = make_certificate(ca, "client")
    files = TlsFiles(own.certificate, own.key, ca.certificate)
    with Layer4() as layer4:
        url = layer4.export.replace("http:", "https:")
        job = RelayJob(url, server.url, STREAM, tmp_path / "relay", None, files, True)
        with pytest.raises(WrongUse, match="does not speak TLS; correct the port"):
            relay(job, Settings(), lambda _: None)


@pytest.mark.parametrize("accepts", [False, True])
def test_a_layer_4_that_is_down_is_no_fault_of_the_certificates(tmp_path: Path, accepts: bool) -> None:
    """Nobody listens, or what listens (a proxy, say) closes each connection at once."""
    ca = make_ca(tmp_path)
    own = make_certificate(ca, "client")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        if accepts:
            threading.Thread(target=close_all, args=(listening,), daemon=True).start()
        else:
            listening.close()
        assert (
            find_cause(f"https://127.0.0.1:{port}/", TlsFiles(own.certificate, own.key, ca.certificate))
            is None
        )


def close_all(listening: socket.socket) -> None:
    with suppress(OSError):
        while True:
            listening.accept()[0].close()


def test_certificates_that_are_not_needed_are_not_blamed(tmp_path: Path) -> None:
    ca = make_ca(tmp_path)
    own = make_certificate(ca, "client")
    files = TlsFiles(own.certificate, own.key, ca.certificate)
    assert find_cause("http://127.0.0.1:1/kpi/export", files) is None


def test_a_list_of_revoked_certificates_that_has_others_only_is_fine(
    server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    ca = make_ca(tmp_path)
    own, other = make_certificate(ca, "client"), make_certificate(ca, "other")
    files = TlsFiles(own.certificate, own.key, ca.certificate, make_crl(ca, [other]))
    with Layer4([make_report(0)], serve(ca, make_certificate(ca, "server"))) as layer4:
        job = RelayJob(layer4.export, server.url, STREAM, tmp_path / "relay", None, files, True)
        relay(job, Settings(), lambda _: None)
    assert client.xlen(STREAM) == 1


def test_new_certificates_are_used_without_a_restart(
    server: RedisServer, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.relay.live._CHECK_SECONDS", 0.05)
    authorities = [make_ca(tmp_path, name) for name in ("first", "second")]
    used = TlsFiles(*(tmp_path / "used" / name for name in ("own.pem", "own.key", "ca.pem")))
    used.ca.parent.mkdir()

    def give(ca: Pair) -> ssl.SSLContext:
        own = make_certificate(ca, "own")
        for path, new in (
            (used.certificate, own.certificate),
            (used.key, own.key),
            (used.ca, ca.certificate),
        ):
            shutil.copy(new, path.with_suffix(".new"))
            path.with_suffix(".new").replace(path)
        return serve(ca, make_certificate(ca, "server"))

    with Layer4([make_report(0)], give(authorities[0])) as layer4:
        reports, port = layer4.reports, layer4.port
        with run_relay(layer4, server, tmp_path / "relay", tls=used) as running:
            running.wait(lambda status: status.situation.connected)
            layer4.__exit__()
            running.wait(lambda status: not status.situation.connected)
            with Layer4([*reports, make_report(1)], give(authorities[1]), port) as renewed:
                wait_for(lambda: renewed.is_followed)
                wait_for(lambda: client.xlen(STREAM) == 2)
                give(authorities[1])  # a new certificate: the socket is opened again with it
                running.wait(lambda status: status.situation.connections >= 3)
            running.ended.set()


def test_files_that_do_not_belong_together_are_used_once_they_do(tmp_path: Path) -> None:
    ca = make_ca(tmp_path)
    own, other = make_certificate(ca, "own"), make_certificate(ca, "other")
    tls = Tls(TlsFiles(own.certificate, own.key, ca.certificate))
    before = tls.current()
    shutil.copy(other.certificate, own.certificate)
    assert tls.current() is before
    assert tls.problem is not None
    shutil.copy(other.key, own.key)
    assert tls.current() is not before
    assert tls.problem is None


@pytest.mark.parametrize(
    ("url", "has_files", "cause"),
    [
        ("http://layer4:9090/kpi/export", False, "without TLS"),
        ("https://layer4:9090/kpi/export", False, "needs certificates"),
        ("layer4:9090", True, "no URL"),
        ("https://layer4:99999/kpi/export", True, "no URL"),
        ("https://user:secret@layer4/kpi/export", True, "no user and password"),
    ],
)
def test_a_url_without_tls_is_refused_unless_it_is_this_machine(
    url: str, has_files: bool, cause: str
) -> None:
    with pytest.raises(Layer4Refused, match=cause):
        check_url(url, ("https", "http"), has_files)
    check_url("http://127.0.0.1:9090/kpi/export", ("https", "http"), False)
