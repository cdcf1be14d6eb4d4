"""Writes generated messages as an archive, a file an hour, and beside it the truth about every one of them."""

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

from pipelines.failures import RunFailed, WrongUse
from pipelines.synthetic.columns import HOUR, Columns
from pipelines.synthetic.dirt import DIRT
from pipelines.synthetic.fleet import Fleet
from pipelines.synthetic.injected_outliers import Injected, inject
from pipelines.synthetic.json_columns import time_texts
from pipelines.synthetic.messages import Fates, Messages, Mix, deal, lines, send
from pipelines.synthetic.reports import KpiTestGenerator, Scenario, task_ids

Compression = Literal["none", "gz", "zst"]
TRUTH = "truth.json"
_OURS = re.compile(r"\d{4}-\d\d-\d\dT\d\d\.ndjson(\.gz|\.zst)?")
_BLOCK = 100_000


@dataclass(frozen=True)
class Form:
    """How an archive looks: bare reports or envelopes, and the compression of its files."""

    bare: bool = False
    compress: Compression = "none"

    @property
    def suffix(self) -> str:
        """What follows the hour in a file's name."""
        return ".ndjson" if self.compress == "none" else f".ndjson.{self.compress}"


@dataclass(frozen=True)
class Archive:
    """Everything that is going to be written; `truth` is what `truth.json` says."""

    messages: Messages
    columns: Columns
    fleet: Fleet
    form: Form
    truth: dict[str, Any]

    def hours(self) -> Iterator[tuple[str, range]]:
        """The name of each file and its messages."""
        hours, first = np.unique(self.messages.received // HOUR, return_index=True)
        names = time_texts(hours * HOUR).to_pylist()
        for name, start, end in zip(
            names, first.tolist(), [*first[1:].tolist(), len(self.messages.received)]
        ):
            yield name[:13] + self.form.suffix, range(start, end)


def prepare(generator: KpiTestGenerator, scenario: Scenario, mix: Mix, form: Form) -> Archive:
    """Draw every message of an archive.

    Raises:
        ValueError: the scenario cannot be made of so many reports.
    """
    fates = deal(mix, generator.seed, form.bare)
    fleet, moments = generator.fleet(scenario), generator.moments(mix.rows, scenario)
    feeding = fates.good & ~fates.late
    asked = mix.count(mix.outliers)
    injected = inject(generator.columns(fleet, moments), moments, fleet, feeding, asked, generator.seed)
    messages = send(moments.recorded, fates, mix, generator.seed)
    truth = account(messages, fates, injected, asked, fleet) | {
        "settings": _settings(generator, scenario, mix, form)
    }
    return Archive(
        messages, injected.columns, fleet, form, {"seed": generator.seed, "scenario": scenario} | truth
    )


def account(messages: Messages, fates: Fates, injected: Injected, asked: int, fleet: Fleet) -> dict[str, Any]:
    """The truth about some messages, the reports that they bring and the outliers among these, of `asked` ones."""
    return _fates_truth(messages, fates, injected.columns) | {
        "outliers_asked": asked,
        "outliers": injected.count,
        "outlier_task_ids": task_ids(injected),
        "patterns": {}
        if set(fleet.patterns) == {"steady"}
        else dict(zip(fleet.ids.to_pylist(), fleet.patterns)),
    }


def _fates_truth(messages: Messages, fates: Fates, columns: Columns) -> dict[str, Any]:
    """How many messages end how; `agents` are those that have a good report."""
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


def _settings(generator: KpiTestGenerator, scenario: Scenario, mix: Mix, form: Form) -> dict[str, Any]:
    """Everything that was asked for, as JSON types."""
    span = generator.span_of(mix.rows, scenario)
    drawn = asdict(generator) | {"start": generator.start.isoformat(), "span_seconds": span.total_seconds()}
    del drawn["span"], drawn["seed"]
    return asdict(mix) | drawn | asdict(form)


def write(archive: Archive, folder: Path, on_messages: Callable[[int], None]) -> int:
    """Write the files, then the truth; the bytes on disk. `on_messages` is told how many messages each step wrote.

    An earlier generation in the folder is removed first. Until all is written, `truth.json` says only that it is not complete.

    Raises:
        WrongUse: the folder holds something else than a generation, or is no folder.
        RunFailed: the disk is full, or the folder cannot be written.
    """
    with _disk_failures(folder):
        _claim(folder)
        files = {}
        for name, span in archive.hours():
            with _opened(folder / name, archive.form.compress) as put:
                for first in range(span.start, span.stop, _BLOCK):
                    block = slice(first, min(first + _BLOCK, span.stop))
                    put(lines(archive.messages, block, archive.columns, archive.fleet, archive.form.bare))
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
            f"{folder} is not empty and holds no {TRUTH}, so nothing there is from an earlier generation",
            "give --output a new or an empty folder",
        )
    write_truth(folder / TRUTH, {"complete": False})
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name):
            path.unlink()


def write_truth(path: Path, truth: dict[str, Any]) -> None:
    """Replace a truth file as a whole, so that none is ever half written."""
    fresh = path.with_name(f".{path.name}.tmp")
    fresh.write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    os.replace(fresh, path)


@contextmanager
def _opened(path: Path, compress: Compression) -> Iterator[Callable[[memoryview], object]]:
    """Writes to the file, whose bytes depend on what is written alone."""
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
def _disk_failures(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"cannot write {folder}: {error}", "make room or give --output a folder you can write to"
        ) from error
