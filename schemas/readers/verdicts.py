"""The limits of documents, and what the readers find: valid rows as columns, other rows with the reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.readers.compiler import Node
from schemas.readers.constraints import choose_column_type

OVERSIZE = "oversize"
"""The reason of a payload that is longer than the limit."""

Rows = NDArray[np.int64]
"""Places of rows in a block."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Rejection:
    """Why a document is not valid: a reason (one word), a message for people, the field and rule if any."""

    reason: str
    message: str
    field: str | None = None
    rule: str | None = None


@dataclass(frozen=True)
class MessageLimits:
    """How large (bytes) and how deeply nested a document may be."""

    payload_bytes: int = 1 << 20
    depth: int = 32

    def oversize(self, length: int) -> Rejection | None:
        """Why a payload of that length is rejected; None if it is not."""
        if length <= self.payload_bytes:
            return None
        return Rejection(OVERSIZE, f"{length} bytes are more than {self.payload_bytes}")


class Accepted(NamedTuple):
    """Valid rows of a block: their places, a column for each leaf of the schema, and `extra` (string[m])."""

    rows: Rows
    columns: list[pa.Array]
    extra: pa.Array

    def filter(self, chosen: Mask) -> "Accepted":
        """Some of them, bool[m]."""
        if chosen.all():
            return self
        mask = pa.array(chosen)
        columns = [column.filter(mask) for column in self.columns]
        return Accepted(self.rows[chosen], columns, self.extra.filter(mask))


class Rejected(NamedTuple):
    """Other rows of a block: their places, and why each is not valid."""

    rows: Rows
    rejections: list[Rejection]


def join_accepted(root: Node, parts: Sequence[Accepted]) -> Accepted:
    """The rows of all parts, in the order of the parts."""
    some = [part for part in parts if len(part.rows)]
    if len(some) == 1:
        return some[0]
    types = [choose_column_type(leaf) for leaf in root.leaves()]
    columns = [
        pa.concat_arrays([pa.array([], type_), *(part.columns[place] for part in some)])
        for place, type_ in enumerate(types)
    ]
    extra = pa.concat_arrays([pa.array([], pa.string()), *(part.extra for part in some)])
    return Accepted(np.concatenate([np.zeros(0, np.int64), *(part.rows for part in some)]), columns, extra)
