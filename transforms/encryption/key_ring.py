"""The open keys of this process: where they come from, and which one a file needs.

A `KeySource` names the keys of an output: its storage, and the path or URL of its master key. It can be sent
to another process, which opens the keys itself; the keys stay in the process that opened them. Readers ask
for a key by its id, which is in each file.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from transforms.core.errors import Unavailable
from transforms.core.key_wrapping import MonthKey
from transforms.core.retry import back_off
from transforms.encryption.key_list import (
    KEYS,
    KeyList,
    add_key,
    begin_list,
    format_list,
    open_key,
    parse_list,
)
from transforms.encryption.master_key import KeyRefused, KeyWrapper, open_wrapper
from transforms.storage.local_folder import LocalFolder
from transforms.storage.storage import Conflict, Storage, Stored

_ATTEMPTS = 10
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
NO_MASTER = "give --master-key, or set KPIFLOW_MASTER_KEY"


@dataclass
class _Ring:
    """`opened`: keys by id; `writing`: the key of each source, and its month; `master`: of this command."""

    opened: dict[str, MonthKey] = field(default_factory=dict)
    writing: dict["KeySource", tuple[str, MonthKey]] = field(default_factory=dict)
    sources: dict[str, "KeySource"] = field(default_factory=dict)
    master: str | None = None


_RING = _Ring()


@dataclass(frozen=True)
class KeySource:
    """The keys of an output. `master`: the path or URL of its master key."""

    storage: Storage
    master: str | None

    def find_writing_key(self) -> MonthKey:
        """The key of this month; it is made if there is none.

        Raises:
            KeyRefused: the master key, or the list of keys, is wrong, missing or revoked.
            Unavailable: the storage, or the service of the master key, does not answer.
        """
        now = datetime.now(UTC)
        month = f"{now:%Y-%m}"
        known = _RING.writing.get(self)
        if known is not None and known[0] == month:
            return known[1]
        wrapper = self.open_master()
        keys = self.change_list(lambda keys: keys if keys.find_for(now) else add_key(keys, wrapper, now))
        chosen = keys.find_for(now)
        assert chosen is not None
        key = open_key(keys, chosen, wrapper)
        _RING.writing[self] = month, key
        _RING.opened[key.id] = key
        return key

    def begin(self) -> None:
        """Make the list of a new output, with the key of this month; one that is there stays."""
        now = datetime.now(UTC)
        with self.storage.lock(""):
            if self.storage.get(KEYS) is None:
                self.open_master().find_current()
                self.storage.put(KEYS, format_list(begin_list(now)), None)
        self.find_writing_key()

    def find_reading_key(self, key_id: str) -> MonthKey | None:
        """A key by its id; None if the list does not have it.

        Raises:
            KeyRefused, Unavailable: as `find_writing_key` does.
        """
        if known := _RING.opened.get(key_id):
            return known
        keys, wrapper = self.read_list(), self.open_master()
        found = next((key for key in keys.keys if key.id == key_id), None)
        if found is None:
            return None
        return _RING.opened.setdefault(key_id, open_key(keys, found, wrapper))

    def check(self) -> None:
        """Open all keys of the output.

        Raises:
            KeyRefused, Unavailable: as `find_writing_key` does.
        """
        keys, wrapper = self.read_list(), self.open_master()
        for each in keys.keys:
            open_key(keys, each, wrapper)

    def open_master(self) -> KeyWrapper:
        """The master key; nothing of it is read yet."""
        if self.master is None:
            raise KeyRefused(f"{self.storage.name} is encrypted; {NO_MASTER}")
        return open_wrapper(self.master)

    def read_list(self) -> KeyList:
        """The list as it is now.

        Raises:
            KeyRefused: there is none, or it is damaged.
        """
        return self._parse(self.storage.get(KEYS))

    def change_list(self, change: Callable[[KeyList], KeyList]) -> KeyList:
        """Replace the list by what a function makes of it, in one step; what it is then.

        Raises:
            KeyRefused: there is no list, or it is damaged.
            Unavailable: others changed it again and again.
        """
        for _ in back_off(_ATTEMPTS, _FIRST_PAUSE, _LONGEST_PAUSE):
            with self.storage.lock(""):
                stored = self.storage.get(KEYS)
                keys = self._parse(stored)
                changed = change(keys)
                try:
                    if stored is not None and changed != keys:
                        self.storage.put(KEYS, format_list(changed), stored.version)
                    return changed
                except Conflict:
                    continue
        raise Unavailable(f"{self.storage.locate(KEYS)} was changed by others {_ATTEMPTS} times")

    def _parse(self, stored: Stored | None) -> KeyList:
        where = self.storage.locate(KEYS)
        if stored is None:
            raise KeyRefused(f"{where} is missing, without which nothing can be read; restore it from a copy")
        return parse_list(stored.data, where)


def use_master_key(master: str | None) -> None:
    """The master key of this command, for the outputs that it reads."""
    _RING.master = master


def add_source(storage: Storage, master: str | None = None) -> KeySource:
    """Say that an output is encrypted, so that the keys of its files are found; nothing is read yet."""
    known = _RING.sources.get(storage.name)
    if known is None or (master is not None and known.master != master) or known.master is None:
        known = _RING.sources[storage.name] = KeySource(storage, master or _RING.master)
    return known


def find_writing_key(storage: Storage) -> MonthKey | None:
    """The key for new files of an output; None if it is not encrypted: it has no list of keys, and nobody
    said that it has one.

    Raises:
        KeyRefused, Unavailable: as `KeySource.find_writing_key` does.
    """
    is_encrypted = storage.name in _RING.sources or has_keys(storage)
    return add_source(storage).find_writing_key() if is_encrypted else None


def has_keys(storage: Storage) -> bool:
    """Whether an output has a list of keys."""
    return storage.get(KEYS) is not None


def get_master_key() -> str | None:
    """What `use_master_key` got last."""
    return _RING.master


def find_key(key_id: str, path: Path | None = None) -> MonthKey | None:
    """The key of a file by its id; None if the outputs that this process reads do not have it.

    `path`: of the file; a folder above it that has a list of keys is looked into as well.

    Raises:
        KeyRefused: a master key is not given, or it or a list is wrong, missing or revoked.
        Unavailable: a storage, or the service of a master key, does not answer.
    """
    if key := _RING.opened.get(key_id):
        return key
    if path is not None:
        _add_above(path)
    if not _RING.sources:
        raise KeyRefused(f"a file is encrypted by the key {key_id}, and no {KEYS} is known; {NO_MASTER}")
    for source in list(_RING.sources.values()):
        if key := source.find_reading_key(key_id):
            return key
    return None


def forget_keys() -> None:
    """Forget all keys and where they come from, as a new process has none."""
    global _RING
    _RING = _Ring()


def _add_above(path: Path) -> None:
    folder = next((each for each in path.absolute().parents if (each / KEYS).is_file()), None)
    if folder is not None:
        add_source(LocalFolder(folder))
