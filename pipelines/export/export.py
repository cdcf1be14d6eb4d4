"""Writing an export: one Parquet file, what its columns mean beside it, and the encoding, if asked for.

Files are written under other names first and then renamed, the Parquet file last. So a run that dies leaves
no file that is not complete, and the same command can be run again.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.export.dictionary import describe
from pipelines.export.feature_rows import SCHEMA, iterate_hours
from transforms.core.durable_files import TEMPORARY, explain_full, lock_folder, replace_file, sync_path
from transforms.core.time_range import Span

if TYPE_CHECKING:
    from pipelines.export.encoding import Encoder


@dataclass(frozen=True)
class ExportFiles:
    """The files of an export: `data`, and those beside it."""

    data: Path

    @property
    def dictionary(self) -> Path:
        """What each column means, as JSON."""
        return self.data.with_name(f"{self.data.name}.columns.json")

    @property
    def encoder(self) -> Path:
        """The encoding, as skops keeps it."""
        return self.data.with_name(f"{self.data.name}.skops")


def export(
    output: Path,
    files: ExportFiles,
    span: Span,
    context: timedelta,
    on_hour: Callable[[], object],
    encode: bool = False,
    encoder: "Encoder | None" = None,
) -> int:
    """Write the features of the reports recorded within the span; returns how many rows there are.

    `encode` makes an encoding of the categories that are found, and keeps it; `encoder` is one to use.
    `on_hour` is called when an hour is read.

    Raises:
        OutputFull: no space is left.
        Others: as `iterate_hours` does.
    """
    rows = _read_rows(output, span, context, on_hour)
    with lock_folder(files.data.parent):  # what a killed run left is removed
        if not encode:
            return _write(files, rows, encoder)
        with _open_temporary(files.data, "plain") as plain:
            encoder = _write_plain(plain, rows)
            with pq.ParquetFile(plain) as stored:
                return _write(files, stored.iter_batches(), encoder, keep=True)


def _read_rows(
    output: Path, span: Span, context: timedelta, on_hour: Callable[[], object]
) -> Iterator[pa.RecordBatch]:
    for rows in iterate_hours(output, span, context):
        yield rows
        on_hour()


def _write_plain(path: Path, batches: Iterator[pa.RecordBatch]) -> "Encoder":
    """Write the rows as they are; returns the encoding of their categories."""
    from pipelines.export.encoding import Categories, fit_encoder

    categories = Categories()
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for rows in batches:
            categories.add(rows)
            writer.write_batch(rows)
    return fit_encoder(categories.sort())


def _write(
    files: ExportFiles, batches: Iterator[pa.RecordBatch], encoder: "Encoder | None", keep: bool = False
) -> int:
    """Write the files; returns how many rows there are. `keep`: the encoder is new, and is written too."""
    schema = pa.schema([*SCHEMA, *(encoder.make_fields() if encoder else [])])
    count = 0
    with _open_temporary(files.data, "encoded") as path:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for rows in batches:
                encoded = encoder.encode(rows) if encoder else []
                writer.write_batch(pa.RecordBatch.from_arrays([*rows.columns, *encoded], schema=schema))
                count += rows.num_rows
        sync_path(path)
        # Only now: until all rows are written, the files of the run before belong together.
        if encoder and keep:
            encoder.save(files.encoder)
        text = json.dumps(describe(schema), indent=1, ensure_ascii=False) + "\n"
        replace_file(files.dictionary, text.encode())
        os.replace(path, files.data)
        sync_path(files.data.parent)
    return count


@contextmanager
def _open_temporary(path: Path, purpose: str) -> Iterator[Path]:
    """Yields another name beside `path`; what has it at the end of the block is removed."""
    temporary = path.with_name(f".{path.name}.{purpose}{TEMPORARY}")
    try:
        with explain_full(path.parent):
            yield temporary
    finally:
        temporary.unlink(missing_ok=True)
