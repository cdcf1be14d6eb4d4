"""The files of derived tables, and what their footers say they were made of."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.tables import Table
from transforms.derived.inputs import UNTIMED
from transforms.derived.plan import Unit
from transforms.derived.snapshot import Version, read_version
from transforms.derived.stored_files import scan_files

INPUTS = b"kpiflow.inputs"
"""Key of a derived file's footer: the digest of all that it may read, and how many files its unit has."""
_UNTIMED_FOLDER = "date=unknown/"


class Made(NamedTuple):
    """What the footer of a derived file says, and the version of the file."""

    version: Version
    inputs: str


class FoundFiles(NamedTuple):
    """What the footers of a derived table's files say, by name; empty of a file that cannot be read."""

    inputs: dict[str, str]

    def holds(self, unit: Unit) -> bool:
        """Whether all files of a unit are there, and are made of what they should be."""
        files = unit.files or self._list_untimed()
        wanted = f"{unit.digest} {len(files)}"
        return bool(files) and all(self.inputs.get(file) == wanted for file in files)

    def list_surplus(self, units: Sequence[Unit]) -> list[str]:
        """The files that belong to none of the units."""
        wanted = {file for unit in units for file in unit.files}
        if any(unit.period == UNTIMED for unit in units):
            wanted.update(self._list_untimed())
        return sorted(set(self.inputs) - wanted)

    def _list_untimed(self) -> list[str]:
        return [file for file in self.inputs if _UNTIMED_FOLDER in file]


class DerivedFiles:
    """The derived files of an output; a footer is read again only if its file has changed."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._known: dict[str, Made] = {}

    def read(self, table: Table) -> FoundFiles:
        """The files of a derived table, as they are now."""
        found: dict[str, str] = {}
        for entry in scan_files(self._output / table.name):
            name = Path(entry.path).relative_to(self._output).as_posix()
            try:
                version = read_version(entry.stat())
            except FileNotFoundError:
                continue
            known = self._known.get(name)
            if known is None or known.version != version:
                known = self._known[name] = Made(version, _read_inputs(Path(entry.path)))
            found[name] = known.inputs
        return FoundFiles(found)


def _read_inputs(path: Path) -> str:
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (OSError, ValueError, pa.ArrowException):
        return ""
    return metadata.get(INPUTS, b"").decode(errors="replace")
