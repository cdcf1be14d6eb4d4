"""What the names in a folder say, made again only when the folder has changed."""

import os
import time
from collections.abc import Callable
from typing import Generic, TypeVar

_SETTLED_NS = 100_000_000
"""A folder that was listed sooner after it changed may have changed again in the same tick of the clock."""
Found = TypeVar("Found")


class FolderListing(Generic[Found]):
    """What the names in a folder say, made again when the folder has changed."""

    def __init__(self, folder: str, parse: Callable[[list[str]], list[Found]]) -> None:
        self._folder, self._parse = folder, parse
        self._state: tuple[int, list[Found]] = (-1, [])

    def read(self) -> list[Found]:
        known, found = self._state
        changed = read_change(self._folder)
        if changed != known:
            names = os.listdir(self._folder) if changed else []
            found = self._parse(sorted(names))
            self._state = (changed if is_settled(changed) else -1, found)
        return found


def read_change(folder: str) -> int:
    """When the names in a folder changed last, in ns; 0 if there is no folder."""
    try:
        return os.stat(folder).st_mtime_ns
    except FileNotFoundError:
        return 0


def is_settled(changed: int) -> bool:
    """Whether a folder that changed then cannot have changed again in the same tick of the clock."""
    return time.time_ns() - changed > _SETTLED_NS
