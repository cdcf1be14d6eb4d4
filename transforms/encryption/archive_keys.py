"""The keys of archives that are read: each has `_keys.json` at its top."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from transforms.core.key_wrapping import MonthKey
from transforms.encryption.key_ring import add_source, find_key, has_keys, use_master_key


@dataclass(frozen=True)
class ArchiveKeys:
    """Finds the keys of archives (`transforms.core.key_wrapping.KeyFinder`) above their files.

    `master`: the path or URL of their master key.
    """

    master: str | None

    def find_key(self, key_id: str, file: str) -> MonthKey | None:
        if self.master is not None:
            use_master_key(self.master)
        if "://" not in file:
            return find_key(key_id, Path(file))
        self._add_objects_above(file)
        return find_key(key_id)

    def _add_objects_above(self, url: str) -> None:
        """Say that the nearest folder above an object that has a list of keys is encrypted."""
        from transforms.storage.object_storage import ObjectStorage

        where, mark, query = url.rpartition("?") if "?" in url else (url, "", "")
        scheme, bucket, *names = where.replace("://", "/", 1).split("/")
        for count in range(len(names) - 1, -1, -1):
            above = f"{scheme}://{'/'.join([bucket, *names[:count]])}{mark}{query}"
            storage = ObjectStorage.from_url(urlsplit(above))
            if has_keys(storage):
                add_source(storage, self.master)
                return
