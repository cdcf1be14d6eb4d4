"""Where a reader is in a Redis stream, and what left the stream before it came there. Free of Redis and of
Beam.

Redis counts the entries ever added to a stream (`entries-added`) and knows how many it holds. A position has
an index in the same
count: how many entries are accounted for, as read or as lost. From that follow, exactly,

- when the stream's front is past the position: all it holds is unread, so added - length - index entries are
lost;
- when the stream was read to its end: what was added beyond the index and was not read now is lost.

Between these two moments entries that were deleted one by one from the middle are not seen; the next of the
two tells them.

A stream may go back: after a failover, or restored from a copy, it lacks its newest entries, and those that
it gets next may have ids below a position that was reached before. So a position also holds a digest of its
last entry. A stream that does not have this entry any more, although neither trimming nor deletion explains
it, is not the one that was read (`is_replaced`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transforms.redis.entry_ids import ZERO, parse_id

TRIMMED, DELETED, RESET = "trimmed", "deleted", "reset"
"""Reasons of a loss: the stream's front was trimmed; entries were deleted by their ids, or the stream as a
whole; the stream went back to an older state, so entries after `after` up to `until` may be gone."""


@dataclass(frozen=True)
class Position:
    """All entries up to the id `last` are read. `index` of the `added` entries known then are those up to the
    id `counted`.

    `counted` is ahead of `last` only while a used group's entries are read again. `index` is None where Redis
    cannot tell it. `mark` is the digest of the entry `last`, empty if that is no entry that was read.
    """

    last: str = ZERO
    index: int | None = 0
    counted: str = ZERO
    added: int = 0
    mark: str = ""


class Stream(NamedTuple):
    """A stream at a moment, as XINFO STREAM has it: `first` is None where it holds nothing; `group` is the
    group's last id.

    `mark` is the digest of the entry that it has where some position is, empty if it has none there.
    """

    added: int
    length: int
    first: str | None
    last: str
    max_deleted: str
    group: str | None = None
    mark: str = ""

    @property
    def removed(self) -> int:
        """Entries that it does not hold any more."""
        return self.added - self.length


class Loss(NamedTuple):
    """Entries after the id `after` that could not be read, how many (None: unknown), before `until`, and
    why."""

    after: str
    until: str
    entries: int | None
    reason: str


class Account(NamedTuple):
    """What a read of a stream found after a position: where it leads, and what was lost."""

    position: Position
    loss: Loss | None = None


def account_entries(
    before: Position, stream: Stream, ids: Sequence[bytes], at_end: bool, mark: str = ""
) -> Account | None:
    """Account for the entries `ids` that a stream gave after a position; `at_end` says that they are all it
    has.

    `mark` is the digest of the last of them. None where the stream is not the one that the position was
    reached in, or went back to an older state.
    """
    fresh = _newer(ids, before.counted)
    gone = _is_gone(before, stream)
    known_unread = stream.length if gone else fresh
    index = before.index
    if is_replaced(before, stream):
        return None
    if index is not None and stream.added - index < known_unread:  # more entries than Redis can have added
        if not _has_mark(before, stream) or stream.group is None:
            return None
        index = None

    loss = None
    if index is None:
        new_index = stream.added if at_end else stream.removed + fresh if gone else None
        if gone and before.index is None and before.counted != ZERO:
            loss = _loss(before, stream, ids, None)
    else:
        lost = stream.removed - index if gone else stream.added - index - fresh if at_end else 0
        new_index = index + lost + fresh
        loss = _loss(before, stream, ids, lost) if lost else None

    last = ids[-1].decode() if ids else before.last
    if at_end and not ids:
        last = max(last, stream.last, key=parse_id)
    mark = mark if ids else before.mark if last == before.last else ""
    return Account(
        Position(last, new_index, max(before.counted, last, key=parse_id), stream.added, mark), loss
    )


def is_replaced(before: Position, stream: Stream) -> bool:
    """Whether a stream cannot be the one that a position was reached in, or has gone back to an older state
    since.

    `stream.mark` must be that of the position's last id. False also where that cannot be seen, because the
    entry was deleted.
    """
    if stream.added < before.added or parse_id(stream.last) < parse_id(before.counted):
        return True
    if not before.mark or stream.mark == before.mark:
        return False
    limit = parse_id(before.last)
    explained = (
        stream.first is None or parse_id(stream.first) > limit or parse_id(stream.max_deleted) >= limit
    )
    return bool(stream.mark) or not explained


def is_sure(before: Position, stream: Stream) -> bool:
    """Whether all that a stream holds after a position is unread, and all before it is read: it has the
    position's last entry, or nothing that is as old."""
    if is_replaced(before, stream):
        return False
    return _has_mark(before, stream) or (
        stream.first is not None and parse_id(stream.first) > parse_id(before.last)
    )


def is_made_again(committed: Position, stream: Stream) -> bool:
    """Whether a stream that is not what it was is another one: its group is gone with the old one, and it
    lacks the committed position's last entry, of which `stream.mark` must be the digest.

    Where the committed index is unknown, the stream had gone back before, and is no other one.
    """
    return stream.group is None and committed.index is not None and not _has_mark(committed, stream)


def reset_position(before: Position, to: Position, now_ms: int) -> Account:
    """A position from which a stream that went back is read again, and a loss of unknown size: up to the
    place left or, since the job may have read more after its checkpoint, up to now."""
    return Account(to, Loss(to.last, max(before.counted, f"{now_ms}-0", key=parse_id), None, RESET))


def restart_position(before: Position, until: str | None = None) -> Account:
    """The beginning of the stream that took a deleted one's place, and what is known to have been unread in
    the old one."""
    unread = 0 if before.index is None else max(0, before.added - before.index)
    if before.counted == ZERO and not unread:
        return Account(Position())
    return Account(Position(), Loss(before.counted, until or before.counted, unread, DELETED))


def choose_start(stream: Stream, read: int | None, delivered: str, oldest: str, reread_ms: int) -> Position:
    """Where to begin without a checkpoint on a group that has `read` entries up to the id `delivered`.

    That is `reread_ms` before its `oldest` entry of interest. What is counted as lost begins after
    `delivered`.
    """
    if delivered == ZERO:
        return Position(ZERO, read, ZERO, stream.added)
    millis = parse_id(oldest)[0] - reread_ms - 1
    return Position(f"{millis}-0" if millis > 0 else ZERO, read, delivered, stream.added)


def _is_gone(before: Position, stream: Stream) -> bool:
    """Whether a stream holds nothing any more of what is accounted for."""
    return stream.first is None or parse_id(stream.first) > parse_id(before.counted)


def _has_mark(before: Position, stream: Stream) -> bool:
    return before.mark != "" and stream.mark == before.mark


def _newer(ids: Sequence[bytes], than: str) -> int:
    """How many of the ascending ids are newer."""
    if not ids or parse_id(ids[0]) > parse_id(than):
        return len(ids)
    limit = parse_id(than)
    return sum(parse_id(each) > limit for each in ids)


def _loss(before: Position, stream: Stream, ids: Sequence[bytes], entries: int | None) -> Loss:
    limit = parse_id(before.counted)
    until = next((each.decode() for each in ids if parse_id(each) > limit), stream.last)
    trimmed = _is_gone(before, stream) and parse_id(stream.max_deleted) <= limit
    reason = TRIMMED if trimmed else DELETED
    return Loss(before.counted, until, entries, reason)
