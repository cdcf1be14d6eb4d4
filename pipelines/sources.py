"""Where messages come from: the scheme of a URL chooses the kind of source. All kinds are in SCHEMES.

A kind is a class that offers `transforms.sources.source.Source`, or `LiveSource` if messages keep coming to
it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from pipelines.failures import WrongUse
from pipelines.settings import Settings
from schemas.kinds import KINDS, REPORT_KIND
from transforms.core.message_encodings import ENCODINGS
from transforms.sources.source import LiveSource, Source

if TYPE_CHECKING:
    from transforms.sources.archives.archive_files import ArchiveFiles
    from transforms.sources.archives.archive_source import Archives


@dataclass(frozen=True)
class SourceRequest:
    """What a user says about a source: URLs, or patterns of files; of a live one also the streams and the
    group."""

    urls: tuple[str, ...]
    streams: tuple[str, ...] = ()
    group: str = ""


def _archives(request: SourceRequest, settings: Settings) -> Source:
    from pipelines.inputs import find_archives

    return archives_of(find_archives(list(request.urls)), settings)


def _redis(request: SourceRequest, settings: Settings) -> Source:
    from pipelines.connections import connect_redis
    from transforms.sources.redis.redis_source import RedisStreams
    from transforms.sources.redis.session import Session

    return RedisStreams(
        connect_redis(request.urls[0], settings),
        request.streams,
        request.group,
        Session(settings.read_ms, settings.idle_ms, settings.read_count),
        readers=min(settings.parallelism, max(1, len(request.streams))),
        reread_seconds=settings.reread_seconds,
        ahead_seconds=settings.future_seconds,
    )


@dataclass(frozen=True)
class SourceScheme:
    """A kind of source: how its URLs look, and what makes one of a request."""

    form: str
    make: Callable[[SourceRequest, Settings], Source]


ARCHIVES = "file"
"""The scheme of everything that is not written as a URL."""
SCHEMES = {
    ARCHIVES: SourceScheme("files, folders or globs of archives", _archives),
    "s3": SourceScheme("s3://BUCKET/PATTERN", _archives),
    "gs": SourceScheme("gs://BUCKET/PATTERN", _archives),
    "redis": SourceScheme("redis://HOST:PORT/DB", _redis),
    "rediss": SourceScheme("rediss://HOST:PORT/DB", _redis),
    "unix": SourceScheme("unix:///PATH?db=DB", _redis),
}


class Streams(NamedTuple):
    """The keys of streams, each once, and the kind of message of those for which one was given."""

    keys: tuple[str, ...]
    kinds: dict[str, str]


def parse_streams(texts: Sequence[str]) -> Streams:
    """What `--stream KEY[=SCHEMA]` says.

    Raises:
        WrongUse: what is behind the last = is no kind, or a key is given two kinds.
    """
    kinds: dict[str, str] = {}
    keys: dict[str, None] = {}
    for text in texts:
        key, mark, name = text.rpartition("=")
        if not mark:
            keys[text] = None
            continue
        if name not in KINDS:
            fix = f"give one of {', '.join(KINDS)}; to a key that has a = itself, add ={REPORT_KIND.schema}"
            raise WrongUse(f"--stream {text}: no kind of message is called {name}", fix)
        if kinds.setdefault(key, name) != name:
            raise WrongUse(f"--stream: {key} is given as {kinds[key]} and as {name}", "give it once")
        keys[key] = None
    return Streams(tuple(keys), kinds)


def parse_encodings(texts: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    """What `--encoding KEY=ENCODING` says of these streams.

    Raises:
        WrongUse: there is no such encoding or stream, or a stream is given two.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, _, name = text.rpartition("=")
        if name not in ENCODINGS:
            forms = " or ".join(f"KEY={each}" for each in ENCODINGS)
            raise WrongUse(f"--encoding {text} names no encoding", f"write {forms}")
        if key not in keys:
            raise WrongUse(f"--encoding {text}: {key!r} is none of the streams", "give it to --stream too")
        if found.setdefault(key, name) != name:
            raise WrongUse(f"--encoding: {key} is given as {found[key]} and as {name}", "give it once")
    return found


def archives_of(files: "ArchiveFiles", settings: Settings) -> "Archives":
    """Archive files as a source, under the settings."""
    from transforms.sources.archives.archive_source import Archives

    return Archives(files, settings.read_mb << 20, settings.max_payload_bytes)


def parse_source(request: SourceRequest, settings: Settings) -> Source:
    """The source that a user means; it is not connected to.

    Raises:
        WrongUse: there is no such kind of source, or its URL or pattern means nothing.
    """
    name = urlsplit(request.urls[0]).scheme if "://" in request.urls[0] else ARCHIVES
    scheme = SCHEMES.get(name)
    if scheme is None:
        forms = ", ".join(dict.fromkeys(each.form for each in SCHEMES.values()))
        raise WrongUse(f"no source is called {name}://", f"give one of {forms}")
    try:
        return scheme.make(request, settings)
    except ValueError as error:
        raise WrongUse(str(error), f"give {scheme.form}") from error


def parse_live_source(url: str, streams: Sequence[str], group: str, settings: Settings) -> LiveSource:
    """The streams that a user means, read for a group; they are not connected to.

    Raises:
        WrongUse: there is no such kind of source, or it is read once and not live.
    """
    if "://" not in url:
        forms = ", ".join(each.form for name, each in SCHEMES.items() if each.make is not _archives)
        raise WrongUse(f"{url!r} is no URL of a source", f"give one of {forms}")
    source = parse_source(SourceRequest((url,), tuple(dict.fromkeys(streams)), group), settings)
    if not isinstance(source, LiveSource):
        raise WrongUse(f"messages do not keep coming to {url}", "`kpiflow backfill --input` reads it")
    return source
