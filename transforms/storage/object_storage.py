"""Files on object storage: s3:// (Amazon's, and servers that speak its protocol) and gs:// (Google Cloud
Storage).

A file is an object. It is put on the condition that it still is what was read (If-None-Match, If-Match, on
Google its generation). So writers need no lock, and none can lose another's rows.
"""

import os
import secrets
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from mmap import mmap
from pathlib import Path
from tempfile import gettempdir
from typing import Any
from urllib.parse import SplitResult

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError

from transforms.core.errors import Finding, Refused, Unavailable
from transforms.objects.errors import ONE_MACHINE
from transforms.objects.place import BucketPlace, parse_options, verify_bucket
from transforms.storage.local_folder import LocalFolder
from transforms.storage.storage import Conflict, Stored


@dataclass(frozen=True)
class ObjectStorage(BucketPlace):
    """A place for the objects of tables: a `Storage`.

    `conditions` says whether the server honours conditional puts; if not, writers use locks of this machine,
    and no other machine may write.
    """

    conditions: bool = True

    @classmethod
    def from_url(cls, url: SplitResult) -> "ObjectStorage":
        """The storage of `s3://BUCKET/PREFIX` or `gs://BUCKET/PREFIX`; the prefix is taken as it is written,
        %XX too.

        Raises:
            ValueError: the URL has another form.
        """
        form = f"{url.scheme}://BUCKET/PREFIX, and where needed ?endpoint=http://HOST:PORT"
        bucket = verify_bucket(url.netloc, form)
        if url.fragment:
            raise ValueError(f"it names no bucket, or has a #; write {form}")
        prefix = url.path.strip("/")
        if prefix and not all(part not in ("", ".", "..") for part in prefix.split("/")):
            raise ValueError(f"the prefix {prefix!r} has an empty part, . or ..; write {form}")
        options = parse_options(url.scheme, url.query, form, frozenset({"conditions"}))
        conditions = options.pop("conditions", "")
        if conditions not in ("", "no"):
            raise ValueError(f"conditions are used unless conditions=no; write {form}")
        return cls(url.scheme, bucket, prefix, conditions=not conditions, **options)

    @property
    def options(self) -> dict[str, str]:
        return super().options | ({} if self.conditions else {"conditions": "no"})

    @property
    def threads(self) -> int:
        return 16

    def verify_reach(self, name: str) -> None:
        """A bucket is the same from everywhere."""

    def get(self, name: str) -> Stored | None:
        with self.connect() as client:
            try:
                answer = obstore.get(client, name)
                return Stored(bytes(answer.bytes()), (answer.meta["e_tag"], answer.meta["version"]))
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None

    def put(self, name: str, data: bytes | bytearray | mmap, version: Hashable | None) -> None:
        with self.connect() as client:
            try:
                obstore.put(client, name, data, mode=self._choose_condition(version), use_multipart=False)
            except (AlreadyExistsError, PreconditionError) as error:
                if "NoSuchBucket" in str(error):
                    raise
                raise Conflict(f"{self.locate(name)} was changed by another writer") from None

    def list_files(self, folder: str) -> Iterator[str]:
        with self.connect() as client:
            for some in obstore.list(client, prefix=folder or None, chunk_size=1000):
                yield from (each["path"] for each in some)

    def list_names(self, folder: str) -> Iterator[str]:
        with self.connect() as client:
            found = obstore.list_with_delimiter(client, prefix=folder or None)
        names = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
        yield from (name.rpartition("/")[2] for name in names)

    def list_versions(self, folder: str) -> Iterator[tuple[str, Hashable]]:
        with self.connect() as client:
            for some in obstore.list(client, prefix=folder or None, chunk_size=1000):
                yield from ((each["path"], (each["e_tag"], each["version"])) for each in some)

    def remove(self, name: str) -> None:
        with self.connect() as client:
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
