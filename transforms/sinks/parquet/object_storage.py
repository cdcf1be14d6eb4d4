"""Files on object storage: s3:// (Amazon's, and servers that speak its protocol) and gs:// (Google Cloud
Storage).

A file is an object. It is put on the condition that it still is what was read (If-None-Match, If-Match, on
Google its generation). So writers need no lock, and none can lose another's rows.
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
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError, UnauthenticatedError
from obstore.store import GCSStore, S3Store

from transforms.core.errors import Finding, Refused, Unavailable
from transforms.sinks.parquet.local_folder import LocalFolder
from transforms.sinks.parquet.object_errors import CREDENTIALS, ONE_MACHINE, Answer, Bucket, explain_answer
from transforms.sinks.parquet.storage import Conflict, Stored

SECONDS = 300.0
"""Time-out of one request, its body included: an object of 100 MB at 3 Mbit/s."""
CONNECT_SECONDS = 10.0
_RETRIES: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=60)}
"""Retries of a request by the client if the server is busy, before the whole write counts as failed."""
_CREDENTIAL_MINUTES = 5
"""How long credentials of boto3 are used before it is asked again: it renews them ten minutes before they
end."""
_ANSWERED: set["ObjectStorage"] = set()
"""Storages that have answered this process: they had credentials."""


@dataclass(frozen=True)
class ObjectStorage:
    """The objects of a bucket whose names begin with `prefix/` (all, if it is empty): a `Storage`.

    Credentials come from the environment, and so do `endpoint` and `region` if they are empty. `conditions`
    says whether the server honours conditional puts; if not, writers use locks of this machine, and no other
    machine may write.
    """

    scheme: str
    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    conditions: bool = True

    @classmethod
    def from_url(cls, url: SplitResult) -> "ObjectStorage":
        """The storage of `s3://BUCKET/PREFIX` or `gs://BUCKET/PREFIX`; the prefix is taken as it is written,
        %XX too.

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
        return cls(url.scheme, url.netloc, prefix, **_parse_options(url, form))

    @property
    def name(self) -> str:
        conditions = "" if self.conditions else "no"
        options = {"endpoint": self.endpoint, "region": self.region, "conditions": conditions}
        query = urlencode({key: value for key, value in options.items() if value}, safe=":/")
        return self.locate("") + ("?" + query if query else "")

    @property
    def threads(self) -> int:
        return 16

    def locate(self, name: str) -> str:
        return "/".join(part for part in (f"{self.scheme}://{self.bucket}", self.prefix, name) if part)

    def get(self, name: str) -> Stored | None:
        with self._connect() as client:
            try:
                answer = obstore.get(client, name)
                return Stored(bytes(answer.bytes()), (answer.meta["e_tag"], answer.meta["version"]))
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None

    def put(self, name: str, data: bytes | bytearray, version: Hashable | None) -> None:
        with self._connect() as client:
            try:
                obstore.put(client, name, data, mode=self._choose_condition(version), use_multipart=False)
            except (AlreadyExistsError, PreconditionError) as error:
                if "NoSuchBucket" in str(error):
                    raise
                raise Conflict(f"{self.locate(name)} was changed by another writer") from None

    def list_files(self, folder: str) -> Iterator[str]:
        with self._connect() as client:
            for some in obstore.list(client, prefix=folder or None, chunk_size=1000):
                yield from (each["path"] for each in some)

    def list_top(self) -> Iterator[str]:
        with self._connect() as client:
            top = obstore.list_with_delimiter(client)
        yield from top["common_prefixes"]
        yield from (each["path"] for each in top["objects"])

    def remove(self, name: str) -> None:
        with self._connect() as client:
            try:
                obstore.delete(client, name)
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise

    @contextmanager
    def lock(self, folder: str) -> Iterator[None]:
        if self.conditions:
            yield
            return
        key = blake2b(f"{self.endpoint} {self.locate(folder)}".encode(), digest_size=12).hexdigest()
        with LocalFolder(Path(gettempdir()) / f"kpiflow-locks-{os.getuid()}").lock(key):
            yield

    def check(self) -> Iterator[Finding]:
        probe, body = f"_probe/{secrets.token_hex(8)}", b"probe"
        what = "reach the bucket, and list it"
        try:
            next(self.list_files("_probe"), None)
            yield Finding(what)
            what = "write and read an object"
            self.put(probe, body, None)
            stored = self.get(probe)
            if stored is None or stored.data != body:
                problem = "what was written is not what is read"
                yield Finding(what, problem, "name a storage that reads what it wrote")
                return
            yield Finding(what)
            what = "conditional puts"
            if self.conditions:
                yield self._try_conditions(what, probe, stored.version)
            what = "remove an object"
            self.remove(probe)
            yield Finding(what)
        except (Refused, Unavailable) as error:
            yield Finding.of(what, error)

    def _try_conditions(self, what: str, name: str, version: Hashable) -> Finding:
        """Whether the server puts only if the condition holds: at the current version, once."""
        try:
            self.put(name, b"probe again", version)
        except Conflict:
            return Finding(what, "the server refuses a condition that holds", ONE_MACHINE)
        for wrong in (None, version):
            try:
                self.put(name, b"probe in the way", wrong)
            except Conflict:
                continue
            problem = "the server ignores conditions, so that two writers would lose each other's rows"
            return Finding(what, problem, ONE_MACHINE)
        return Finding(what)

    def _choose_condition(self, version: Hashable | None) -> Any:
        if not self.conditions:
            return "overwrite"
        if not isinstance(version, tuple):
            return "create"
        return {key: value for key, value in zip(("e_tag", "version"), version) if value is not None}

    @contextmanager
    def _connect(self) -> Iterator[Any]:
        """The client. Its errors are raised as a sink's, without the answer itself, which may hold
        credentials."""
        try:
            yield _get_client(self)
        except (BaseError, FileNotFoundError, ValueError) as error:
            unauthenticated = isinstance(error, UnauthenticatedError)
            bucket = Bucket(self.name, self.scheme, self.bucket)
            answer = Answer.parse(str(error))
            raise explain_answer(answer, bucket, unauthenticated, self in _ANSWERED) from None
        _ANSWERED.add(self)


def _parse_options(url: SplitResult, form: str) -> dict[str, Any]:
    """The query of a URL as fields of `ObjectStorage`."""
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
def _get_client(storage: ObjectStorage) -> S3Store | GCSStore:
    """The connections of this process to a storage."""
    client: dict[str, Any] = {
        "timeout": timedelta(seconds=SECONDS),
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
    }
    if storage.endpoint.startswith("http://"):
        client["allow_http"] = True
    options: dict[str, Any] = {
        "prefix": storage.prefix or None,
        "client_options": client,
        "retry_config": _RETRIES,
    }
    if storage.scheme == "gs":
        base: Any = {"base_url": storage.endpoint} if storage.endpoint else {}
        return GCSStore(storage.bucket, config=base, **options)
    given = {"endpoint": storage.endpoint, "region": storage.region}
    config: Any = {name: value for name, value in given.items() if value} | {"disable_bulk_delete": True}
    return S3Store(storage.bucket, config=config, credential_provider=_find_profile(storage), **options)


def _find_profile(storage: ObjectStorage) -> Any:
    """Credentials as boto3 finds them (profiles, single sign-on), if it is installed and the environment has
    none."""
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
        raise Refused(f"{storage.name}: boto3 finds no credentials ({error}); {CREDENTIALS['s3']}") from None
    except ValueError:
        return None
