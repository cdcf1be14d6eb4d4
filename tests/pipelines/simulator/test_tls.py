"""TLS of the simulator: who is refused."""

import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from pipelines.simulator.tls import make_context
from tests.certificates import Pair, make_ca, make_certificate, make_crl
from tests.layer4 import run_layer4

_REFUSED = "(?i)version|EOF"
"""What a refused version is called; asyncio may close the connection before its alert is sent."""


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """An authority."""
    return make_ca(tmp_path_factory.mktemp("pems"))


@pytest.fixture(scope="module")
def server(ca: Pair) -> Pair:
    """The certificate of a server."""
    return make_certificate(ca, "server")


def ask(
    ca: Pair, server: ssl.SSLContext, client: Pair | None = None, change: Callable[..., None] = id
) -> int:
    """The status of the answer of a Layer 4 that speaks TLS."""
    context = ssl.create_default_context(cafile=ca.certificate)
    if client is not None:
        context.load_cert_chain(client.certificate, client.key)
    change(context)
    with run_layer4(history=1, tls=server) as layer4, urlopen(layer4.export, context=context) as answer:
        return int(answer.status)


def test_a_consumer_with_a_certificate_gets_an_answer(ca: Pair, server: Pair) -> None:
    context = make_context(server.certificate, server.key, ca.certificate)
    assert ask(ca, context, make_certificate(ca, "consumer")) == 200


def test_without_an_authority_no_certificate_is_asked_for(ca: Pair, server: Pair) -> None:
    assert ask(ca, make_context(server.certificate, server.key)) == 200


@pytest.mark.parametrize("kind", ["none", "expired", "foreign"])
def test_a_consumer_without_a_valid_certificate_is_refused(
    ca: Pair, server: Pair, kind: str, tmp_path: Path
) -> None:
    client = {
        "none": lambda: None,
        "expired": lambda: make_certificate(ca, "old", expired=True),
        "foreign": lambda: make_certificate(make_ca(tmp_path), "other"),
    }[kind]()
    with pytest.raises((URLError, OSError)):
        ask(ca, make_context(server.certificate, server.key, ca.certificate), client)


def test_only_tls_1_3_is_spoken_unless_it_is_told_to_speak_1_2(ca: Pair, server: Pair) -> None:
    def use_1_2(context: ssl.SSLContext) -> None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2

    def use_1_3(context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_3

    pems = (server.certificate, server.key)
    with pytest.raises(URLError, match=_REFUSED):
        ask(ca, make_context(*pems), change=use_1_2)
    with pytest.raises(URLError, match=_REFUSED):
        ask(ca, make_context(*pems, tls12=True), change=use_1_3)
    assert ask(ca, make_context(*pems, tls12=True), change=use_1_2) == 200


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("expired", "expired"), ("name", "mismatch"), ("authority", "verify failed"), ("revoked", "revoked")],
)
def test_certificates_of_tests_are_refused_for_their_reason(
    ca: Pair, kind: str, reason: str, tmp_path: Path
) -> None:
    make = {
        "expired": lambda: make_certificate(ca, "expired", expired=True),
        "name": lambda: make_certificate(ca, "name", hosts=["other.example"]),
        "authority": lambda: make_certificate(make_ca(tmp_path), "foreign"),
        "revoked": lambda: make_certificate(ca, "revoked"),
    }
    server = make[kind]()

    def check_crl(context: ssl.SSLContext) -> None:
        context.load_verify_locations(make_crl(ca, [server] if kind == "revoked" else []))
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF

    with pytest.raises(URLError, match=reason):
        ask(ca, make_context(server.certificate, server.key), change=check_crl)
