"""The audit of a service: a line before an answer begins, another when it has ended.

One thread writes. All lines that wait when it is free are written with one sync, so the number of requests
is not bounded by the number of syncs a second.
"""

import asyncio
import json
import queue
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipelines.service.access.subject import Subject
from pipelines.service.audit.writer import AuditUnavailable, ChainWriter
from transforms.core.events import AUDIT_UNAVAILABLE, log_event

LONGEST_OBJECT = 4000
"""Characters of an object as JSON; of a longer one its beginning and hash are kept."""
MOST_KEPT = 10_000
"""Ends of answers that are kept while they cannot be written."""
_LARGEST_BATCH = 1000


@dataclass(frozen=True)
class _Item:
    fields: Mapping[str, Any]
    written: "Future[int] | None" = None


@dataclass(frozen=True)
class BegunAnswer:
    """An answer that has begun: `seq` is the number of its line."""

    log: "AuditLog"
    seq: int

    def note(self, rows: int) -> None:
        """Say that the answer goes on, with the rows so far; a stream does every minute."""
        self.log.add({"type": "during", "of": self.seq, "rows": rows})

    def end(self, rows: int, outcome: str) -> None:
        """Say that the answer has ended, with the rows that were sent."""
        self.log.add({"type": "end", "of": self.seq, "rows": rows, "outcome": outcome[:500]})


class AuditLog:
    """The audit that this process writes: the chain `writer` below `folder`.

    `problem`: why the last write failed, None if it did not. `lines`: how many were written.
    """

    def __init__(self, folder: Path, writer: str) -> None:
        self._chain = ChainWriter(folder, writer)
        self._items: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._kept: list[_Item] = []
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self.problem: str | None = None
        self.lines = self.lost = 0

    def open(self) -> None:
        """Begin to write.

        Raises:
            AuditUnavailable: the chain cannot be written, or another process writes it.
        """
        self._chain.open()
        self._thread.start()

    async def begin(self, subject: Subject, action: str, object: Any) -> BegunAnswer:
        """Write that an answer begins; it is safe on disk when this returns.

        Raises:
            AuditUnavailable: it cannot be written; answer 503.
        """
        item = self._put({"type": "begin", **_describe(subject, action, object)})
        try:
            return BegunAnswer(self, await _wait(item))
        except asyncio.CancelledError:
            item.add_done_callback(self._end_cancelled)
            raise

    async def refuse(self, subject: Subject, action: str, object: Any, status: int, reason: str) -> None:
        """Write that a request was refused.

        Raises:
            AuditUnavailable: it cannot be written.
        """
        said = {"status": status, "reason": reason[:500]}
        await _wait(self._put({"type": "refused", **_describe(subject, action, object), **said}))

    def add(self, fields: Mapping[str, Any]) -> None:
        """Write a line later; it is kept until it can be written."""
        self._items.put(_Item(fields))

    def close(self) -> None:
        """Write what waits and a line of the stop, and give the chain back."""
        if self._thread.is_alive():
            self.add({"type": "stop"})
            self._items.put(None)
            self._thread.join()
        self._chain.close()

    def _put(self, fields: Mapping[str, Any]) -> "Future[int]":
        written: Future[int] = Future()
        self._items.put(_Item(fields, written))
        return written

    def _end_cancelled(self, begun: "Future[int]") -> None:
        if begun.exception() is None:
            BegunAnswer(self, begun.result()).end(0, "the client left")

    def _run(self) -> None:
        while (item := self._items.get()) is not None:
            batch, is_last = [item], False
            while len(batch) < _LARGEST_BATCH and not is_last:
                try:
                    following = self._items.get_nowait()
                except queue.Empty:
                    break
                is_last = following is None
                batch += [following] if following is not None else []
            self._commit(batch)
            if is_last:
                return

    def _commit(self, batch: list[_Item]) -> None:
        waiting = self._kept + batch
        try:
            first = self._chain.write([each.fields for each in waiting])
        except AuditUnavailable as error:
            self._fail(waiting, error)
            return
        self._kept, self.problem = [], None
        self.lines += len(waiting)
        for number, each in enumerate(waiting, first):
            if each.written is not None:
                each.written.set_result(number)

    def _fail(self, waiting: list[_Item], error: AuditUnavailable) -> None:
        kept = [each for each in waiting if each.written is None]
        self._kept = kept[:MOST_KEPT]
        self.lost += len(kept) - len(self._kept)
        if self.problem is None:
            log_event(AUDIT_UNAVAILABLE, error=str(error))
        self.problem = str(error)
        for each in waiting:
            if each.written is not None:
                each.written.set_exception(error)


async def _wait(written: "Future[int]") -> int:
    return await asyncio.shield(asyncio.wrap_future(written))


def _describe(subject: Subject, action: str, object: Any) -> dict[str, Any]:
    text = json.dumps(object, default=str)
    if len(text) > LONGEST_OBJECT:
        digest = sha256(text.encode()).hexdigest()
        object = {"begins": text[: LONGEST_OBJECT // 4], "characters": len(text), "sha256": digest}
    known = {"subject": subject.name, "role": subject.role, "certificate": subject.certificate}
    return {**known, "action": action, "object": object}
