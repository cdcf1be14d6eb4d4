"""A connection to object storage: s3:// (Amazon's, and servers that speak its protocol) and gs:// (Google
Cloud Storage). Sources read objects through it, and sinks write them."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from obstore.exceptions import BaseError, UnauthenticatedError
from obstore.store import GCSStore, S3Store

from transforms.core.errors import Refused
from transforms.objects.errors import CREDENTIALS, Bucket, StoreAnswer, explain_answer

SECONDS = 300.0
"""Time-out of one request, its body included: an object of 100 MB at 3 Mbit/s."""
CONNECT_SECONDS = 10.0
_RETRIES: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=60)}
"""Retries of a request by the client if the server is busy, before the whole write counts as failed."""
_CREDENTIAL_MINUTES = 5
"""How long credentials of boto3 are used before it is asked again: it renews them ten minutes before they
end."""
_ANSWERED: set["BucketPlace"] = set()
"""Places that have answered this process: they had credentials."""


@dataclass(frozen=True)
class BucketPlace:
    """The objects of a bucket whose names begin with `prefix/` (all, if it is empty).

    Credentials come from the environment, and so do `endpoint` and `region` if they are empty.
    """

    scheme: str
    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""

    @property
    def options(self) -> dict[str, str]:
        """What its URL says after a `?`."""
        given = {"endpoint": self.endpoint, "region": self.region}
        return {key: value for key, value in given.items() if value}

    @property
    def query(self) -> str:
        """The options as text, with the `?`; empty if there are none."""
        return "?" + urlencode(self.options, safe=":/") if self.options else ""

    @property
    def name(self) -> str:
        """Its URL."""
        return self.locate("") + self.query

    def locate(self, name: str) -> str:
        """The URL of an object, without options."""
        return "/".join(part for part in (f"{self.scheme}://{self.bucket}", self.prefix, name) if part)

    @contextmanager
    def connect(self) -> Iterator[Any]:
        """The client of obstore.

        Raises:
            Refused, Unavailable: for its errors, without the answer itself, which may hold credentials.
        """
        try:
            yield _get_client(self)
        except (BaseError, FileNotFoundError, ValueError) as error:
            unauthenticated = isinstance(error, UnauthenticatedError)
            bucket = Bucket(self.name, self.scheme, self.bucket)
            answer = StoreAnswer.parse(str(error))
            raise explain_answer(answer, bucket, unauthenticated, self in _ANSWERED) from None
        _ANSWERED.add(self)


def verify_bucket(netloc: str, form: str) -> str:
    """The name of a bucket in a URL of a form.

    Raises:
        ValueError: it is none, or there are credentials beside it.
    """
    if "@" in netloc:
        raise ValueError(f"a URL is no place for credentials; set them in the environment, and write {form}")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", netloc):
        raise ValueError(f"it names no bucket, or has a #; write {form}")
    return netloc


def parse_options(scheme: str, query: str, form: str, more: frozenset[str] = frozenset()) -> dict[str, str]:
    """The options of a URL: endpoint, region (of s3) and those of `more`.

    Raises:
        ValueError: there are others, or the endpoint is no URL.
    """
    options = dict(parse_qsl(query, keep_blank_values=True))
    known = {"endpoint"} | more | ({"region"} if scheme == "s3" else set())
    if unknown := sorted(set(options) - known):
        raise ValueError(f"{unknown[0]} is no option; write {form}")
    endpoint = urlsplit(options.get("endpoint", "https://default"))
    if endpoint.scheme not in ("http", "https") or not endpoint.hostname:
        raise ValueError(f"the endpoint is no URL of http or https; write {form}")
    if "@" in endpoint.netloc:
        raise ValueError(f"a URL is no place for credentials; set them in the environment, and write {form}")
    return options


@cache
def _get_client(place: BucketPlace) -> S3Store | GCSStore:
    """The connections of this process to a place."""
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
        base: Any = {"base_url": place.endpoint} if place.endpoint else {}
        return GCSStore(place.bucket, config=base, **options)
    given = {"endpoint": place.endpoint, "region": place.region}
    config: Any = {name: value for name, value in given.items() if value} | {"disable_bulk_delete": True}
    return S3Store(place.bucket, config=config, credential_provider=_find_profile(place), **options)


def _find_profile(place: BucketPlace) -> Any:
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
        raise Refused(f"{place.name}: boto3 finds no credentials ({error}); {CREDENTIALS['s3']}") from None
    except ValueError:
        return None
