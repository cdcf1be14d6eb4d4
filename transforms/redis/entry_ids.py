"""Ids of entries of Redis streams: `<milliseconds since 1970>-<sequence>`, which order the entries of a
stream."""

ZERO = "0-0"
"""Before every entry."""

EntryId = tuple[int, int]
"""An id as (milliseconds, sequence): these compare as the entries do."""


def parse_id(entry_id: str | bytes) -> EntryId:
    """The id that a text is.

    Raises:
        ValueError: it is none.
    """
    millis, _, sequence = (entry_id if isinstance(entry_id, str) else entry_id.decode()).partition("-")
    return int(millis), int(sequence)
