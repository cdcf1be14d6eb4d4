"""Which of several rows with one key is kept: `schemas.tables.KEPT_ROW`, applied to record batches.

History follows it for the messages of one report, and every sink for the rows of one key.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.tables import KEPT_ROW, Preference
from transforms.core.grouping import Ints, encode_values, group_rows, rank_values

_SMALLEST = np.iinfo(np.int64).min + 1  # its negative is a number too


def find_kept(rows: pa.RecordBatch, groups: Ints) -> NDArray[np.bool_]:
    """bool[n]: the one row of each group that KEPT_ROW keeps; the first of rows that it cannot tell apart.

    `groups` (int64[n], >= 0) numbers the rows with one key.
    """
    sizes = np.bincount(groups)
    kept = sizes[groups] == 1
    left, wanted = np.flatnonzero(~kept), np.count_nonzero(sizes > 1)
    for preference in KEPT_ROW:
        if len(left) > wanted and preference.column in rows.schema.names:
            values = rows[preference.column].take(pa.array(left))
            left = left[_find_best(values, groups[left], preference)]
    if len(left):
        kept[left[group_rows(groups[left]).picks]] = True
    return kept


def _find_best(values: pa.Array, groups: Ints, preference: Preference) -> NDArray[np.bool_]:
    """bool[n]: which values are the best of their group, all of them if they are equal."""
    best = np.ones(len(values), dtype=bool)
    numbers, of = encode_values(values), group_rows(groups)
    is_mixed = of.reduce(np.minimum, numbers) != of.reduce(np.maximum, numbers)
    mixed = np.flatnonzero(is_mixed[of.ids])  # ranking is dear, and most groups agree on most columns
    if len(mixed):
        ranks = rank_values(values.take(pa.array(mixed)), null=_SMALLEST)
        ranks = -ranks if preference.largest else ranks
        of = group_rows(groups[mixed])
        best[mixed] = ranks == of.reduce(np.minimum, ranks)[of.ids]
    return best
