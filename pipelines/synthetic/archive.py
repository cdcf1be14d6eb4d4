"""Writes generated messages as an archive, a file an hour, and `truth.json` with their expected fates."""

import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zstandard
from numpy.typing import NDArray

from pipelines.failures import RunFailed, WrongUse
from pipelines.synthetic.columns import HOUR, Columns
from pipelines.synthetic.dirt import DIRT
from pipelines.synthetic.fleet import Fleet
from pipelines.synthetic.injected_outliers import Injected, inject_outliers
from pipelines.synthetic.json_columns import format_times
from pipelines.synthetic.messages import (
    Fates,
    Messages,
    Mix,
    deal_fates,
    draw_arrivals,
    format_block,
    format_lines,
    view_bytes,
)
from pipelines.synthetic.protobuf_payloads import encode_payloads, fit_truth, format_encoded
from pipelines.synthetic.reports import KpiTestGenerator, Scenario, list_task_ids
from schemas.kinds import REPORT_KIND
from transforms.core.message_encodings import JSON

Compression = Literal["none", "gz", "zst"]
TRUTH = "truth.json"
_OURS = re.compile(r"\d{4}-\d\d-\d\dT\d\d\.ndjson(\.gz|\.zst)?")
_BLOCK = 100_000


@dataclass(frozen=True)
class Form:
    """How an archive looks: bare reports or envelopes, the compression of its files, and the encoding of the
    payloads."""

    bare: bool = False
    compress: Compression = "none"
    encoding: str = JSON

    def fit_truth(self, truth: dict[str, Any]) -> dict[str, Any]:
        """The content of `truth.json`, which is that of JSON, for this encoding."""
        return truth if self.encoding == JSON else fit_truth(truth)

    @property
    def suffix(self) -> str:
        """What follows the hour in a file's name."""
        return ".ndjson" if self.compress == "none" else f".ndjson.{self.compress}"


@dataclass(frozen=True)
class Archive:
    """Everything that will be written.

    `received` int64[m]: microseconds since 1970, ascending. `format_lines(block)` gives the lines of
    consecutive messages. `truth` is the content of `truth.json`.
    """

    received: NDArray[np.int64]
    format_lines: Callable[[slice], memoryview]
    form: Form
    truth: dict[str, Any]

    def hours(self) -> Iterator[tuple[str, range]]:
        """The name of each file and its messages."""
        hours, first = np.unique(self.received // HOUR, return_index=True)
        names = format_times(hours * HOUR).to_pylist()
        for name, start, end in zip(names, first.tolist(), [*first[1:].tolist(), len(self.received)]):
            yield name[:13] + self.form.suffix, range(start, end)


def prepare_archive(generator: KpiTestGenerator, scenario: Scenario, mix: Mix, form: Form) -> Archive:
    """Draw every message of an archive.

    Raises:
        ValueError: the scenario is not possible with this number of reports.
    """
    fates = deal_fates(mix, generator.seed, form.bare)
    fleet, moments = generator.fleet(scenario), generator.moments(mix.rows, scenario)
    feeding = fates.good & ~fates.late
    asked = mix.count(mix.outliers)
    injected = inject_outliers(
        generator.columns(fleet, moments), moments, fleet, feeding, asked, generator.seed
    )
    messages = draw_arrivals(moments.recorded, fates, mix, generator.seed)
    truth = describe_fates(messages, fates, injected, asked, fleet) | {
        "settings": list_settings(generator, scenario, mix, form)
    }

    def format_block_lines(block: slice) -> memoryview:
        if form.encoding == JSON:
            return format_lines(messages, block, injected.columns, fleet, form.bare)
        texts = format_block(messages, block, injected.columns, fleet, bare=True)
        return view_bytes(format_encoded(messages, block, encode_payloads(REPORT_KIND.schema, texts)))

    truth = {"seed": generator.seed, "scenario": scenario} | truth
    return Archive(messages.received, format_block_lines, form, form.fit_truth(truth))


def describe_fates(
    messages: Messages, fates: Fates, injected: Injected, asked: int, fleet: Fleet
) -> dict[str, Any]:
    """What `truth.json` says about messages, their reports, and the outliers among these, of `asked` ones."""
    return _count_fates(messages, fates, injected.columns) | {
        "outliers_asked": asked,
        "outliers": injected.count,
        "outlier_task_ids": list_task_ids(injected),
        "patterns": {}
        if set(fleet.patterns) == {"steady"}
        else dict(zip(fleet.ids.to_pylist(), fleet.patterns)),
    }


def _count_fates(messages: Messages, fates: Fates, columns: Columns) -> dict[str, Any]:
    """The number of messages of each fate. `agents` are those with a valid report."""
    kinds = messages.by_kind()
    reasons: Counter[str] = Counter()
    for name, count in kinds.items():
        reasons[DIRT[name].reason] += count
    reports = int(fates.good.sum())
    quarantined = sum(kinds.values())
    return {
        "messages": len(messages.kind),
        "reports": reports,
        "duplicates": len(messages.kind) - reports - quarantined,
        "quarantined": quarantined,
        "quarantined_by_reason": dict(reasons),
        "quarantined_by_kind": kinds,
        "late": int(fates.late.sum()),
        "agents": len(np.unique(columns.agent[fates.good])),
    }


def list_settings(generator: KpiTestGenerator, scenario: Scenario, mix: Mix, form: Form) -> dict[str, Any]:
    """All options of the generation, as JSON types."""
    span = generator.compute_span(mix.rows, scenario)
    drawn = asdict(generator) | {"start": generator.start.isoformat(), "span_seconds": span.total_seconds()}
    del drawn["span"], drawn["seed"]
    return asdict(mix) | drawn | {"bare": form.bare, "compress": form.compress}


def write_archive(archive: Archive, folder: Path, on_messages: Callable[[int], None]) -> int:
    """Write the files, then `truth.json`. Returns the bytes on disk.

    `on_messages` gets the number of messages of each step. An earlier generation in the folder is removed
    first. Until all files are written, `truth.json` only says that the archive is not complete.

    Raises:
        WrongUse: the folder holds other files than those of a generation, or is not a folder.
        RunFailed: the disk is full, or the folder cannot be written.
    """
    with _translate_disk_errors(folder):
        _claim(folder)
        files = {}
        for name, span in archive.hours():
            with _open_file(folder / name, archive.form.compress) as put:
                for first in range(span.start, span.stop, _BLOCK):
                    block = slice(first, min(first + _BLOCK, span.stop))
                    put(archive.format_lines(block))
                    on_messages(block.stop - block.start)
            files[name] = len(span)
        write_truth(folder / TRUTH, archive.truth | {"complete": True, "files": files})
        return sum((folder / name).stat().st_size for name in files)


def _claim(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise WrongUse(f"{folder} is a file", "give --output a folder")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / TRUTH).is_file():
        raise WrongUse(
            f"{folder} is not empty and has no {TRUTH}, so its files are not from an earlier generation",
            "give --output a new or an empty folder",
        )
    write_truth(folder / TRUTH, {"complete": False})
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name):
            path.unlink()


def write_truth(path: Path, truth: dict[str, Any]) -> None:
    """Replace a truth file atomically."""
    fresh = path.with_name(f".{path.name}.tmp")
    fresh.write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    os.replace(fresh, path)


@contextmanager
def _open_file(path: Path, compress: Compression) -> Iterator[Callable[[memoryview], object]]:
    """Yields what writes to the file. The bytes depend only on the data, not on time or name."""
    with path.open("wb") as raw:
        if compress == "gz":
            with gzip.GzipFile(filename="", mode="wb", compresslevel=3, fileobj=raw, mtime=0) as zipped:
                yield zipped.write
        elif compress == "zst":
            with zstandard.ZstdCompressor(level=3).stream_writer(raw) as packed:
                yield packed.write
        else:
            yield raw.write


@contextmanager
def _translate_disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"cannot write {folder}: {error}", "make room or give --output a folder you can write to"
        ) from error
