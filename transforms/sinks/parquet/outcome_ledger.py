"""How many messages of each outcome a stream has stored, exactly, whatever is written again.

Rows are written again after every restart, and a replaced file does not say what was new in it. So the
writer of a file counts how much it grows, and a ledger keeps the sums: one JSON file for each table.

    begin    the growth of each file is noted, with the digest of its new bytes, and synced to disk
    (put)    the files are replaced
    commit   the growth is added to the totals

If the process dies before the put, the file has other bytes than the note says, and the growth is dropped:
the same rows come again, and are counted then. If it dies after the put, the file has these bytes, and the
growth is added. The next writer of the file decides that, before it changes the file, and so does each reader
of the totals.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import MESSAGE, QUARANTINED, TRIMMED, Table
from transforms.core.durable_files import lock_folder, replace_file
from transforms.core.status_files import read_kept
from transforms.storage.local_folder import as_sink_error

Data = bytes | bytearray


class FileChange(NamedTuple):
    """A file that is about to be merged: its name, its stored bytes (None: it is new), and if it is to be
    replaced, the new bytes with what grows."""

    name: str
    stored: Data | None
    data: Data
    growth: Mapping[str, int]


@dataclass(frozen=True)
class OutcomeLedger:
    """The ledger in a folder. It pickles; several processes may write to it."""

    folder: Path

    def begin(self, table: str, changes: Iterable[FileChange]) -> None:
        """Settle what an earlier writer left open about these files, and note how they are to grow.

        Hold the lock of the files' folder until `commit`.
        """
        changes = list(changes)
        with self._open(table) as ledger:
            for each in changes:
                ledger.settle(each.name, each.stored)
            ledger.open |= {each.name: (_digest(each.data), each.growth) for each in changes if each.data}

    def commit(self, table: str, is_put: Mapping[str, bool]) -> None:
        """Add the growth of the files that were replaced, and drop that of the others."""
        with self._open(table) as ledger:
            for name, done in is_put.items():
                _, growth = ledger.open.pop(name, ("", {}))
                ledger.totals.update(growth if done else {})

    @contextmanager
    def _open(self, table: str) -> Iterator["_Ledger"]:
        """A table's ledger under its lock; if it has changed, it is safe on disk afterwards."""
        path = self.folder / f"{table}.json"
        with as_sink_error(self.folder), lock_folder(self.folder):
            ledger = _read(path)
            before = ledger.as_json()
            yield ledger
            if (content := ledger.as_json()) != before:
                replace_file(path, json.dumps(content).encode())


class _LedgerFile(TypedDict):
    totals: dict[str, int]
    open: dict[str, tuple[str, dict[str, int]]]


@dataclass
class _Ledger:
    """The totals of a table by reason, and for each file with an open note its new digest and its growth."""

    totals: Counter[str]
    open: dict[str, tuple[str, Mapping[str, int]]]

    def settle(self, name: str, stored: Data | None) -> None:
        """Decide about an open note of a file by its stored bytes."""
        if name in self.open:
            digest, growth = self.open.pop(name)
            self.totals.update(growth if stored is not None and _digest(stored) == digest else {})

    def as_json(self) -> dict[str, Any]:
        """The content of its file."""
        return {"totals": dict(self.totals), "open": {name: [*note] for name, note in self.open.items()}}


def read_outcomes(folder: Path, read: Callable[[str], Data | None]) -> dict[str, Counter[str]]:
    """The totals of each table's ledger by reason.

    `read`: the stored bytes of a file, to decide about notes that are still open; these are few.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        ledger = _read(path)
        for name in list(ledger.open):
            ledger.settle(name, read(name))
        found[path.stem] = ledger.totals
    return found


def count_outcomes(table: Table, rows: pa.RecordBatch) -> Counter[str]:
    """What rows of a file count for, by reason; tables without reasons have one, an empty text.

    A row of a table of messages counts once, a row of TRIMMED as many entries as it says. Rows of other
    tables count for nothing.
    """
    if table.name == TRIMMED.name:
        return Counter({"": int(pc.sum(rows["entries"]).as_py() or 0)})
    if table.name == QUARANTINED.name:
        counted = pc.value_counts(rows["reason"]).to_pylist()
        return Counter({each["values"] or "": each["counts"] for each in counted})
    return Counter({"": rows.num_rows})


def is_counted(table: Table) -> bool:
    """Whether rows of a table are messages, or say how many were lost."""
    return all(name in table.schema.names for name, _ in MESSAGE)


def measure_growth(table: Table, before: pa.RecordBatch, after: pa.RecordBatch) -> dict[str, int]:
    """By how much a file grows that held some rows and holds others now, by reason; without zeros."""
    old, new = count_outcomes(table, before), count_outcomes(table, after)
    return {reason: new[reason] - old[reason] for reason in new | old if new[reason] != old[reason]}


def _read(path: Path) -> _Ledger:
    """The ledger in a file; nothing is in one that is not there, or is damaged, which is reported."""
    given = read_kept(path, _LedgerFile) or _LedgerFile(totals={}, open={})
    return _Ledger(Counter(given["totals"]), dict(given["open"]))


def _digest(data: Data) -> str:
    return blake2b(data, digest_size=16).hexdigest()
