"""Committed offsets: where a reader begins, what it commits, and where it goes back to. Free of Beam.

What is committed is a position in a key of kpiflow's own; the group is moved along, so that operators see its
lag in XINFO GROUPS and a producer may XTRIM MINID up to its last-delivered-id. Neither is trusted: other
clients may move or destroy the group.

This module says what is committed as the offset, `commits` when, `group` how.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from transforms.core.events import ARCHIVE_INCOMPLETE, READ_AGAIN, log_event
from transforms.redis.entry_ids import ZERO, parse_id
from transforms.sources.reader_status import Notices
from transforms.sources.redis.group import Group
from transforms.sources.redis.notices import StreamNotices
from transforms.sources.redis.positions import Position, Stream, choose_start, is_replaced

Positions = Mapping[str, Position]


class CommittedOffsets:
    """The committed offsets of some streams for a group."""

    def __init__(self, group: Group, streams: Sequence[str], notices: StreamNotices) -> None:
        self.group, self.streams, self.notices = group, tuple(streams), notices

    def start(self, reread_ms: int) -> dict[str, Position]:
        """Where to begin without a checkpoint; makes the group where it is missing.

        A new group begins at its stream's beginning. A used one begins `reread_ms` before what was committed
        last, or before the group's last delivered or oldest pending entry where one of these is older: what
        came after may be in no output. A group that another client moved ahead, or destroyed, takes nothing
        away.
        """
        committed = self.group.read_committed(self.streams)
        return {key: self._start(key, committed.get(key), reread_ms) for key in self.streams}

    def commit(self, positions: Positions) -> None:
        """Keep these positions as committed and move the group there; make it again if it was destroyed.

        What was committed later is not taken back. A group that another client moved ahead is moved back:
        what is between is not read yet. A stream that has none of these positions is left alone: it is new,
        and reading it makes its group. So is one that is read again: the group is ahead, or its count belongs
        to a later place.
        """
        committed = self.group.read_committed(positions)
        streams = self.group.read_streams({key: position.last for key, position in positions.items()})
        for key, position in positions.items():
            stream, last = streams[key], committed.get(key, Position()).last
            if position.last == ZERO or is_older(position.last, position.counted):
                continue
            if stream is None or is_replaced(position, stream) or is_older(position.last, last):
                continue
            is_ahead = key in committed and stream.group is not None and is_older(position.last, stream.group)
            if is_ahead:
                self._notice_move(key, stream)
            # The position is kept first, so that a group ahead of it is always another client's work.
            self.group.keep_committed(key, position)
            if is_ahead or stream.group is None or is_older(stream.group, position.last):
                self._put_group(key, position, stream)

    def rewind(self, positions: Positions) -> dict[str, Position]:
        """The positions moved back to what is committed. From there entries are read again, and not counted
        again."""
        committed = self.group.read_committed(positions)
        streams = self.group.read_streams({key: position.last for key, position in positions.items()})
        return {
            key: _rewind(key, position, committed.get(key), streams[key])
            for key, position in positions.items()
        }

    def reset(self, key: str, position: Position, stream: Stream) -> None:
        """Commit a position of a stream that went back to an older state, and put the group there."""
        self.group.keep_committed(key, position)
        self._put_group(key, position, stream)

    def begin(self, key: str, position: Position, stream: Stream | None) -> None:
        """Make the group at a position unless it exists, and commit the position."""
        if stream is None or stream.group is None:
            self.group.create(key, position)
        self.group.keep_committed(key, position)

    def _start(self, key: str, committed: Position | None, reread_ms: int) -> Position:
        last = ZERO if committed is None else committed.last
        stream = self.group.read_streams({key: last})[key]
        if committed is not None:
            return self._start_at_committed(key, committed, stream, reread_ms)
        if stream is None or stream.group is None:
            position = Position() if stream is None else Position(index=stream.removed, added=stream.added)
            self.begin(key, position, stream)
            return position
        return self._start_at_group(key, stream, reread_ms)

    def _start_at_committed(
        self, key: str, committed: Position, stream: Stream | None, reread_ms: int
    ) -> Position:
        if stream is None or is_replaced(committed, stream):
            return committed  # the first read finds that, and reports it
        oldest = ZERO if stream.group is None else self._oldest(key, committed.last)
        if stream.group is None:
            self.group.create(key, committed)
        elif is_older(committed.last, stream.group):
            self._notice_move(key, stream)
            self.group.move(key, committed)
        return choose_start(stream, committed.index, committed.last, oldest, reread_ms)

    def _start_at_group(self, key: str, stream: Stream, reread_ms: int) -> Position:
        """Where to begin on a group that has no committed position: another program has used it."""
        found = self.group.read_delivery(key)
        delivered = min(found.delivered, stream.last, key=parse_id)
        index = found.read
        is_counted = found.lag is not None and stream.first and not is_older(delivered, stream.first)
        if index is None and found.lag is not None and is_counted:
            index = stream.added - found.lag
        self.group.keep_committed(key, Position(delivered, index, delivered, stream.added))
        return choose_start(stream, index, delivered, self._oldest(key, delivered), reread_ms)

    def _oldest(self, key: str, committed: str) -> str:
        """The oldest of what is committed, and what the group has delivered and still has as pending."""
        found = self.group.read_delivery(key)
        return min(committed, found.delivered, found.pending or committed, key=parse_id)

    def _put_group(self, key: str, position: Position, stream: Stream) -> None:
        """Make the group at a position, or move it there."""
        if stream.group is None:
            self.group.create(key, position)
        else:
            self.group.move(key, position)

    def _notice_move(self, key: str, stream: Stream) -> None:
        text = (
            f"another client moved the group {self.group.name} of {key} to {stream.group}: it is moved back"
        )
        self.notices.warn(key, Notices(moved=1), text)


def _rewind(key: str, position: Position, committed: Position | None, stream: Stream | None) -> Position:
    if stream is None or committed is None or not is_older(committed.last, position.last):
        return position
    if is_replaced(position, stream):
        return position  # the first read finds that
    gone = stream.removed - committed.index if committed.index is not None else 0
    if gone > 0:
        log_event(ARCHIVE_INCOMPLETE, entries=gone, source=key, position=committed.last)
    log_event(READ_AGAIN, source=key, position=committed.last)
    return replace(position, last=committed.last, mark=committed.mark)


def is_older(entry_id: str, than: str) -> bool:
    """Whether an entry's id is before another one."""
    return parse_id(entry_id) < parse_id(than)
