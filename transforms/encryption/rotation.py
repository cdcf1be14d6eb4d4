"""Rotation: a new version of the master key wraps the keys of an output again. Its files stay as they are.

The steps: the master key gets a new version, beside the older ones; then `_keys.json` is replaced in one
step. The keys in it are under the new version and under the one before, so a machine whose key file has only
one of the two can read, before, between and after the steps. The same call again after a kill completes it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from transforms.encryption.key_list import KEYS, KeyList, parse_list, wrap_again
from transforms.encryption.key_ring import KeySource
from transforms.storage.storage import Storage

ROTATE_DAYS = 90


@dataclass(frozen=True)
class Rotation:
    """A rotation that is due: of so many keys, since a moment."""

    keys: int
    due: datetime


def plan_rotation(keys: KeyList, now: datetime, days: int = ROTATE_DAYS) -> Rotation | None:
    """The rotation of a list of keys that is due now; None if none is."""
    due = find_due(keys, days)
    return Rotation(len(keys.keys), due) if due <= now else None


def find_due(keys: KeyList, days: int = ROTATE_DAYS) -> datetime:
    """When the next rotation is due."""
    return keys.rotated + timedelta(days=days)


def rotate_keys(source: KeySource, now: datetime) -> KeyList:
    """Rotate now, whatever is due; the list as it is then.

    A version that a killed call made, under which no key is yet, is used.

    Raises:
        KeyRefused: the master key is wrong, missing or revoked; nothing was written.
        Unavailable: the storage, or the service of the master key, does not answer.
    """
    source.check()  # before anything is written
    wrapper = source.open_master()
    if wrapper.find_current() in source.read_list().count_versions():
        wrapper.rotate(now)
    return source.change_list(lambda keys: wrap_again(keys, wrapper, now))


def rotate_due_keys(
    storage: Storage, master: str | None, now: datetime, days: int = ROTATE_DAYS, act: bool = True
) -> Rotation | None:
    """Rotate the keys of an output if that is due; what was due, None if nothing was, or it has no keys.

    `act`: if not, nothing is changed.

    Raises:
        KeyRefused, Unavailable: as `rotate_keys` does.
    """
    stored = storage.get(KEYS)
    if stored is None:
        return None
    due = plan_rotation(parse_list(stored.data, storage.locate(KEYS)), now, days)
    if due is not None and act:
        rotate_keys(KeySource(storage, master), now)
    return due
