"""Reads the quality of the data of an output: the four scores by source and hour, and the broken rules.

Everything comes from the derived tables data_quality, inconsistencies and resolutions; `docs/columns.md`
defines the scores.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.verify.table_scan import list_files, load
from schemas.tables import Table
from transforms.core.record_batches import make_empty
from transforms.core.time_range import Span, keep_within
from transforms.derived.data_quality import COUNTS, SCORES, count_score
from transforms.derived.data_quality import TABLE as QUALITY
from transforms.derived.inconsistencies import TABLE as INCONSISTENCIES
from transforms.derived.resolutions import TABLE as RESOLUTIONS
from transforms.sinks.parquet.output_files import OutputFile

_START = QUALITY.table.time
_THRESHOLDS = {name: f"{name}_threshold" for name in SCORES}
_RULE = ("rule", "severity")


class Score(NamedTuple):
    """A score of some messages: how many of how many; its threshold."""

    name: str
    numerator: int
    denominator: int
    threshold: float

    @property
    def value(self) -> float | None:
        """The score, in [0, 1]; None where nothing can be said."""
        return self.numerator / self.denominator if self.denominator else None

    @property
    def is_met(self) -> bool:
        """Whether the score is not below its threshold. A score that is None is met."""
        return self.value is None or self.value >= self.threshold

    @property
    def lacking(self) -> int:
        """How many more messages had to be good for the threshold to be met; 0 where it is met."""
        if self.is_met:
            return 0
        return max(1, math.ceil(round(self.threshold * self.denominator - self.numerator, 9)))


@dataclass(frozen=True)
class SourceQuality:
    """Messages of a source that were received in a window, and their scores.

    `start` is that of the hour; None for all windows, or for messages that were received at an unknown time.
    """

    source: str
    start: datetime | None
    received: int
    scores: tuple[Score, ...]

    @property
    def missed(self) -> tuple[Score, ...]:
        """The scores below their thresholds."""
        return tuple(score for score in self.scores if not score.is_met)

    @property
    def lacking(self) -> int:
        """The largest `lacking` of its scores."""
        return max(score.lacking for score in self.scores)


@dataclass(frozen=True)
class BrokenRule:
    """A rule of the table inconsistencies: how many reports broke it, and how many of them are resolved."""

    rule: str
    severity: str
    broken: int
    resolved: int

    @property
    def open(self) -> int:
        """Reports whose inconsistency no later record has resolved."""
        return self.broken - self.resolved


@dataclass(frozen=True)
class Quality:
    """The quality of an output, or of a span of it. `sources` are over all windows."""

    sources: tuple[SourceQuality, ...]
    hours: tuple[SourceQuality, ...]
    rules: tuple[BrokenRule, ...]

    @property
    def missed(self) -> tuple[SourceQuality, ...]:
        """The sources of which a score is below its threshold."""
        return tuple(each for each in self.sources if each.missed)

    @property
    def open_rules(self) -> tuple[BrokenRule, ...]:
        """The rules with an open inconsistency."""
        return tuple(each for each in self.rules if each.open)


def read_quality(output: Path, span: Span) -> Quality | None:
    """The quality of messages that were received, and of reports that were recorded, within the span.

    Bounds within a minute take the minutes that begin in the span. Messages that were received at an unknown
    time count if the span has no bounds. None if data_quality has no rows at all.

    Raises:
        transforms.core.errors.DamagedFile: a file cannot be read.
    """
    files = list_files(output, QUALITY.table)
    if not files:
        return None
    rows = _read(files, QUALITY.table, QUALITY.table.schema.names, span, _START)
    rows = rows.filter(pc.field("granularity") == ("1h" if span.everything else "1m"))
    hours = pc.if_else(rows[_START].is_null(), None, pc.floor_temporal(rows[_START], unit="hour"))
    rows = rows.append_column("hour", hours.cast(rows[_START].type))
    return Quality(
        tuple(_sum_windows(rows, ["source"])),
        tuple(_sum_windows(rows, ["source", "hour"])),
        read_broken_rules(output, span),
    )


def read_broken_rules(output: Path, span: Span) -> tuple[BrokenRule, ...]:
    """The rules that reports recorded within the span broke: most open ones first.

    Raises: as `read_quality` does.
    """
    broken, resolved = (_count(output, each.table, span) for each in (INCONSISTENCIES, RESOLUTIONS))
    rules = [BrokenRule(*rule, count, resolved.get(rule, 0)) for rule, count in broken.items()]
    return tuple(sorted(rules, key=lambda each: (-each.open, each.rule)))


def _count(output: Path, table: Table, span: Span) -> dict[tuple[str, str], int]:
    """How many rows each rule has, with its severity."""
    rows = _read(list_files(output, table), table, (*_RULE, "recorded_at"), span, "recorded_at")
    counted = rows.group_by(_RULE).aggregate([([], "count_all")])
    return {(row["rule"], row["severity"]): row["count_all"] for row in counted.to_pylist()}


def _read(files: Sequence[OutputFile], table: Table, names: Sequence[str], span: Span, time: str) -> pa.Table:
    """Columns of the rows of some files that are within the span by the column `time`."""
    empty = make_empty(pa.schema([table.schema.field(name) for name in names]))
    parts = (part for file in files for part in keep_within(load(file, table, names), span, time))
    return pa.Table.from_batches([empty, *parts])


def _sum_windows(rows: pa.Table, keys: list[str]) -> Iterator[SourceQuality]:
    """The sums of windows with equal keys, in the order of the keys. Thresholds are those of the newest
    window."""
    rows = rows.sort_by([(_START, "ascending")])
    sums = [(name, "sum") for name in COUNTS]
    newest = [(name, "last") for name in _THRESHOLDS.values()]
    grouped = rows.group_by(keys, use_threads=False).aggregate([*sums, *newest])
    for row in grouped.sort_by([(name, "ascending") for name in keys]).to_pylist():
        counts = {name: row[f"{name}_sum"] or 0 for name in COUNTS}
        scores = tuple(
            Score(name, *count_score(name, counts), min(1.0, max(0.0, row[f"{threshold}_last"] or 0.0)))
            for name, threshold in _THRESHOLDS.items()
        )
        yield SourceQuality(row["source"], row.get("hour"), counts["received"], scores)
