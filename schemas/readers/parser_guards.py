"""Which rows of a block Arrow's parser can take without harm, from their bytes alone.

The parser makes a column for each name, as long as the block. One row that it cannot read ends it for all.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.readers.verdicts import Mask, MessageLimits, Rows

_LONG_ROW = 1 << 14
"""Longer rows, in bytes, are left to the strict reader: it is as fast on them, and others are not slowed."""
_MOST_NAMES = 256
"""Names that may become columns."""
_MOST_BACKSLASHES = 8
_QUOTE, _BACKSLASH = b'"\\'
_ENDS_NAME = np.isin(np.arange(256), list(b": \t\r\n"))


def find_plain(payload: pa.Array, limits: MessageLimits) -> Mask:
    """bool[n]: rows that look like one object, are UTF-8 and cannot overwhelm the parser."""
    text, starts, ends = find_bounds(payload)
    lengths = ends - starts - 1
    plain = (lengths >= 2) & (lengths <= min(limits.payload_bytes, _LONG_ROW))
    plain &= text[np.minimum(starts, len(text) - 1)] == ord("{")
    plain &= text[np.maximum(ends - 2, 0)] == ord("}")
    try:
        payload.cast(pa.large_string())  # checks all rows at once, and says nothing of which one is wrong
    except pa.ArrowInvalid:
        for row in np.flatnonzero(plain):
            try:
                payload[row].as_py().decode()
            except UnicodeDecodeError:
                plain[row] = False
    return plain


def find_bounds(payload: pa.Array) -> tuple[NDArray[np.uint8], Rows, Rows]:
    """The bytes under large_binary[n], and int64[n]: where each value starts and ends."""
    _, offsets, values = payload.buffers()
    ends = np.frombuffer(offsets, np.int64)[payload.offset : payload.offset + len(payload) + 1]
    text = np.frombuffer(values, np.uint8) if values is not None and values.size else np.zeros(1, np.uint8)
    return text, ends[:-1], ends[1:]


def find_few_names(payload: pa.Array) -> Mask:
    """bool[n]: the rows all of whose names are among the most frequent _MOST_NAMES of them all.

    What is between two quotes before a colon or a space is taken for a name, so a text may be taken for one
    too. Rows with a quote behind _MOST_BACKSLASHES of them, which may be escaped or not, do not count.
    """
    text, starts, ends = find_bounds(payload)
    start = int(starts[0]) if len(starts) else 0
    text = text[start : int(ends[-1])] if len(ends) else text[:0]
    quotes, doubtful = _find_quotes(text)
    before_colon = np.flatnonzero(_ENDS_NAME[text[np.minimum(quotes[1:] + 1, len(text) - 1)]])
    # All that is between two neighbouring quotes as one array, without a copy; of it, what is before a colon.
    edges = pa.py_buffer(np.append(quotes, len(text)))
    between = [None, edges, pa.py_buffer(np.ascontiguousarray(text))]
    names = pa.Array.from_buffers(pa.large_binary(), len(quotes), between).take(pa.array(before_colon))
    names = names.dictionary_encode()
    few = np.ones(len(payload), dtype=bool)
    if len(names.dictionary) > _MOST_NAMES or len(doubtful):
        codes = names.indices.to_numpy()
        frequent = np.argsort(-np.bincount(codes, minlength=len(names.dictionary)), kind="stable")
        known = np.zeros(len(names.dictionary), dtype=bool)
        known[frequent[:_MOST_NAMES]] = True
        places = np.append(quotes[before_colon][~known[codes]], doubtful)
        few[np.searchsorted(ends - start, places, side="right")] = False
    return few


def _find_quotes(text: NDArray[np.uint8]) -> tuple[Rows, Rows]:
    """The places of quotes that are not escaped, and of those behind so many backslashes that they may be."""
    quotes = np.flatnonzero(text == _QUOTE)
    after = np.minimum(np.flatnonzero(text == _BACKSLASH) + 1, len(text) - 1)
    behind = np.searchsorted(quotes, after[text[after] == _QUOTE])
    # A quote is escaped if an odd number of backslashes is before it: each one more turns the answer round.
    escaped = np.zeros(len(quotes), dtype=bool)
    for distance in range(1, _MOST_BACKSLASHES + 1):
        behind = behind[text[np.maximum(quotes[behind] - distance, 0)] == _BACKSLASH]
        escaped[behind] ^= True
    return quotes[~escaped], quotes[behind]
