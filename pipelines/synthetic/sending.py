"""Sends payloads to a Redis stream, many at a time, and finds which arrived if the connection breaks."""

import time
from collections import defaultdict
from contextlib import suppress
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import redis
from numpy.typing import NDArray

from pipelines.synthetic.messages import view_bytes
from transforms.redis.connection import Connection

PATIENCE_SECONDS = 600.0
"""How long Redis may be unavailable."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_AWAY = (redis.ConnectionError, redis.TimeoutError)
_LOOKED_AT = 1000


class Sent(NamedTuple):
    """The result of sending n payloads.

    `arrived` bool[n]: those that are in the stream. `unsure`: how many others may be there too. `away`:
    seconds for which Redis was unavailable. `problem`: why no more can be sent, if so.
    """

    arrived: NDArray[np.bool_]
    unsure: int = 0
    away: float = 0.0
    problem: str = ""


class Sender:
    """Adds entries whose `data` is a payload. Redis chooses their ids, which are their times.

    When the connection breaks, it is unknown which of the last payloads were added. They are searched by
    content in the stream, after the last confirmed id. The old connection is closed on the server first, so
    that nothing it still holds is added later. Entries that Redis confirmed and then lost in a crash count as
    sent.
    """

    def __init__(
        self, connection: Connection, stream: str, stop: Event, patience: float = PATIENCE_SECONDS
    ) -> None:
        """Raises:
        transforms.redis.errors.RedisUnavailable: it cannot be reached, or the key is not a stream.
        """
        connection.check([stream])
        self._stream, self._stop, self._patience = stream, stop, patience
        self._public = connection.public
        self._client: Any = connection.client(patience=0)
        name = f"${len(stream.encode())}\r\n{stream}"
        self._head = f"*5\r\n$4\r\nXADD\r\n{name}\r\n$1\r\n*\r\n$4\r\ndata\r\n$".encode()
        self._connect()
        info = self._client.xinfo_stream(stream) if self._client.exists(stream) else {}
        self._last: bytes = info.get("last-generated-id", b"0-0")

    def now_us(self) -> int:
        """Microseconds since 1970 by the clock of Redis, which stamps the entries."""
        return time.time_ns() // 1000 + self._ahead_us

    def send(self, payloads: pa.Array) -> Sent:
        """Add entries with these payloads, string[n] or binary[n], in order."""
        arrived: NDArray[np.bool_] = np.zeros(len(payloads), bool)
        payloads = payloads.cast(pa.binary())
        lengths = pc.binary_length(payloads).cast(pa.string()).cast(pa.binary())
        command = [pa.scalar(self._head), lengths, pa.scalar(b"\r\n"), payloads, pa.scalar(b"\r\n")]
        problem = ""
        try:
            self._link.send_packed_command(
                [view_bytes(pc.binary_join_element_wise(*command, pa.scalar(b"")))]
            )
            for place in range(len(payloads)):
                try:
                    self._last = self._link.read_response()
                    arrived[place] = True
                except redis.ResponseError as error:
                    problem = (
                        problem
                        or f"Redis at {self._public} does not accept entries for {self._stream}: {error}"
                    )
        except _AWAY:
            return self._recover(payloads, arrived)
        return Sent(arrived, problem=problem)

    def close(self) -> None:
        """Close the connections."""
        self._link.disconnect()
        self._client.close()

    def _connect(self) -> None:
        """Open a connection, and note its identity and how far the clock of Redis is ahead."""
        seconds, micros = self._client.time()
        self._ahead_us = seconds * 1_000_000 + micros - time.time_ns() // 1000
        self._link: Any = self._client.connection_pool.get_connection()
        self._link.send_command("CLIENT", "INFO")
        said = dict(pair.split("=", 1) for pair in self._link.read_response().decode().split() if "=" in pair)
        self._known_as = {"_id": said["id"], "addr": said["addr"]}

    def _recover(self, payloads: pa.BinaryArray, arrived: NDArray[np.bool_]) -> Sent:
        began = time.monotonic()
        self._link.disconnect()
        self._client.connection_pool.release(self._link)
        pause, problem = _FIRST_PAUSE, ""
        while not (self._stop.is_set() or problem):
            try:
                self._end_old_connection()
                self._mark_arrived(payloads, arrived)
                self._connect()
                return Sent(arrived, away=time.monotonic() - began)
            except _AWAY as error:
                if time.monotonic() - began > self._patience:
                    problem = f"Redis at {self._public} was unavailable for {self._patience:.0f} s: {error}"
            self._stop.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return Sent(arrived, int((~arrived).sum()), time.monotonic() - began, problem)

    def _end_old_connection(self) -> None:
        # Without permission the connection ends by itself, which takes long only if Redis hung.
        with suppress(redis.ResponseError):
            self._client.client_kill_filter(**self._known_as)

    def _mark_arrived(self, payloads: pa.BinaryArray, arrived: NDArray[np.bool_]) -> None:
        """Mark the payloads that are in the stream after the last id as arrived."""
        places: dict[bytes, list[int]] = defaultdict(list)
        for place in np.flatnonzero(~arrived)[::-1].tolist():
            places[payloads[place].as_buffer().to_pybytes()].append(place)
        while entries := self._client.xrange(self._stream, min=b"(" + self._last, count=_LOOKED_AT):
            for self._last, fields in entries:
                if found := places.get(fields.get(b"data")):
                    arrived[found.pop()] = True
