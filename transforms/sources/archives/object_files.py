"""Archives on object storage: how they are found, and read a range at a time.

An archive is named by its URL, with the options that reach it: `s3://BUCKET/KEY?endpoint=http://HOST:PORT`.
"""

import io
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

import obstore
from obstore.exceptions import PreconditionError

from transforms.core.retry import retry_while_unavailable
from transforms.objects.place import BucketPlace, parse_options, verify_bucket

PATIENCE_SECONDS = 120
"""How long a request is repeated while the server is unavailable."""
_MAGIC = frozenset("*[")


class GoneError(OSError):
    """An object is not there, or not the one that was found."""


class FoundObject(NamedTuple):
    """An object: its URL, its size in bytes, and its version (the e-tag)."""

    url: str
    size: int
    version: str | None


def parse_object(url: str) -> tuple[BucketPlace, str]:
    """The bucket, and the key or pattern, that a URL names. What follows its last `?` are options.

    Raises:
        ValueError: the URL has another form.
    """
    scheme = url.partition("://")[0]
    form = f"{scheme}://BUCKET/PATTERN, and where needed ?endpoint=http://HOST:PORT"
    where, _, query = url.rpartition("?") if "?" in url else (url, "", "")
    netloc, _, key = where.partition("://")[2].partition("/")
    options = parse_options(scheme, query, form)
    return BucketPlace(scheme, verify_bucket(netloc, form), **options), key


def find_objects(pattern: str) -> Iterator[FoundObject]:
    """The objects that a pattern means: one object, all below a folder, or a glob with `*`, `[...]` and `**`.

    As in a folder of this machine, names that begin with a dot are found only where the pattern names them.

    Raises:
        ValueError: the URL has another form.
        Refused, Unavailable: the bucket cannot be listed.
    """
    place, key = parse_object(pattern)
    key = key.rstrip("/")
    if key and (object_ := _find_object(place, key)):
        yield object_
        return
    names = key.split("/") if key else []
    fixed = next((i for i, name in enumerate(names) if _MAGIC & set(name)), len(names))
    # `names` before the first wildcard are the prefix of the listing.
    for each in _list(place, "/".join(names[:fixed])):
        if _matches(each["path"].split("/")[fixed:], names[fixed:]):
            yield _describe(place, each)


def _matches(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a pattern means an object, or a folder that it is in; both as names between slashes."""
    is_hidden = bool(names) and names[0].startswith(".")
    if not pattern:
        return not any(name.startswith(".") for name in names)
    if pattern[0] == "**":
        further = bool(names) and not is_hidden and _matches(names[1:], pattern)
        return further or _matches(names, pattern[1:])
    if not names or (is_hidden and not pattern[0].startswith(".")):
        return False
    return fnmatchcase(names[0], pattern[0]) and _matches(names[1:], pattern[1:])


def _find_object(place: BucketPlace, key: str) -> FoundObject | None:
    meta = _ask(place, partial(_head, key=key))
    return None if meta is None else _describe(place, meta)


def _list(place: BucketPlace, prefix: str) -> list[Any]:
    return _ask(
        place,
        lambda client: [each for some in obstore.list(client, prefix=prefix or None) for each in some],
    )


def _head(client: Any, key: str) -> Any:
    """What the store says of an object; None if there is none."""
    try:
        return obstore.head(client, key)
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise
        return None


def _ask(place: BucketPlace, request: Any) -> Any:
    """The answer of a request, which gets the client and is repeated while the server is unavailable."""
    for attempt in retry_while_unavailable(PATIENCE_SECONDS):
        with attempt, place.connect() as client:
            return request(client)
    return None  # is not reached: the last attempt raises


def _describe(place: BucketPlace, meta: Any) -> FoundObject:
    url = place.locate(meta["path"])
    # An empty list of options keeps a `?` of the key itself apart.
    return FoundObject(
        url + (place.query or "?" if "?" in url or place.query else ""), meta["size"], meta["e_tag"]
    )


class ObjectReader(io.RawIOBase):
    """The bytes of an object, as a file that can be read. Wrap it in a BufferedReader: each read is a
    request.

    Raises:
        GoneError: there is no such object, or it was replaced or removed after `version` was found.
        Refused, Unavailable: it cannot be read.
    """

    def __init__(self, url: str, size: int = 0, version: str | None = None) -> None:
        self._position = 0
        self._place, self._key = parse_object(url)
        if version is None:
            meta = _ask(self._place, partial(_head, key=self._key))
            if meta is None:
                raise GoneError("there is no such object")
            size, version = meta["size"], meta["e_tag"]
        self.size, self.version = size, version

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = (
            offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        )
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self.size, self._position + len(buffer))
        if self._position >= end:
            return 0
        octets = _ask(self._place, partial(self._get, end=end))
        buffer[: len(octets)] = octets
        self._position += len(octets)
        return len(octets)

    def _get(self, client: Any, end: int) -> bytes:
        options: Any = {"range": (self._position, end), "if_match": self.version}
        try:
            return bytes(obstore.get(client, self._key, options=options).bytes())
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise
            raise GoneError("it is not there any more") from None
        except PreconditionError:
            raise GoneError("it was replaced after the run began") from None
