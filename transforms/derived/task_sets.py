"""Which stored files have rows of some tasks: the tasks of a minute are in few of the thousands of a day."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from transforms.core.hashing import hash_uuids

Hashes = NDArray[np.uint32]
_COARSE_BITS = 24


def hash_tasks(ids: pa.Array) -> Hashes:
    """uint32[n]: a hash of each task_id of string[n]."""
    return (hash_uuids(ids) >> np.uint64(16)).astype(np.uint32)


class TaskSet:
    """Some tasks, by their hashes."""

    def __init__(self, hashes: Sequence[Hashes]) -> None:
        self._hashes = np.unique(np.concatenate([np.zeros(0, np.uint32), *hashes]))
        # A table lookup for each row leaves one in a thousand to be searched for.
        self._coarse = np.zeros(1 << _COARSE_BITS, dtype=bool)
        self._coarse[self._shorten(self._hashes)] = True

    def meets(self, hashes: Hashes | None) -> bool:
        """Whether one of the tasks may be among the rows with these hashes; True where they are unknown."""
        if hashes is None:
            return True
        near = hashes[self._coarse[self._shorten(hashes)]]
        return bool(np.isin(near, self._hashes).any())

    @staticmethod
    def _shorten(hashes: Hashes) -> Hashes:
        return hashes >> np.uint32(32 - _COARSE_BITS)
