"""The relay's cursor: a hash in Redis beside the stream, moved by the same script that adds the reports.

A script compares the cursor's token with the one that is expected, adds the reports, and sets the next token,
all at one moment. So a command that the client repeats after a lost reply adds nothing again, a relay that
was replaced by another one adds nothing any more, and after a crash or a failover the cursor is always as
old as the stream. The totals are in the same hash: they count exactly what is in the stream.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transforms.redis.connection import Connection

TOTALS = ("exported", "live", "healed", "archived", "malformed", "lost", "connections")
"""What is counted, over all runs: reports that were taken from the export and from the socket; those of the
export that the socket had missed; those of both that were archived, because they were too old for the stream;
those of the export that are no JSON; how often reports may be lost; how often the socket was opened."""
DIGEST = 8
"""Bytes of a digest in the cursor."""
_APPLIED, _REPEATED = 1, 2

# KEYS: cursor, stream. ARGV: expected token, next token, number of fields, their names and values, number of
# totals, their names and increments, reports.
_MOVE = """
local now = redis.call('HGET', KEYS[1], 'token') or ''
if now == ARGV[2] then return 2 end
if now ~= ARGV[1] then return 0 end
local at = 4
local ends = at + 2 * tonumber(ARGV[3])
local fields = {}
while at < ends do fields[#fields + 1] = ARGV[at]; at = at + 1 end
local totals = {}
ends = at + 1 + 2 * tonumber(ARGV[at])
at = at + 1
while at < ends do totals[#totals + 1] = ARGV[at]; at = at + 1 end
for each = at, #ARGV do redis.call('XADD', KEYS[2], '*', 'data', ARGV[each]) end
redis.call('HSET', KEYS[1], 'token', ARGV[2], unpack(fields))
for each = 1, #totals, 2 do redis.call('HINCRBY', KEYS[1], totals[each], totals[each + 1]) end
return 1
"""


class Superseded(Exception):  # noqa: N818 (a state, not only an error)
    """Another relay has moved the cursor, or Redis went back to an older state: begin again from what it
    says."""


@dataclass
class Cursor:
    """How far the relay is: the place in the export, the digests of the reports relayed from it last, and
    totals over all runs."""

    token: str = ""
    place: int = 0
    memory: list[bytes] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, stored: Mapping[bytes, bytes]) -> "Cursor":
        """The cursor that a hash is; the first one if it is empty."""
        digests = stored.get(b"memory", b"")
        memory = [digests[at : at + DIGEST] for at in range(0, len(digests), DIGEST)]
        totals = {name: int(stored.get(name.encode(), 0)) for name in TOTALS}
        return cls(stored.get(b"token", b"").decode(), int(stored.get(b"place", 0)), memory, totals)


def name_cursor(stream: str) -> str:
    """The key of a stream's cursor, in the hash slot of the stream."""
    start = stream.find("{")
    has_tag = start >= 0 and stream.find("}", start) > start + 1
    return f"kpiflow:{stream}:relay" if has_tag else f"kpiflow:{{{stream}}}:relay"


class RelayedStream:
    """The stream that reports are added to, and its cursor, for one relay that is active.

    One call at a time: the caller sees to that. What raised RedisUnavailable may have been done; the same
    call again does it once.
    """

    def __init__(self, connection: Connection, stream: str, patience: float = 60.0) -> None:
        self.connection, self.stream, self.key = connection, stream, name_cursor(stream)
        self.cursor = Cursor()
        self._client = connection.client(patience)
        self._owner, self._moves = uuid.uuid4().hex, 0

    def read_clock(self) -> float:
        """The time of Redis, which stamps the entries, in seconds since 1970.

        Raises:
            RedisUnavailable: Redis refuses, or cannot be reached.
        """
        with self.connection.explain_errors():
            seconds, micros = self._client.time()
        return float(seconds + micros / 1e6)

    def claim(self) -> Cursor:
        """Read the cursor, and make its token ours: nobody else can move it any more.

        Raises:
            RedisUnavailable: Redis refuses, or cannot be reached.
            Superseded: another relay claimed it at the same time.
        """
        with self.connection.explain_errors():
            stored: Any = self._client.hgetall(self.key)
        self.cursor = Cursor.parse(stored)
        self.move()
        return self.cursor

    def move(
        self,
        reports: Sequence[bytes] = (),
        place: int | None = None,
        memory: Sequence[bytes] = (),
        totals: Mapping[str, int] | None = None,
    ) -> None:
        """Add reports to the stream, add to totals and, with a `place`, move the cursor in the export.

        Raises:
            RedisUnavailable: Redis refuses, or cannot be reached.
            Superseded: the cursor is not as this relay left it.
        """
        token = f"{self._owner}:{self._moves + 1}"
        fields: list[Any] = [] if place is None else ["place", place, "memory", b"".join(memory)]
        counts = [each for pair in (totals or {}).items() if pair[1] for each in pair]
        words: list[Any] = [len(fields) // 2, *fields, len(counts) // 2, *counts]
        with self.connection.explain_errors():
            done = self._client.eval(
                _MOVE, 2, self.key, self.stream, self.cursor.token, token, *words, *reports
            )
        if done not in (_APPLIED, _REPEATED):
            raise Superseded(f"another relay has moved the cursor of {self.stream}")
        self._moves += 1
        self.cursor.token = token
        for name, more in (totals or {}).items():
            self.cursor.totals[name] = self.cursor.totals.get(name, 0) + more

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
