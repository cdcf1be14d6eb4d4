"""Files on object storage: s3:// (Amazon's, and servers that speak its protocol) and gs:// (Google Cloud Storage).

A file is an object, put on condition that it still is what was read (If-None-Match, If-Match, on Google its generation). So writers
need no lock, and none can lose another's rows.
"""

import os
import re
import secrets
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from hashlib import blake2b
from pathlib import Path
from tempfile import gettempdir
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError, UnauthenticatedError
from obstore.store import GCSStore, S3Store

from transforms.core.errors import Finding, Refused, Unavailable
from transforms.sinks.error_signs import OBJECTS
from transforms.sinks.parquet.storage import Conflict, LocalFolder, Stored

SECONDS = 300.0
"""Of one request, its body included: an object of 100 MB at 3 Mbit/s."""
CONNECT_SECONDS = 10.0
_RETRIES: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=60)}
"""Of a request that meets a busy server, before the whole write counts as not taken."""
_CREDENTIAL_MINUTES = 5
"""How long credentials of boto3 are used before it is asked again: it renews them ten minutes before they end."""

_CREDENTIAL_CODES = (
    "AuthenticationRequired",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
)
_PERMISSION_CODES = ("AccessDenied", "AllAccessDisabled")
_REGION_CODES = ("AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect")
_ISSUERS = re.compile(
    r"https?://(169\.254\.|sts\.|oauth2\.|iamcredentials\.)|/latest/api/token|/latest/meta-data/|token request"
)
"""In an error: credentials were asked for, nothing yet of the bucket."""
_NETWORK = {
    "ConnectionRefused": "it refuses connections",
    "dns error": "its name is not known",
    "TimedOut": "nothing came in time",
    "error sending request": "the connection broke",
    "body error": "the connection broke in the middle of an answer",
}
_ANSWERED: set["ObjectStorage"] = set()
"""Those that gave this process an answer once: they had credentials."""
_ONE_MACHINE = "let a single machine write there, and add ?conditions=no to the URL"
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with AWS_SESSION_TOKEN if they came with one), install boto3 to use "
    "AWS_PROFILE, or run where a role gives them",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to a key file, run `gcloud auth application-default login`, or run where a service "
    "account is attached",
}
_PERMISSIONS = {
    "s3": "allow s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject and s3:DeleteObject on its objects",
    "gs": "grant roles/storage.objectUser on the bucket",
}


@dataclass(frozen=True)
class ObjectStorage:
    """The objects of a bucket whose names begin with `prefix/` (all, if it is empty). Credentials come from the environment.

    `endpoint` and `region` are as the environment says, if empty. `conditions` tells whether the server honours conditional puts;
    where it does not, writers take turns by locks of this machine, and none may write from another.
    """

    scheme: str
    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    conditions: bool = True

    @classmethod
    def from_url(cls, url: SplitResult) -> "ObjectStorage":
        """The storage of `s3://BUCKET/PREFIX` or `gs://BUCKET/PREFIX`; the prefix is taken as it is written, %XX too.

        Raises:
            ValueError: the URL has another form.
        """
        form = f"{url.scheme}://BUCKET/PREFIX, and where needed ?endpoint=http://HOST:PORT"
        if "@" in url.netloc:
            raise ValueError(
                f"a URL is no place for credentials; set them in the environment, and write {form}"
            )
        if not re.fullmatch(r"[A-Za-z0-9._-]+", url.netloc) or url.fragment:
            raise ValueError(f"it names no bucket, or has a #; write {form}")
        prefix = url.path.strip("/")
        if prefix and not all(part not in ("", ".", "..") for part in prefix.split("/")):
            raise ValueError(f"the prefix {prefix!r} has an empty part, . or ..; write {form}")
        return cls(url.scheme, url.netloc, prefix, **_options(url, form))

    @property
    def name(self) -> str:
        options = {
            "endpoint": self.endpoint,
            "region": self.region,
            "conditions": "" if self.conditions else "no",
        }
        query = urlencode({key: value for key, value in options.items() if value}, safe=":/")
        return self.where("") + ("?" + query if query else "")

    @property
    def threads(self) -> int:
        return 16

    def where(self, name: str) -> str:
        return "/".join(part for part in (f"{self.scheme}://{self.bucket}", self.prefix, name) if part)

    def get(self, name: str) -> Stored | None:
        with self._asked() as client:
            try:
                answer = obstore.get(client, name)
                return Stored(bytes(answer.bytes()), (answer.meta["e_tag"], answer.meta["version"]))
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None

    def put(self, name: str, data: bytes | bytearray, version: Hashable | None) -> None:
        with self._asked() as client:
            try:
                obstore.put(client, name, data, mode=self._mode(version), use_multipart=False)
            except (AlreadyExistsError, PreconditionError) as error:
                if "NoSuchBucket" in str(error):
                    raise
                raise Conflict(f"{self.where(name)} was changed by another writer") from None

    def names(self, folder: str) -> Iterator[str]:
        with self._asked() as client:
            for some in obstore.list(client, prefix=folder or None, chunk_size=1000):
                yield from (each["path"] for each in some)

    def entries(self) -> Iterator[str]:
        with self._asked() as client:
            top = obstore.list_with_delimiter(client)
        yield from top["common_prefixes"]
        yield from (each["path"] for each in top["objects"])

    def remove(self, name: str) -> None:
        with self._asked() as client:
            try:
                obstore.delete(client, name)
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise

    @contextmanager
    def locked(self, folder: str) -> Iterator[None]:
        if self.conditions:
            yield
            return
        key = blake2b(f"{self.endpoint} {self.where(folder)}".encode(), digest_size=12).hexdigest()
        with LocalFolder(Path(gettempdir()) / f"kpiflow-locks-{os.getuid()}").locked(key):
            yield

    def check(self) -> Iterator[Finding]:
        probe, body = f"_probe/{secrets.token_hex(8)}", b"probe"
        what = "reach the bucket, and list it"
        try:
            next(self.names("_probe"), None)
            yield Finding(what)
            what = "write and read an object"
            self.put(probe, body, None)
            stored = self.get(probe)
            if stored is None or stored.data != body:
                yield Finding(
                    what, "what was written is not what is read", "name a storage that reads what it wrote"
                )
                return
            yield Finding(what)
            what = "conditional puts"
            if self.conditions:
                yield self._conditional(what, probe, stored.version)
            what = "remove an object"
            self.remove(probe)
            yield Finding(what)
        except (Refused, Unavailable) as error:
            yield Finding.of(what, error)

    def _conditional(self, what: str, name: str, version: Hashable) -> Finding:
        """Whether the server puts only where the condition holds: at the version that is there, once."""
        try:
            self.put(name, b"probe again", version)
        except Conflict:
            return Finding(what, "the server refuses a condition that holds", _ONE_MACHINE)
        for wrong in (None, version):
            try:
                self.put(name, b"probe in the way", wrong)
            except Conflict:
                continue
            return Finding(
                what,
                "the server ignores conditions, so that two writers would lose each other's rows",
                _ONE_MACHINE,
            )
        return Finding(what)

    def _mode(self, version: Hashable | None) -> Any:
        if not self.conditions:
            return "overwrite"
        if not isinstance(version, tuple):
            return "create"
        return {key: value for key, value in zip(("e_tag", "version"), version) if value is not None}

    @contextmanager
    def _asked(self) -> Iterator[Any]:
        """The client; what it raises comes out as a sink says it, and without the answer itself, which may hold credentials."""
        try:
            yield _client(self)
        except (BaseError, FileNotFoundError, ValueError) as error:
            raise self._told(_Answer.read(str(error)), isinstance(error, UnauthenticatedError)) from None
        _ANSWERED.add(self)

    def _told(self, answer: "_Answer", unauthenticated: bool) -> Refused | Unavailable:
        """What an answer that is no success means. The mend comes after the first semicolon."""
        ask, said = _CREDENTIALS[self.scheme], f"{self.name} {answer.said}"
        if _ISSUERS.search(answer.text):
            if self in _ANSWERED or answer.busy:
                return Unavailable(
                    f"{self.name}: the credentials cannot be renewed just now; if they never can: {ask}"
                )
            return Refused(f"{self.name}: there are no credentials; {ask}")
        if answer.code in _CREDENTIAL_CODES or unauthenticated or answer.status == 401:
            return Refused(f"{said}: the credentials are not accepted; {ask}")
        if answer.busy:
            return Unavailable(f"{said}; it may be busy, and the clock of this machine should be right")
        if answer.status == 404 or answer.code == "NoSuchBucket":
            return Refused(f"{self.name}: there is no bucket {self.bucket!r}; make it, or name another")
        if answer.code in _REGION_CODES or "configured region" in answer.text:
            return Refused(f"{said}: the bucket is in another region; give ?region=, or set AWS_REGION")
        if answer.status == 403 or answer.code in _PERMISSION_CODES:
            return Refused(f"{said}: it is not permitted; {_PERMISSIONS[self.scheme]}")
        if answer.status:
            return Refused(f"{said}; if it knows no conditional puts: {_ONE_MACHINE}")
        return self._unanswered(answer, said)

    def _unanswered(self, answer: "_Answer", said: str) -> Refused | Unavailable:
        """The same, where nothing was answered at all."""
        if "InvalidCertificate" in answer.text:
            return Refused(
                f"{self.name}: its certificate is not trusted; correct the URL, or let this machine trust its issuer"
            )
        if answer.network:
            return Unavailable(f"{said}; start it, or correct the URL")
        return Refused(f"{said}; if that is about credentials: {_CREDENTIALS[self.scheme]}")


class _Answer(NamedTuple):
    """What an error of the client says: the HTTP status, 0 if nothing was answered, the server's own code, and both in words."""

    text: str
    status: int
    code: str
    said: str

    @classmethod
    def read(cls, text: str) -> "_Answer":
        status = int(next(iter(re.findall(r"status code: (\d{3})", text)), 0))
        code, *words = (
            next(iter(re.findall(f"<{tag}>([^<]*)</{tag}>", text)), "")
            for tag in ("Code", "Message", "Details")
        )
        cause = ", ".join(filter(None, words))[:300]
        said = f"answers {status} {code}".rstrip() + (f" ({cause})" if cause else "")
        if not status:
            network = next((meaning for sign, meaning in _NETWORK.items() if sign in text), "")
            said = f"does not answer ({network})" if network else f"cannot be used ({_first_line(text)})"
        return cls(text, status, code, said)

    @property
    def busy(self) -> bool:
        """Whether the same request may be answered later."""
        return OBJECTS.passes(self.status, self.said if self.status else "")

    @property
    def network(self) -> bool:
        """Whether the answer did not come, or not to its end."""
        return not self.status and any(sign in self.text for sign in _NETWORK)


def _first_line(text: str) -> str:
    """Without the name of the object, and what was asked."""
    return re.sub(r"Error performing \S+ \S+ in \S+ - ", "", text.partition("\n")[0])[:300]


def _options(url: SplitResult, form: str) -> dict[str, Any]:
    """What the query of a URL says, as fields of `ObjectStorage`."""
    options: dict[str, Any] = dict(parse_qsl(url.query, keep_blank_values=True))
    known = {"endpoint", "region", "conditions"} if url.scheme == "s3" else {"endpoint", "conditions"}
    if unknown := sorted(set(options) - known):
        raise ValueError(f"{unknown[0]} is no option; write {form}")
    endpoint = urlsplit(options.get("endpoint", "https://default"))
    if endpoint.scheme not in ("http", "https") or not endpoint.hostname:
        raise ValueError(f"the endpoint is no URL of http or https; write {form}")
    if "@" in endpoint.netloc:
        raise ValueError(f"a URL is no place for credentials; set them in the environment, and write {form}")
    conditions = options.pop("conditions", "")
    if conditions not in ("", "no"):
        raise ValueError(f"conditions are used unless conditions=no; write {form}")
    return options | {"conditions": not conditions}


@cache
def _client(place: ObjectStorage) -> S3Store | GCSStore:
    """The connections of this process."""
    client: dict[str, Any] = {
        "timeout": timedelta(seconds=SECONDS),
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
    }
    if place.endpoint.startswith("http://"):
        client["allow_http"] = True
    options: dict[str, Any] = {
        "prefix": place.prefix or None,
        "client_options": client,
        "retry_config": _RETRIES,
    }
    if place.scheme == "gs":
        return GCSStore(
            place.bucket, config={"base_url": place.endpoint} if place.endpoint else {}, **options
        )
    named = {"endpoint": place.endpoint, "region": place.region}
    config: Any = {name: value for name, value in named.items() if value} | {"disable_bulk_delete": True}
    return S3Store(place.bucket, config=config, credential_provider=_profile(place), **options)


def _profile(place: ObjectStorage) -> Any:
    """Credentials as boto3 finds them (profiles, single sign-on), where it is installed and the environment has none itself."""
    if {"AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE"} & set(os.environ):
        return None
    try:
        from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        return None
    try:
        return Boto3CredentialProvider(ttl=timedelta(minutes=_CREDENTIAL_MINUTES))
    except BotoCoreError as error:
        raise Refused(f"{place.name}: boto3 finds no credentials ({error}); {_CREDENTIALS['s3']}") from None
    except ValueError:
        return None
