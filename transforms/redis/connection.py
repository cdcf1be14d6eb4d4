"""Redis as sources and sinks use it: how to connect, what to say where that fails, and who may read a group's streams."""

import os
import random
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.retry import Retry

from transforms.redis.access import rules

OLDEST = (7, 0)
"""The first Redis that counts the entries ever added to a stream, and what a group has read of them."""

TIMEOUT_SECONDS = 30.0
"""Of a reply. A command may block for less than this."""
PATIENCE_SECONDS = 60.0
"""How long a command is tried again while Redis cannot be reached, or is loading its data."""
_NOT_ALLOWED = ("NOPERM", "EXEC without MULTI", "ACL failure in script")
FORMS = "redis://HOST:PORT/DB, rediss://HOST:PORT/DB for TLS, or unix:///PATH?db=DB"
"""How URLs of Redis look."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 3.0
_SECRET = ("password", "username", "credential", "token")
MAKE_ROOM = (
    "raise maxmemory, or trim what every reader has read: XTRIM KEY MINID <last-delivered-id of the group>"
)
"""What helps a Redis whose memory is full."""

# Both scripts may run while Redis is over maxmemory, and each runs as a whole at one moment.
_TRANSACTION = """#!lua flags=allow-oom
local replies, at = {}, 1
while at <= #ARGV do
  local size = tonumber(ARGV[at])
  replies[#replies + 1] = redis.pcall(unpack(ARGV, at + 1, at + size))
  at = at + size + 1
end
return replies
"""
_IF_OURS = """#!lua flags=allow-oom
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return owner end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return false
"""


class RedisUnavailable(Exception):  # noqa: N818 (a state, and its reason)
    """Redis cannot be used: the text names the cause and the mend."""


class GroupTaken(Exception):  # noqa: N818 (a state, and its reason)
    """Another job reads these streams for this group: the text says which, and until when."""


@dataclass(frozen=True)
class Connection:
    """How to reach a Redis server. Pickles; neither `repr` nor `public` holds a secret.

    `url` is `redis://HOST:PORT/DB`, `rediss://` for TLS 1.3 (`?ssl_min_version=771` allows 1.2), or `unix:///PATH?db=DB`.
    User and password may be in it; those given apart win. `ca`, `certificate` and `key` are PEM files: whom to trust, and
    who this client is. A connection on which a reply takes longer than `timeout` seconds counts as lost.
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
        return (
            public.replace("unix:/", "unix:///", 1)
            if public.startswith("unix:/") and "://" not in public
            else public
        )

    def client(self, patience: float = PATIENCE_SECONDS) -> redis.Redis:
        """A client, thread-safe, of bytes. Commands ride out `patience` seconds of connections that are refused, lost or silent.

        A command that was under way when its connection broke is sent again: what is not idempotent may then be done twice.

        Raises:
            RedisUnavailable: the URL is none.
        """
        if self.url.startswith("unix:") and urlsplit(self.url).hostname:
            raise RedisUnavailable(f"{self.public!r} has a host where its path should begin; give {FORMS}")
        options: dict[str, Any] = {"username": self.user, "password": self.password}
        options = {name: value for name, value in options.items() if value is not None}
        network = {} if self.url.startswith("unix:") else {"socket_keepalive": True}
        secure = {"ssl_ca_certs": self.ca, "ssl_certfile": self.certificate, "ssl_keyfile": self.key}
        try:
            pool = redis.ConnectionPool.from_url(
                self.url,
                protocol=2,
                socket_timeout=self.timeout,
                socket_connect_timeout=min(10.0, self.timeout),
                health_check_interval=30,
                retry=Patience(patience),
                **network,
                **(
                    secure | {"ssl_min_version": ssl.TLSVersion.TLSv1_3}
                    if self.url.startswith("rediss://")
                    else {}
                ),
            )
        except ValueError as error:
            raise RedisUnavailable(f"{self.public!r} is no URL of Redis ({error}); give {FORMS}") from error
        pool.connection_kwargs |= options
        return redis.Redis.from_pool(pool)

    def check(self, streams: Iterable[str] = ()) -> None:
        """Connect once; with `streams`, see too that each is a stream, or not there yet.

        Raises:
            RedisUnavailable: it cannot be reached, refuses this client, is too old, or a key holds something else.
        """
        for path in (self.ca, self.certificate, self.key):
            if path and not os.path.isfile(path):
                raise RedisUnavailable(
                    f"there is no file {path}; redis_ca, redis_certificate and redis_key name PEM files"
                )
        with self.client(patience=0) as client, self.explained():
            version = str(client.info("server")["redis_version"])
            if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
                raise RedisUnavailable(
                    f"Redis at {self.public} is {version}; kpiflow needs 7.0 or newer: upgrade it"
                )
            for stream in streams:
                refuse_other_types(stream, client.type(stream))

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn an error of Redis into RedisUnavailable, with its cause and what to do."""
        try:
            yield
        except redis.RedisError as error:
            raise RedisUnavailable(f"Redis at {self.public} {_cause(error)}") from error


def refuse_other_types(key: str, kind: bytes) -> None:
    """Raises:
    RedisUnavailable: the type that Redis names is no stream.
    """
    if kind not in (b"stream", b"none"):
        raise RedisUnavailable(
            f"the key {key!r} holds a {kind.decode()}, not a stream; give the key of a stream"
        )


def _cause(error: redis.RedisError) -> str:
    """What happened, and the mend."""
    text = str(error)
    if isinstance(error, AuthenticationError | AuthorizationError) or text.startswith(
        ("NOAUTH", "WRONGPASS")
    ):
        return f"refuses this user or password ({text}); set redis_user and redis_password (KPIFLOW_REDIS_PASSWORD)"
    if isinstance(error, NoPermissionError) or any(sign in text for sign in _NOT_ALLOWED):
        needed = f"{rules('stream')}, as docs/operations.md explains"
        return f"does not allow a command or key ({text}); let the user's ACL allow what a stream needs: {needed}"
    if text.startswith("READONLY") or isinstance(error, ReadOnlyError):
        return f"is a replica that takes no writes ({text}); give the URL of its primary"
    if isinstance(error, OutOfMemoryError):
        return f"has no memory left ({text}); {MAKE_ROOM}"
    if isinstance(error, BusyLoadingError):
        return "is still loading its data; try again when it has"
    if isinstance(error, ResponseError):
        return f"refuses a command ({text})"
    if any(word in text for word in ("SSL", "ssl", "certificate")):
        return (
            f"fails at TLS ({text}); use rediss:// with TLS 1.3, redis_ca for its authority, "
            "and redis_certificate with redis_key if it asks for them"
        )
    if "closed by server" in text or "reset by peer" in text:
        return f"hangs up ({text}); a port that speaks TLS wants rediss://, and a server may be full (maxclients)"
    return f"cannot be reached ({text}); start it, or correct the host and port; rediss:// is for a port that speaks TLS"


def transact(client: redis.Redis, keys: Sequence[str], commands: Iterable[Sequence[Any]]) -> list[Any]:
    """The replies to commands on some keys, run at one moment; an error is a reply. Works while Redis is over its maxmemory too.

    There, Redis before 8.0 refuses every command of a MULTI, even those that read, and every version those that write. A script
    may declare that it runs all the same; it is slower, so it is used only then. What it writes must be small.

    Raises:
        redis.RedisError: Redis cannot be reached, or refuses the whole.
    """
    commands = list(commands)
    try:
        with client.pipeline(transaction=True) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = pipeline.execute(raise_on_error=False)
        return replies
    except OutOfMemoryError:
        words = [[*command[0].split(), *command[1:]] for command in commands]
        raw: Any = client.eval(
            _TRANSACTION, len(keys), *keys, *chain.from_iterable([len(each), *each] for each in words)
        )
        return [_parsed(client, command[0], reply) for command, reply in zip(commands, raw)]


def _parsed(client: Any, name: str, reply: Any) -> Any:
    """A raw reply as the client gives it for a command of this name."""
    parse = client.response_callbacks.get(name)
    return reply if parse is None or isinstance(reply, Exception) else parse(reply)


def write(client: redis.Redis, key: str, *command: Any) -> None:
    """Run one small command that writes a key, also while Redis is over its maxmemory.

    Raises:
        redis.RedisError: Redis cannot be reached, or refuses.
    """
    (reply,) = transact(client, [key], [command])
    if isinstance(reply, Exception):
        raise reply


class Patience(Retry):
    """Tries again for some seconds in all, with pauses that double up to a limit, each between half of itself and the whole.

    redis-py retries inside of retries (a command, its connection): a limit in seconds holds for all of them together.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(NoBackoff(), 0)
        self.seconds = seconds

    def call_with_retry(
        self,
        do: Callable[[], Any],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any:
        """The result of `do`; after each failure that another try may mend, `fail` is told."""
        end = time.monotonic() + self.seconds
        failures = 0
        while True:
            try:
                return do()
            except self._supported_errors as error:
                if is_retryable and not is_retryable(error):
                    raise
                failures += 1
                fail(error, failures) if with_failure_count else fail(error)
                if isinstance(error, AuthenticationError | AuthorizationError) or time.monotonic() >= end:
                    raise
                time.sleep(
                    min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(failures, 10)) * random.uniform(0.5, 1)
                )


@dataclass(frozen=True)
class Lease:
    """The right to read some streams for a group: a key each, `kpiflow:{GROUP}:STREAM:owner`, that runs out unless renewed.

    `owner` names a job, not a process: the same job takes over from its dead self at once.
    """

    connection: Connection
    group: str
    streams: Sequence[str]
    owner: str
    seconds: float = 30

    def acquire(self) -> None:
        """Take the streams, all or none.

        Raises:
            GroupTaken: one of them is another owner's.
            RedisUnavailable: Redis refuses.
        """
        with self.connection.client() as client:
            try:
                with self.connection.explained():
                    self.renew(client)
            except GroupTaken:
                self.release(client)
                raise

    def renew(self, client: redis.Redis) -> None:
        """Hold the streams for `seconds` more; what ran out is taken again if nobody else has it.

        Raises:
            GroupTaken: one of them is another owner's now.
        """
        for stream in self.streams:
            if (other := self._if_ours(client, stream, int(self.seconds * 1000))) is not None:
                left = max(0, int(client.pttl(self._key(stream)))) / 1000
                raise GroupTaken(
                    f"the stream {stream!r} is being read for the group {self.group!r} by another job ({other}; its claim runs for "
                    f"{left:.0f} s more); stop that job and wait, or give this one a --group of its own"
                )

    def release(self, client: redis.Redis | None = None) -> None:
        """Give back what is ours of the streams."""
        if client is None:
            with self.connection.client(patience=1) as own:
                return self.release(own)
        for stream in self.streams:
            self._if_ours(client, stream, 0)
        return None

    def _key(self, stream: str) -> str:
        return f"kpiflow:{{{self.group}}}:{stream}:owner"

    def _if_ours(self, client: redis.Redis, stream: str, milliseconds: int) -> str | None:
        """Hold a stream's key for some time, 0 to give it back, unless it is another owner's, whose name is returned."""
        other: Any = client.eval(_IF_OURS, 1, self._key(stream), self.owner, milliseconds)
        return None if other is None else str(other.decode(errors="replace"))
