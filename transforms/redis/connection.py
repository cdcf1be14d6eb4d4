"""How to connect to a Redis server, and to see whether it can be used. Sources, sinks and the generator use
it."""

import os
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis

from transforms.redis.errors import RedisUnavailable, explain_error
from transforms.redis.patience import Patience

SCHEMES = ("redis", "rediss", "unix")
"""Of the URLs of Redis."""
FORMS = "redis://HOST:PORT/DB, rediss://HOST:PORT/DB for TLS, or unix:///PATH?db=DB"
"""How these URLs look."""
OLDEST = (7, 0)
"""The first Redis that counts the entries ever added to a stream, and what a group has read of them."""
TIMEOUT_SECONDS = 30.0
"""Of a reply. A command may block for less than this."""
PATIENCE_SECONDS = 60.0
"""How long a command is tried again while Redis cannot be reached, or is loading its data."""
_SECRET = ("password", "username", "credential", "token")


class _PatientPool(redis.ConnectionPool):
    """Retries also while it takes a connection: redis-py's own retry begins after that."""

    def get_connection(self, command_name: str | None = None, *keys: Any, **options: Any) -> Any:
        take = super().get_connection
        retry = self.connection_kwargs["retry"]
        return retry.call_with_retry(take, lambda _: None)


@dataclass(frozen=True)
class Connection:
    """How to reach a Redis server. Pickles; neither `repr` nor `public` holds a secret.

    `url` is `redis://HOST:PORT/DB`, `rediss://` for TLS 1.3 (`?ssl_min_version=771` allows 1.2), or
    `unix:///PATH?db=DB`. User and password may be in it; those given apart win. `ca`, `certificate` and `key`
    are PEM files: whom to trust, and who this client is. A connection on which a reply takes longer than
    `timeout` seconds counts as lost.
    """

    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    timeout: float = TIMEOUT_SECONDS

    def __repr__(self) -> str:
        return f"Connection({self.public!r})"

    @property
    def public(self) -> str:
        """The URL without user, password and other secrets."""
        parts = urlsplit(self.url)
        query = [
            (name, value)
            for name, value in parse_qsl(parts.query)
            if not any(word in name for word in _SECRET)
        ]
        public = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=urlencode(query)))
        lacks_slashes = public.startswith("unix:/") and "://" not in public  # urlunsplit drops an empty host
        return public.replace("unix:/", "unix:///", 1) if lacks_slashes else public

    def client(self, patience: float = PATIENCE_SECONDS) -> redis.Redis:
        """A client, thread-safe, of bytes, that connects when it is used.

        A command is tried again for `patience` seconds while connections are refused, lost or silent. A
        command that was under way when its connection broke is sent again: what is not idempotent may then be
        done twice.

        Raises:
            RedisUnavailable: the URL is not one of Redis.
        """
        if self.url.startswith("unix:") and urlsplit(self.url).hostname:
            raise RedisUnavailable(f"{self.public!r} has a host where its path should begin; give {FORMS}")
        try:
            pool = _PatientPool.from_url(
                self.url,
                protocol=2,
                socket_timeout=self.timeout,
                socket_connect_timeout=min(10.0, self.timeout),
                health_check_interval=30,
                retry=Patience(patience),
                **self._transport_options(),
            )
        except ValueError as error:
            raise RedisUnavailable(f"{self.public!r} is no URL of Redis ({error}); give {FORMS}") from error
        given = {"username": self.user, "password": self.password}
        pool.connection_kwargs |= {name: value for name, value in given.items() if value is not None}
        return redis.Redis.from_pool(pool)

    def _transport_options(self) -> dict[str, Any]:
        if self.url.startswith("unix:"):
            return {}
        if not self.url.startswith("rediss://"):
            return {"socket_keepalive": True}
        files = {"ssl_ca_certs": self.ca, "ssl_certfile": self.certificate, "ssl_keyfile": self.key}
        return files | {"socket_keepalive": True, "ssl_min_version": ssl.TLSVersion.TLSv1_3}

    def check(self, streams: Iterable[str] = ()) -> None:
        """Connect once, and see that each of the streams is one, or does not exist yet.

        Raises:
            RedisUnavailable: it cannot be reached, refuses this client, is too old, or a key holds something
            else.
        """
        for path in (self.ca, self.certificate, self.key):
            if path and not os.path.isfile(path):
                raise RedisUnavailable(
                    f"there is no file {path}; redis_ca, redis_certificate and redis_key name PEM files"
                )
        with self.client(patience=0) as client, self.explain_errors():
            version = str(client.info("server")["redis_version"])
            if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
                raise RedisUnavailable(
                    f"Redis at {self.public} is {version}; kpiflow needs 7.0 or newer: upgrade it"
                )
            for stream in streams:
                refuse_other_types(stream, client.type(stream))

    @contextmanager
    def explain_errors(self) -> Iterator[None]:
        """Raise RedisUnavailable, with the cause and the fix, in place of an error of Redis."""
        try:
            yield
        except redis.RedisError as error:
            raise RedisUnavailable(f"Redis at {self.public} {explain_error(error)}") from error


def refuse_other_types(key: str, kind: bytes) -> None:
    """Raises:
    RedisUnavailable: `kind`, the type of a key as Redis names it, is not a stream.
    """
    if kind not in (b"stream", b"none"):
        raise RedisUnavailable(
            f"the key {key!r} holds a {kind.decode()}, not a stream; give the key of a stream"
        )
