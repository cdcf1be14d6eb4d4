"""Object storage: its URLs, what its answers mean, and what comes of answers that are wrong, lost, late or
cut."""

import json
import pickle
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.certificates import make_certificates
from tests.s3 import Fault, S3Server, wire
from tests.servers import free_port
from transforms.core.errors import Refused, Unavailable
from transforms.objects import place
from transforms.storage.object_storage import ObjectStorage
from transforms.storage.storage import Conflict


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> list[Fault]:
    """What becomes of the next requests, one after the other; all later ones are answered. A request is sent
    once."""
    monkeypatch.setattr(place, "_RETRIES", {"max_retries": 0})
    monkeypatch.setattr(place, "SECONDS", 0.5)
    return []


@pytest.fixture
def bent(bucket_server: S3Server, faults: list[Fault], tmp_path: Path) -> Iterator[ObjectStorage]:
    """A storage behind a wire with these faults."""
    with wire(bucket_server.endpoint, lambda *_: faults.pop(0) if faults else None) as endpoint:
        yield bucket_server.storage("bucket", tmp_path.name, endpoint)


def storage(url: str) -> ObjectStorage:
    return ObjectStorage.from_url(urlsplit(url))


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("s3://bucket", ObjectStorage("s3", "bucket")),
        ("s3://bucket/", ObjectStorage("s3", "bucket")),
        ("gs://my.bucket_1/a/b/", ObjectStorage("gs", "my.bucket_1", "a/b")),
        ("s3://b/a%20b/x y=ä", ObjectStorage("s3", "b", "a%20b/x y=ä")),
        (
            "s3://b/p?endpoint=http://h:9000&region=eu-west-1",
            ObjectStorage("s3", "b", "p", "http://h:9000", "eu-west-1"),
        ),
        (
            "gs://b?endpoint=https://h&conditions=no",
            ObjectStorage("gs", "b", endpoint="https://h", conditions=False),
        ),
    ],
)
def test_a_url_means_a_storage_whose_name_means_it_again(url: str, meant: ObjectStorage) -> None:
    assert storage(url) == meant
    assert storage(meant.name) == meant
    assert pickle.loads(pickle.dumps(meant)) == meant


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("s3:///prefix", "names no bucket"),
        ("s3://b/a#b", "has a #"),
        ("s3://b/a//b", "an empty part"),
        ("s3://b/../c", "an empty part, . or .."),
        ("s3://key:hidden@b/a", "no place for credentials"),
        ("s3://b?endpoint=http://key:hidden@h", "no place for credentials"),
        ("s3://b?endpoint=h:9000", "the endpoint is no URL"),
        ("s3://b?secret=hidden", "secret is no option"),
        ("gs://b?region=x", "region is no option"),
        ("s3://b?conditions=yes", "unless conditions=no"),
    ],
)
def test_another_form_is_refused_with_the_right_one_and_without_secrets(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"{problem}.*; .*write {url[:2]}://BUCKET/PREFIX") as error:
        storage(url)
    assert "hidden" not in str(error.value)


@pytest.mark.usefixtures("bucket_server")
def test_nobody_there_is_unavailable() -> None:
    with pytest.raises(
        Unavailable,
        match=r"s3://b/p\?endpoint=\S+ does not answer \(it refuses connections\); start it, or correct",
    ):
        storage(f"s3://b/p?endpoint=http://127.0.0.1:{free_port()}").get("a")


@pytest.mark.parametrize("fault", [408, 409, 429, 500, 502, 503, 504, "silent", "cut"])
@pytest.mark.parametrize("call", ["get", "names"])
def test_a_server_that_is_busy_or_breaks_off_is_unavailable(
    bent: ObjectStorage, faults: list[Fault], call: str, fault: Fault
) -> None:
    bent.put("a", b"x" * 1000, None)
    faults.append(fault)
    with pytest.raises(Unavailable, match=f"{bent.prefix}.*(answers {fault}|does not answer)"):
        _ = bent.get("a") if call == "get" else list(bent.list_files(""))
    assert (bent.get("a") or b"")[0] == b"x" * 1000


@pytest.mark.parametrize("fault", [429, 500, 503, "silent"])
def test_a_put_that_was_not_done_is_unavailable_and_then_done(
    bent: ObjectStorage, faults: list[Fault], fault: Fault
) -> None:
    faults.append(fault)
    with pytest.raises(Unavailable):
        bent.put("a", b"x", None)
    assert bent.get("a") is None
    bent.put("a", b"x", None)
    assert (bent.get("a") or b"")[0] == b"x"


def test_a_put_whose_answer_was_lost_is_unavailable_and_then_in_its_own_way(
    bent: ObjectStorage, faults: list[Fault]
) -> None:
    for data in (b"one", b"two"):
        stored = bent.get("a")
        faults.append("lost")
        with pytest.raises(Unavailable, match="the connection broke"):
            bent.put("a", data, stored and stored.version)
        with pytest.raises(Conflict):
            bent.put("a", data, stored and stored.version)
        assert (bent.get("a") or b"")[0] == data


def test_a_lost_answer_that_the_client_asks_for_again_by_itself_ends_in_conflict(
    bucket_server: S3Server, tmp_path: Path
) -> None:
    answers: list[Fault] = [503, "lost"]
    with wire(bucket_server.endpoint, lambda *_: answers.pop(0) if answers else None) as endpoint:
        place = bucket_server.storage("bucket", tmp_path.name, endpoint)
        with pytest.raises((Conflict, Unavailable)):
            place.put("a", b"x", None)
    assert (bucket_server.storage("bucket", tmp_path.name).get("a") or b"")[0] == b"x"


def test_a_busy_moment_is_not_noticed(bucket_server: S3Server, tmp_path: Path) -> None:
    answers: list[Fault] = [503, 500, None]
    with wire(bucket_server.endpoint, lambda *_: answers.pop(0) if answers else None) as endpoint:
        bucket_server.storage("bucket", tmp_path.name, endpoint).put("a", b"x", None)
    assert answers == []


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.get("a"),
        lambda s: s.put("a", b"", None),
        lambda s: s.put("a", b"", ('"x"', None)),
        lambda s: list(s.list_files("")),
    ],
    ids=["get", "create", "replace", "names"],
)
def test_a_bucket_that_is_not_there_is_refused(
    bucket_server: S3Server, call: Callable[[ObjectStorage], object]
) -> None:
    with pytest.raises(Refused, match="there is no bucket 'nowhere'; make it, or name another"):
        call(bucket_server.storage("nowhere"))


@pytest.mark.usefixtures("bucket_server")
@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            403,
            "<Code>AccessDenied</Code><Message>Access Denied</Message>",
            r"403 AccessDenied \(Access Denied\).*; allow s3:ListBucket",
        ),
        (
            403,
            "<Code>InvalidAccessKeyId</Code><AWSAccessKeyId>hidden</AWSAccessKeyId>",
            "credentials are not accepted; set AWS_ACCESS",
        ),
        (
            403,
            "<Code>SignatureDoesNotMatch</Code><StringToSign>hidden</StringToSign>",
            "credentials are not accepted; set AWS_ACCESS",
        ),
        (
            400,
            "<Code>ExpiredToken</Code><Token-0>hidden</Token-0>",
            "400 ExpiredToken: the credentials are not accepted; set AWS",
        ),
        (401, "", "401: the credentials are not accepted; set AWS_ACCESS_KEY_ID"),
        (301, "", "another region; give .region="),
        (
            400,
            "<Code>AuthorizationHeaderMalformed</Code><Message>expecting 'eu-west-1'</Message>",
            "'eu-west-1'.*another region",
        ),
        (501, "<Code>NotImplemented</Code>", "501 NotImplemented; .*add .conditions=no"),
        (418, "hidden", "answers 418;"),
    ],
)
def test_an_answer_that_will_not_change_is_refused_with_its_fix_and_without_secrets(
    status: int, body: str, words: str
) -> None:
    with (
        answering(status, f"<Error>{body}</Error>") as endpoint,
        pytest.raises(Refused, match=words) as error,
    ):
        storage(f"s3://b/p?endpoint={endpoint}").put("a", b"x", None)
    assert "hidden" not in str(error.value)
    assert error.value.__suppress_context__


@pytest.mark.usefixtures("bucket_server")
def test_a_clock_that_is_off_is_unavailable_since_it_may_be_set() -> None:
    with (
        answering(403, "<Error><Code>RequestTimeTooSkewed</Code></Error>") as endpoint,
        pytest.raises(Unavailable, match="the clock"),
    ):
        storage(f"s3://b/p?endpoint={endpoint}").get("a")


def test_keys_that_a_real_server_does_not_know_are_refused(bucket_server: S3Server) -> None:
    httpx.post(f"{bucket_server.endpoint}/moto-api/reset-auth", content="0")
    try:
        with pytest.raises(Refused, match=r"InvalidAccessKeyId.*the credentials are not accepted"):
            bucket_server.storage("bucket", "any").get("a")
    finally:
        httpx.post(f"{bucket_server.endpoint}/moto-api/reset-auth", content="1000000")


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_port()}")


@pytest.mark.usefixtures("no_credentials", "faults")
def test_no_credentials_at_all_are_refused_with_the_ways_to_give_them() -> None:
    with pytest.raises(Refused, match="there are no credentials; set AWS_ACCESS_KEY_ID"):
        storage(f"s3://b/none?endpoint=http://127.0.0.1:{free_port()}").get("a")


@pytest.mark.usefixtures("no_credentials", "faults")
def test_credentials_of_a_machine_that_cannot_be_renewed_are_unavailable(
    bucket_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = {
        "AccessKeyId": "id",
        "SecretAccessKey": "hidden",
        "Token": "hidden",
        "Expiration": "2020-01-01T00:00:00Z",
    }
    role: list[Fault] = [
        (200, json.dumps({"Code": "Success", "LastUpdated": "2020-01-01T00:00:00Z"} | ended)),
        404,
    ]

    def machine(method: str, path: str) -> Fault:
        return (
            (200, "token" if method == "PUT" else "role")
            if path.endswith(("token", "credentials/"))
            else role.pop(0)
        )

    with wire("http://127.0.0.1:1", machine) as endpoint:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", endpoint)
        place = bucket_server.storage("bucket", "machine")
        assert place.get("a") is None
        with pytest.raises(Unavailable, match="the credentials cannot be renewed now") as error:
            place.get("a")
    assert "hidden" not in str(error.value)


@pytest.mark.usefixtures("bucket_server")
def test_a_certificate_that_nobody_trusts_is_refused(tmp_path: Path) -> None:
    pems = make_certificates(tmp_path)
    speaks = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    speaks.load_cert_chain(pems.server, pems.server_key)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as far:
        far.socket = speaks.wrap_socket(far.socket, server_side=True)
        thread = threading.Thread(target=far.serve_forever, args=(0.01,))
        thread.start()
        with pytest.raises(
            Refused, match="its certificate is not trusted; correct the URL, or let this machine"
        ):
            storage(f"s3://certificates/p?endpoint=https://localhost:{far.server_port}").get("a")
        far.shutdown()
        thread.join()


@pytest.mark.usefixtures("no_credentials")
def test_a_profile_is_found_through_boto3(
    bucket_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").write_text("[work]\naws_access_key_id = id\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_PROFILE", "work")
    bucket_server.storage("bucket", "profile").put("a", b"x", None)
    monkeypatch.setenv("AWS_PROFILE", "gone")
    with pytest.raises(Refused, match=r"profile \(gone\) could not be found.*; set AWS"):
        bucket_server.storage("bucket", "no profile").get("a")


def test_a_check_tells_a_server_that_ignores_conditions(bucket_server: S3Server, tmp_path: Path) -> None:
    with wire(bucket_server.endpoint, lambda *_: "ignorant") as endpoint:
        place = bucket_server.storage("bucket", tmp_path.name, endpoint)
        (bad,) = [finding for finding in place.check() if finding.problem]
        assert (bad.what, "two writers would lose" in bad.problem, "conditions=no" in bad.fix) == (
            "conditional puts",
            True,
            True,
        )
        one = bucket_server.storage("bucket", tmp_path.name, endpoint, conditions=False)
        assert [finding.problem for finding in one.check()] == ["", "", ""]
        assert list(one.list_files("")) == []


def test_a_check_ends_at_the_first_thing_that_is_missing(bucket_server: S3Server) -> None:
    (only,) = bucket_server.storage("nowhere").check()
    assert (only.what, only.fix) == ("reach the bucket, and list it", "make it, or name another")
    with wire(bucket_server.endpoint, lambda method, _: 403 if method == "PUT" else None) as endpoint:
        *well, last = bucket_server.storage("bucket", "x", endpoint).check()
    assert ([finding.problem for finding in well], last.what) == ([""], "write and read an object")
    assert "s3:PutObject" in last.fix


def answering(status: int, body: str) -> AbstractContextManager[str]:
    """A server that answers everything alike."""
    return wire("http://127.0.0.1:1", lambda *_: (status, body))
