"""The live reports of a stream, read from Redis once for all sockets.

One thread reads the Redis stream that `kpiflow stream --live` adds to. The newest entries are kept, up to a
number and a size; a socket keeps only the id of the entry that it got last.
"""

import asyncio
import threading
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import orjson
import redis

from pipelines.service.report_json import format_report
from schemas.tables import OUTLIER_FLAGS
from transforms.redis.access import LIVE_STREAMS
from transforms.redis.connection import Connection
from transforms.redis.errors import explain_error

STREAM = LIVE_STREAMS[0]
Id = tuple[int, int]
ZERO: Id = (0, 0)
BEFORE_ALL: Id = (-1, 0)
MOST_ENTRIES = 20_000
MOST_BYTES = 64 << 20
"""Of the entries that are kept."""
_BLOCK_MS = 500
_BATCH = 1000
_PAUSE_SECONDS = 1.0


def parse_id(text: str) -> Id:
    """The id of an entry.

    Raises:
        ValueError: it is none.
    """
    first, dash, second = text.partition("-")
    if not (dash and all(each.isascii() and each.isdecimal() and len(each) < 21 for each in (first, second))):
        raise ValueError("not the id of an entry")
    return int(first), int(second)


def format_id(found: Id) -> str:
    """An id as Redis writes it."""
    return f"{found[0]}-{found[1]}"


@dataclass
class StreamEntry:
    """An entry; or a gap, with the ids around it: entries between them are gone, or may be."""

    id: Id
    data: bytes = b""
    gap: tuple[Id, Id] | None = None
    _texts: dict[tuple[bool, tuple[str, ...]], bytes] = field(default_factory=dict)

    def write(self, has_ids: bool, withheld: tuple[str, ...]) -> bytes:
        """The message of a socket; made once for all sockets that get the same."""
        key = has_ids, withheld
        if key not in self._texts:
            self._texts[key] = self._make(*key)
        return self._texts[key]

    @cached_property
    def outcome(self) -> tuple[bool, bool]:
        """Of a report: whether the task failed, and whether a value is an outlier."""
        row = self._read_row()
        return row.get("error_details") is not None, any(row.get(name) for name in OUTLIER_FLAGS.values())

    def _read_row(self) -> dict[str, Any]:
        """The row of kpi_reports; without columns, where another client of Redis has added what is none."""
        try:
            row = orjson.loads(self.data)
        except orjson.JSONDecodeError:
            return {}
        return row if isinstance(row, dict) else {}

    def _make(self, has_ids: bool, withheld: tuple[str, ...]) -> bytes:
        if self.gap is not None:
            after, before = map(format_id, self.gap)
            return orjson.dumps({"type": "gap", "after": after, "before": before})
        row = self._read_row()
        if not has_ids:
            return format_report(row, withheld)
        kept = {name: value for name, value in row.items() if name not in withheld}
        return orjson.dumps({"type": "report", "id": format_id(self.id), "report": kept})


class LiveReports:
    """The newest entries, and who waits for more. Only the loop of `start` touches them."""

    def __init__(
        self, connection: Connection, most_entries: int = MOST_ENTRIES, most_bytes: int = MOST_BYTES
    ) -> None:
        self._connection, self._most = connection, (most_entries, most_bytes)
        self._entries: list[StreamEntry] = []
        self._ids: list[Id] = []
        self._bytes = 0
        self.starts = 0
        """How often the Redis stream has begun again: ids of before say nothing then."""
        self.floor: Id | None = None
        """The id from which on all entries are kept; None until Redis has answered."""
        self.problem: str | None = "Redis has not answered yet"
        self._changed = asyncio.Event()
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin to read; entries go to the running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._follow, name="live reports", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End reading."""
        self._ended.set()

    @property
    def last(self) -> Id:
        """The id of the newest entry."""
        return self._ids[-1] if self._ids else self.floor or ZERO

    def list_after(self, after: Id) -> list[StreamEntry] | None:
        """The entries after an id; None if some of them are not kept."""
        if self.floor is None or after < self.floor:
            return None
        return self._entries[bisect_right(self._ids, after) :]

    async def wait(self) -> None:
        """Wait for more entries."""
        await self._changed.wait()

    def read_older(self, after: Id) -> list[StreamEntry]:
        """The next entries after an id, from Redis; blocks. A gap comes first, where entries may be gone.

        Raises:
            redis.RedisError: Redis does not answer.
        """
        with self._connection.client(patience=0) as client:
            gap = _find_gap(client, after)
            start = f"({format_id(gap.id if gap and gap.id < after else after)}"
            found: Any = client.xrange(STREAM, min=start, count=_BATCH)
        return ([gap] if gap else []) + _parse(found)

    def _follow(self) -> None:
        """Read without end. What is wrong is kept as `problem` until Redis answers again."""
        last: Id | None = None
        while not self._ended.is_set():
            try:
                with self._connection.client(patience=0) as client:
                    last = self._begin(client, last)
                    while not self._ended.is_set():
                        last = self._read(client, last)
            except redis.RedisError as error:
                self._call(self._note, f"Redis {explain_error(error)}")
                self._ended.wait(_PAUSE_SECONDS)

    def _begin(self, client: redis.Redis, last: Id | None) -> Id:
        """Where to read on: behind the newest entry at first, and then where it broke off."""
        if last is None:
            last = _read_last(client)
            self._call(self._set_floor, last)
        self._call(self._note, None)
        return self._skip_gap(client, last)

    def _skip_gap(self, client: redis.Redis, last: Id) -> Id:
        """Where to read on: behind what is gone, or at the start of a stream that has begun again."""
        if gap := _find_gap(client, last):
            self._call(self._add, [gap])
            return min(last, gap.id)
        return last

    def _read(self, client: redis.Redis, last: Id) -> Id:
        reply: Any = client.xread({STREAM: format_id(last)}, count=_BATCH, block=_BLOCK_MS)
        entries = _parse(reply[0][1]) if reply else []
        if not entries:
            return self._skip_gap(client, last)
        if len(entries) == _BATCH and (gap := _find_gap(client, last)):
            entries.insert(0, gap)  # it is far behind, and what it had not read may be gone
        self._call(self._add, entries)
        return entries[-1].id

    def _call(self, what: Any, *arguments: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(what, *arguments)

    def _set_floor(self, last: Id) -> None:
        self.floor = last

    def _note(self, problem: str | None) -> None:
        self.problem = problem

    def _add(self, entries: list[StreamEntry]) -> None:
        if entries[0].id < self.last:  # the stream has begun again
            self._entries, self._ids, self._bytes, self.floor = [], [], 0, BEFORE_ALL
            self.starts += 1
        self._entries += entries
        self._ids += [each.id for each in entries]
        self._bytes += sum(len(each.data) for each in entries)
        drop = max(0, len(self._entries) - self._most[0])
        size = self._bytes - sum(len(each.data) for each in self._entries[:drop])
        while size > self._most[1] and drop < len(self._entries) - 1:
            size -= len(self._entries[drop].data)
            drop += 1
        if drop:
            self.floor, self._bytes = self._ids[drop - 1], size
            del self._entries[:drop], self._ids[:drop]
        self._changed.set()
        self._changed = asyncio.Event()


def _read_last(client: redis.Redis) -> Id:
    found: Any = client.xinfo_stream(STREAM) if client.exists(STREAM) else None
    return ZERO if found is None else parse_id(_text(found["last-generated-id"]))


def _find_gap(client: redis.Redis, after: Id) -> StreamEntry | None:
    """What is missing between an id and the first entry that can be read; None if nothing is."""
    if not client.exists(STREAM):
        return StreamEntry(ZERO, gap=(after, ZERO)) if after > ZERO else None
    info: Any = client.xinfo_stream(STREAM)
    last = parse_id(_text(info["last-generated-id"]))
    if last < after:
        return StreamEntry(ZERO, gap=(after, ZERO))
    if last == after or info["entries-added"] == info["length"]:
        return None
    if not info["first-entry"]:
        return StreamEntry(last, gap=(after, last))
    first = parse_id(_text(info["first-entry"][0]))
    return StreamEntry(_precede(first), gap=(after, first)) if first > after else None


def _precede(found: Id) -> Id:
    """The id before an id."""
    return (found[0], found[1] - 1) if found[1] else (found[0] - 1, 2**64 - 1)


def _parse(found: Any) -> list[StreamEntry]:
    return [StreamEntry(parse_id(_text(name)), fields.get(b"data", b"{}")) for name, fields in found]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
