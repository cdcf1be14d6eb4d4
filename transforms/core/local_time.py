"""Local time of many moments at once, by zoneinfo, which reads slim zone files and knows every year."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

Longs = NDArray[np.int64]

_SECOND_US = 1_000_000
_SLOT = 3600
"""Seconds within which a zone changes its offset at most once."""
_WIDE = 1 << 20
"""A range of values from which on they are sorted."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = int((datetime.min.replace(tzinfo=UTC) - _EPOCH).total_seconds())
_LAST = int((datetime.max.replace(tzinfo=UTC) - _EPOCH).total_seconds())
_DAY = 86_400


def convert_to_local(moments: Longs, zone: str) -> Longs:
    """int64[n]: microseconds since 1970 on the local clock, of int64[n] microseconds of UTC.

    The moments are in the years 1 to 9999.

    The offset is looked up once for each hour that occurs, and row by row only in an hour in which it
    changes.

    Raises:
        ZoneInfoNotFoundError: this machine knows no such zone.
    """
    slots = moments // (_SLOT * _SECOND_US)
    distinct, places = _find_distinct(slots)
    found = [_find_offsets(zone, slot) for slot in distinct.tolist()]
    first = np.array([start for start, _ in found], dtype=np.int64)
    offsets = first[places]
    changing = np.array([start != end for start, end in found], dtype=bool)
    for row in np.flatnonzero(changing[places]).tolist() if changing.any() else ():
        offsets[row] = _find_offset(ZoneInfo(zone), int(moments[row]) // _SECOND_US)
    return moments + offsets * _SECOND_US


def _find_distinct(values: Longs) -> tuple[Longs, Longs]:
    """The distinct values, ascending, and the place of each row's value among them."""
    if not len(values):
        return values, values
    low, high = int(values.min()), int(values.max())
    if high - low >= _WIDE:
        return np.unique(values, return_inverse=True)
    # The values are close together: marking them in a table of all between is linear, and sorting is not.
    present = np.zeros(high - low + 1, dtype=bool)
    present[values - low] = True
    numbers = np.cumsum(present) - 1
    return np.flatnonzero(present) + low, numbers[values - low]


@lru_cache(maxsize=1 << 16)
def _find_offsets(zone: str, slot: int) -> tuple[int, int]:
    """Seconds east of UTC in the first and the last second of a slot."""
    known = ZoneInfo(zone)
    return _find_offset(known, slot * _SLOT), _find_offset(known, (slot + 1) * _SLOT - 1)


def _find_offset(zone: ZoneInfo, second: int) -> int:
    """Seconds east of UTC at a second since 1970.

    In a local year 0 or 10000, those of a day nearer to today.
    """
    moment = _EPOCH.replace(tzinfo=zone) + timedelta(seconds=min(max(second, _FIRST), _LAST))
    try:
        offset = zone.fromutc(moment).utcoffset()
    except OverflowError:
        inside = min(max(second, _FIRST + _DAY), _LAST - _DAY)
        return _find_offset(zone, inside)
    assert offset is not None
    return round(offset.total_seconds())
