"""The files of derived tables: what each was made of, and how they are replaced."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from schemas.partitioning import UNTIMED_FOLDER, assign_files
from schemas.tables import Table
from transforms.core.errors import DamagedFile
from transforms.core.key_wrapping import MonthKey
from transforms.core.record_batches import concat, make_empty
from transforms.derived.bounds import UNTIMED
from transforms.derived.footers import INPUTS, join_inputs, read_inputs
from transforms.derived.plan import DeriveUnit
from transforms.derived.run import sort_file
from transforms.sinks.parquet.day_file import encode_day_file
from transforms.sinks.parquet.output_files import OutputFile, OutputFiles
from transforms.sinks.parquet.parquet_file import encode_file, read_file


class Made(NamedTuple):
    """The version of a derived file, and what it was made of by the names of the files of hours in it."""

    version: Hashable
    inputs: dict[str, str]


class FoundFiles(NamedTuple):
    """What each file of a derived table was made of, by its name; empty of a file that cannot be read.

    Of a sealed day these are the files that it would have if it was not sealed.
    """

    files: OutputFiles
    inputs: dict[str, str]

    def holds(self, unit: DeriveUnit) -> bool:
        """Whether all files of a unit are there and are made of what they should be, or have expired."""
        names = [name for name in unit.files or self._list_untimed() if self.files.find(name)]
        if unit.files and not names:
            return True
        wanted = f"{unit.digest} {len(unit.files or names)}"
        return bool(names) and all(self.inputs.get(name) == wanted for name in names)

    def list_surplus(self, units: Sequence[DeriveUnit]) -> list[str]:
        """The files that belong to none of the units."""
        wanted = {file for unit in units for file in unit.files}
        if any(unit.period == UNTIMED for unit in units):
            wanted.update(self._list_untimed())
        return sorted(set(self.inputs) - wanted)

    def _list_untimed(self) -> list[str]:
        return [file for file in self.inputs if f"{UNTIMED_FOLDER}/" in file]


class DerivedFiles:
    """The derived files of an output; a footer is read again only if its file has changed."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._known: dict[OutputFile, Made] = {}

    def read(self, table: Table) -> FoundFiles:
        """The files of a derived table, as they are now. The file of a sealed day that is missing is made of
        nothing."""
        files, found = OutputFiles.of(self._output), dict[str, str]()
        for file, version in files.list_versions(table, missing_ok=True):
            known = self._known.get(file)
            if known is None or known.version != version:
                known = self._known[file] = Made(version, read_inputs(file))
            found |= known.inputs
        return FoundFiles(files, found)


class FilePart(NamedTuple):
    """The rows of a file of hours in its order, and what they are made of; both None: it is to go."""

    rows: pa.RecordBatch | None
    inputs: str | None


def write_file(
    table: Table,
    file: OutputFile,
    parts: Mapping[str, FilePart],
    file_minutes: int,
    key: MonthKey | None = None,
) -> None:
    """Replace a derived file by its part, or parts of the file of a sealed day; others stay in it.

    With a `key` the file is encrypted.
    """
    with file.storage.lock(file.name.rpartition("/")[0]):
        if file.is_day:
            part = _replace_parts(table, file, parts, file_minutes)
        else:
            (part,) = parts.values()
        if part.rows is None or part.inputs is None:
            file.storage.remove(file.name)
            return
        stored = file.get()
        metadata = {INPUTS: part.inputs.encode()}
        is_day, rows = file.is_day, part.rows
        data = encode_day_file(table, rows, key, metadata) if is_day else encode_file(rows, metadata, key)
        file.storage.put(file.name, data, stored and stored.version)


def _replace_parts(
    table: Table, file: OutputFile, parts: Mapping[str, FilePart], file_minutes: int
) -> FilePart:
    """The rows of the file of a day with some parts replaced, and what it is made of then.

    Of a damaged file nothing is kept: all of its parts are stale.
    """
    inputs, kept = read_inputs(file), make_empty(table.schema)
    if inputs:
        try:
            kept = read_file(file.open(), table.schema.names, str(file))
        except DamagedFile:
            inputs = {}
    codes, names = assign_files(table, kept, file_minutes)
    stays = pa.array([name not in parts for name in names], pa.bool_()).take(pa.array(codes))
    rows = concat([kept.filter(stays), *(part.rows for part in parts.values() if part.rows is not None)])
    made = {**inputs, **{name: part.inputs for name, part in parts.items()}}
    text = join_inputs({name: each for name, each in made.items() if each is not None})[INPUTS].decode()
    return FilePart(rows.take(sort_file(table, rows)), text)
