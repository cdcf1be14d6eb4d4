"""The string formats that a schema may name: each as a vectorised parser, and as a check of one string.

`date-time` is RFC 3339 with any offset and up to nine fraction digits, read to the microsecond (further
digits are cut), in the years 1 to 9999 of UTC and without leap seconds. `uuid` is the 36-character form of
RFC 9562, in either case. `base64` is that of RFC 4648, section 4, padded and without line breaks; it is a
format of kpiflow's own.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jsonschema import FormatChecker
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

TIME = pa.timestamp("us", tz="UTC")
_ZERO = ord("0")
FIRST_US = int(np.datetime64("0001-01-01T00:00:00", "us").astype(np.int64))
LAST_US = int(np.datetime64("9999-12-31T23:59:59.999999", "us").astype(np.int64))
"""The first and the last microsecond (since 1970) of the years 1 to 9999: the times that a table can hold."""
_DIGITS = np.array([0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18])
_DASHES = np.array([8, 13, 18, 23])
_HEX = np.array([i for i in range(36) if i not in set(_DASHES.tolist())])
_NIBBLE = np.full(256, 255, dtype=np.uint8)
for _digits in (b"0123456789abcdef", b"0123456789ABCDEF"):
    _NIBBLE[np.frombuffer(_digits, np.uint8)] = np.arange(16)


def parse_date_time(strings: pa.Array) -> pa.Array:
    """timestamp[us, UTC][n] of string[n]; null where the string is null or no date-time."""
    text, starts, lengths = _view_bytes(strings)
    if not len(starts):
        return pa.array([], TIME)
    head = _view_columns(text, starts, 19)
    last = text[np.minimum(starts + np.maximum(lengths - 1, 0), len(text) - 1)]
    zulu = (last == ord("Z")) | (last == ord("z"))
    fraction = lengths - 19 - np.where(zulu, 1, 6)
    valid = (lengths >= 20) & ((fraction == 0) | ((fraction >= 2) & (fraction <= 10)))
    for place, mark in ((4, "-"), (7, "-"), (13, ":"), (16, ":")):
        valid &= head[:, place] == ord(mark)
    valid &= (head[:, 10] | 0x20) == ord("t")
    digits = head[:, _DIGITS] - np.uint8(_ZERO)
    valid &= (digits <= 9).all(axis=1)
    seconds, real = _count_seconds(digits.astype(np.int64))
    micros, numeric = _read_fraction(text, starts + 19, fraction)
    offset, known = _read_offset(text, starts + lengths - 6, zulu)
    instant = (seconds - offset) * 1_000_000 + micros
    valid &= real & numeric & known & (instant >= FIRST_US) & (instant <= LAST_US)
    return pa.array(instant, mask=~valid).cast(TIME)


def _count_seconds(digits: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Seconds since 1970 of `YYYYMMDDhhmmss` digits, and whether such a moment exists."""
    century, years, month, day, hour, minute, second = (
        digits[:, i] * 10 + digits[:, i + 1] for i in range(0, 14, 2)
    )
    year = century * 100 + years
    real = (
        (year >= 1)
        & (month >= 1)
        & (month <= 12)
        & (day >= 1)
        & (hour <= 23)
        & (minute <= 59)
        & (second <= 59)
    )
    months = np.where(real, (year - 1970) * 12 + month - 1, 0)
    first, following = (m.astype("M8[M]").astype("M8[D]").astype(np.int64) for m in (months, months + 1))
    real &= day <= following - first
    return (first + day - 1) * 86400 + hour * 3600 + minute * 60 + second, real


def _read_fraction(
    text: NDArray[np.uint8], dots: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Microseconds of `.ddd` at `dots`, and whether it is made of digits."""
    micros = np.zeros(len(dots), np.int64)
    numeric = (lengths <= 0) | (text[np.clip(dots, 0, len(text) - 1)] == ord("."))
    for place in range(1, int(min(lengths.max(initial=0), 10))):
        here = place < lengths
        digit = text[np.clip(dots + place, 0, len(text) - 1)].astype(np.int64) - _ZERO
        numeric &= ~here | ((digit >= 0) & (digit <= 9))
        if place <= 6:
            micros += np.where(here, digit, 0) * 10 ** (6 - place)
    return micros, numeric


def _read_offset(
    text: NDArray[np.uint8], starts: NDArray[np.int64], zulu: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Seconds east of UTC of `+hh:mm` at `starts`, 0 where `zulu`, and whether it is an offset."""
    if zulu.all():
        return np.zeros(len(zulu), np.int64), zulu
    zone = _view_columns(text, np.maximum(starts, 0), 6).astype(np.int64)
    digits = zone[:, [1, 2, 4, 5]] - _ZERO
    hours, minutes = digits[:, :2] @ np.array([10, 1]), digits[:, 2:] @ np.array([10, 1])
    known = np.isin(zone[:, 0], [ord("+"), ord("-")]) & (zone[:, 3] == ord(":"))
    known &= ((digits >= 0) & (digits <= 9)).all(axis=1) & (hours <= 23) & (minutes <= 59)
    east = np.where(zone[:, 0] == ord("-"), -1, 1) * (hours * 3600 + minutes * 60)
    return np.where(zulu, 0, east), zulu | known


def parse_uuid(strings: pa.Array) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """uint64[n, 2], the big-endian halves of each UUID (else 0), and bool[n]: which strings are UUIDs."""
    text, starts, lengths = _view_bytes(strings)
    if not len(starts):
        return np.zeros((0, 2), np.uint64), np.zeros(0, bool)
    chars = _view_columns(text, starts, 36)
    nibbles = _NIBBLE[chars[:, _HEX]]
    valid = (lengths == 36) & (chars[:, _DASHES] == ord("-")).all(axis=1) & (nibbles < 16).all(axis=1)
    octets = (nibbles[:, 0::2] << 4) | (nibbles[:, 1::2] & 15)
    words = np.ascontiguousarray(octets).view(">u8").astype(np.uint64)
    return np.where(valid[:, None], words, np.uint64(0)), valid


def is_date_time(strings: pa.Array) -> NDArray[np.bool_]:
    """bool[n]: which strings are date-times."""
    return np.asarray(parse_date_time(strings).is_valid())


def is_uuid(strings: pa.Array) -> NDArray[np.bool_]:
    """bool[n]: which strings are UUIDs."""
    return parse_uuid(strings)[1]


def is_encoded(strings: pa.Array) -> NDArray[np.bool_]:
    """bool[n]: which strings are base64."""
    return np.asarray(pc.match_substring_regex(strings, f"^{_BASE64}$"))


_BASE64 = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
FORMATS: dict[str, Callable[[pa.Array], NDArray[np.bool_]]] = {
    "date-time": is_date_time,
    "uuid": is_uuid,
    "base64": is_encoded,
}
"""The vectorised check of every format a schema may name."""


def make_format_checker() -> FormatChecker:
    """The same formats, for one string at a time in jsonschema. What is no string passes."""
    checker = FormatChecker(formats=())
    one = {
        "date-time": _is_one_date_time,
        "uuid": lambda text: _UUID.fullmatch(text) is not None,
        "base64": lambda text: re.fullmatch(_BASE64, text) is not None,
    }
    for name, check in one.items():
        checker.checks(name, (ValueError, OverflowError))(
            lambda value, check=check: not isinstance(value, str) or check(value)
        )
    return checker


_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DATE_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[Tt](?!24)[0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-5][0-9])"
)


def _is_one_date_time(text: str) -> bool:
    parts = _DATE_TIME.fullmatch(text)
    return parts is not None and bool(
        datetime.fromisoformat(parts[1].upper() + parts[3].upper()).astimezone(UTC)
    )


def _view_bytes(strings: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """The UTF-8 bytes of a string array, and each string's start and length (0 for null)."""
    wide = strings.cast(pa.large_string())
    _, offsets, values = wide.buffers()
    ends = np.frombuffer(offsets, np.int64)[wide.offset : wide.offset + len(wide) + 1]
    text = np.frombuffer(values, np.uint8) if values is not None and values.size else np.zeros(1, np.uint8)
    lengths = np.diff(ends)
    if wide.null_count:
        lengths = np.where(np.asarray(wide.is_valid()), lengths, 0)
    return text, ends[:-1], lengths


def _view_columns(text: NDArray[np.uint8], starts: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """uint8[n, width]: the bytes from each start on; at the end of the buffer, its last bytes."""
    padded = text if len(text) >= width else np.pad(text, (0, width - len(text)))
    return sliding_window_view(padded, width)[np.minimum(starts, len(padded) - width)]
