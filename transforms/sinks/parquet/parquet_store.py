"""A store of Parquet files, in a folder or on object storage.

`schemas.partitioning` names the files. Beside them is `_kpiflow.json`, the description of the output: the
layout's version, the schemas and the settings that decide its rows.
"""

import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.tables import FLEET, REPORTS, TABLES, TRIMMED, Table, find_table
from transforms.core.errors import Finding, Refused, Unavailable
from transforms.core.grouping import sort_by_columns
from transforms.core.record_batches import PIECE_BYTES, conform, split_by_bytes
from transforms.core.time_range import Span
from transforms.core.typed_json import parse_json
from transforms.encryption.key_list import KEYS
from transforms.encryption.key_ring import KeySource, add_source
from transforms.sinks.parquet.file_merge import write_rows
from transforms.sinks.parquet.maintenance_ledger import put_ledger
from transforms.sinks.parquet.outcome_ledger import OutcomeLedger
from transforms.sinks.parquet.output_files import OutputFile, OutputFiles
from transforms.sinks.parquet.parquet_file import describe_damage, read_file, read_span
from transforms.sinks.sink import Written
from transforms.storage.local_folder import LocalFolder, as_sink_error
from transforms.storage.storage import Conflict, Storage, Stored

DESCRIPTION = "_kpiflow.json"
ENCRYPT = "encrypt"
"""The setting in the description of an encrypted output: a kpiflow that does not know it writes nothing."""
_LAST_HOUR = datetime(9999, 12, 31, 23, tzinfo=UTC)
_IGNORED = ("_", ".", "lost+found")
"""How entries of a new place may begin that are nobody's data."""


@dataclass(frozen=True)
class ParquetStore:
    """A `Store` of files; `file_minutes` (a divisor of 60) is the span of one `<HHMM>.parquet`.

    A stream counts what it stores in a `ledger`. With `keys` its files are encrypted.
    """

    storage: Storage
    file_minutes: int = 30
    gather_seconds: int = 5
    ledger: OutcomeLedger | None = None
    keys: KeySource | None = None

    @property
    def name(self) -> str:
        return self.storage.name

    @property
    def tables(self) -> tuple[str, ...]:
        return (*TABLES, FLEET.name, TRIMMED.name)

    def write(self, table: Table, rows: Sequence[pa.RecordBatch]) -> Written:
        self.storage.verify_reach(DESCRIPTION)
        key = self.keys.find_writing_key() if self.keys else None
        return write_rows(table, self.storage, rows, self.file_minutes, self.ledger, key)

    def check(self) -> Iterator[Finding]:
        what, is_well = "an output of kpiflow, or an empty place", True
        for finding in self.storage.check():
            is_well = is_well and not finding.problem
            yield finding
        if is_well:
            try:
                self.read_description()
                yield Finding(what)
            except (Refused, Unavailable) as error:
                yield Finding.of(what, error)

    def read_description(self) -> dict[str, Any] | None:
        stored = self.storage.get(DESCRIPTION)
        if stored is not None:
            description = self._parse_description(stored)
            if is_described_encrypted(description):
                add_source(self.storage)
            return description
        foreign = sorted(entry for entry in self.storage.list_names("") if not entry.startswith(_IGNORED))
        if foreign:
            content = f"it holds {', '.join(foreign[:3])} but no {DESCRIPTION}"
            raise Refused(
                f"{self.name} is no output of kpiflow: {content}; name an empty or a new place as the output"
            )
        return None

    def prepare(self, description: dict[str, Any]) -> None:
        data = (json.dumps(description, indent=2) + "\n").encode()
        with self.storage.lock(""):
            stored = self.storage.get(DESCRIPTION)
            known = self.read_description() if stored is None else self._parse_description(stored)
            if known is None:
                try:
                    self.storage.put(DESCRIPTION, data, None)
                except Conflict:
                    known = self.read_description()
            if known is not None and known != description:
                problem = f"another job has begun {self.name} with other settings at the same time"
                raise Refused(f"{problem}; run this one again")

    def has_reports(self) -> bool:
        return next(OutputFiles.of(self.storage).iterate(REPORTS), None) is not None

    def read_reports(self, hour: int) -> Iterator[pa.RecordBatch]:
        self.storage.verify_reach(DESCRIPTION)
        if self.keys:
            add_source(self.keys.storage, self.keys.master)
        start = datetime.fromtimestamp(0, UTC) + timedelta(hours=hour)
        span = Span(start, None if start >= _LAST_HOUR else start + timedelta(hours=1))
        for file, stored in self._fetch(OutputFiles.of(self.storage).list_hour(REPORTS.name, start)):
            for rows in _read_span(file, stored.data, span):
                yield from split_by_time(conform(rows, REPORTS.schema))

    def copy_to(self, folder: Path) -> None:
        files = OutputFiles.of(self.storage)
        listed = [file for name in self.tables for file in files.list_table(find_table(name))]
        own = [OutputFile(name, self.storage) for name in (DESCRIPTION, KEYS)]
        for file, stored in self._fetch([*own, *listed]):
            with as_sink_error(folder):
                path = folder / file.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(stored.data)
        if not files.is_plain:
            put_ledger(LocalFolder(folder), files.gather_ledger(), None)

    def _parse_description(self, stored: Stored) -> dict[str, Any]:
        try:
            return parse_json(stored.data, dict[str, Any])
        except ValueError as error:
            where = self.storage.locate(DESCRIPTION)
            raise Refused(
                f"{where} is damaged ({error}); put it back from a copy, or name another output"
            ) from error

    def _fetch(self, files: Sequence[OutputFile]) -> Iterator[tuple[OutputFile, Stored]]:
        """The files in their order, except those that are gone by now. The next ones are read ahead by
        threads."""
        left = iter(files)
        with ThreadPoolExecutor(self.storage.threads) as pool:
            ahead = deque((file, pool.submit(file.get)) for file in islice(left, self.storage.threads))
            while ahead:
                file, coming = ahead.popleft()
                stored = coming.result()
                ahead.extend((each, pool.submit(each.get)) for each in islice(left, 1))
                if stored is not None:
                    yield file, stored
                elif file.is_day:
                    raise describe_damage(str(file), "is missing")


def _read_span(file: OutputFile, data: bytes, span: Span) -> list[pa.RecordBatch]:
    """The rows of a file of reports; of that of a day those within the span."""
    if not file.is_day:
        return [read_file(data, name=str(file))]
    return list(read_span(data, REPORTS.time, span, name=str(file)))


def is_described_encrypted(description: dict[str, Any]) -> bool:
    """Whether an output is encrypted, as its description says."""
    settings = description.get("settings")
    return isinstance(settings, dict) and bool(settings.get(ENCRYPT))


def split_by_time(reports: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Rows of kpi_reports as batches of at most PIECE_BYTES, ascending in time from batch to batch."""
    count = min(-(-reports.nbytes // PIECE_BYTES), reports.num_rows)
    if count <= 1:
        yield from split_by_bytes(reports, REPORTS.schema)
        return
    for rows in np.array_split(sort_by_columns(reports.select([REPORTS.time]), (REPORTS.time,)), count):
        yield from split_by_bytes(reports.take(pa.array(rows)), REPORTS.schema)
