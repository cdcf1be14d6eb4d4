"""Reads the reports that break a rule: the newest ones, with the evidence, and what resolved them."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.summary.quality import BrokenRule, read_broken_rules
from pipelines.verify.table_scan import list_files, load, scan
from transforms.core.time_range import Span, keep_within
from transforms.derived.data_quality import TABLE as QUALITY
from transforms.derived.evidence import parse_evidence
from transforms.derived.inconsistencies import TABLE as INCONSISTENCIES
from transforms.derived.resolutions import TABLE as RESOLUTIONS
from transforms.derived.rules import InconsistencyRule

_TIME = "recorded_at"


@dataclass(frozen=True)
class BrokenReport:
    """A report that breaks a rule, and the first record that resolved it; None if none did."""

    report_id: str
    recorded_at: datetime
    task_id: str
    agent_id: str
    evidence: dict[str, Any]
    resolved_at: datetime | None
    resolved_by: dict[str, Any] | None


@dataclass(frozen=True)
class BrokenReports:
    """How many reports of a span break a rule, and the newest of them, newest first.

    `meaning`: what is wrong with them, as text.
    """

    counts: BrokenRule
    meaning: str
    newest: tuple[BrokenReport, ...]


def read_broken_reports(
    output: Path, rule: InconsistencyRule, span: Span, limit: int
) -> BrokenReports | None:
    """The reports recorded within the span that break the rule, at most `limit` of them.

    None if there are no derived tables.

    Raises:
        transforms.core.errors.DamagedFile: a file cannot be read.
    """
    if not list_files(output, QUALITY.table):
        return None
    counted = (each for each in read_broken_rules(output, span) if each.rule == rule.name)
    counts = next(counted, BrokenRule(rule.name, rule.severity, 0, 0))
    rows = _read_newest(output, rule.name, span, limit) if counts.broken else []
    resolved = _read_resolutions(output, rule.name, [row["report_id"] for row in rows])
    newest = tuple(_join(row, resolved.get(row["report_id"])) for row in rows)
    return BrokenReports(counts, rule.meaning, newest)


def _read_newest(output: Path, rule: str, span: Span, limit: int) -> list[dict[str, Any]]:
    """Rows of inconsistencies. Files are read from the newest on, until there are enough rows."""
    names = ["report_id", "rule", _TIME, "task_id", "agent_id", "evidence"]
    found: list[dict[str, Any]] = []
    for file in reversed(list_files(output, INCONSISTENCIES.table)):
        for rows in keep_within(load(file, INCONSISTENCIES.table, names), span, _TIME):
            rows = rows.filter(pc.equal(rows["rule"], rule))
            found += rows.sort_by([(_TIME, "descending"), ("report_id", "ascending")]).to_pylist()
        if len(found) >= limit:
            break
    return found[:limit]


def _read_resolutions(output: Path, rule: str, reports: list[str]) -> dict[str, dict[str, Any]]:
    """The rows of resolutions of some reports, by report_id."""
    wanted, names = pa.array(reports, pa.string()), ["report_id", "rule", "resolved_at", "resolved_by"]
    parts = (
        rows.filter(pc.and_(pc.equal(rows["rule"], rule), pc.is_in(rows["report_id"], wanted)))
        for rows in scan(output, RESOLUTIONS.table, names)
    )
    return {row["report_id"]: row for rows in parts for row in rows.to_pylist()}


def _join(row: dict[str, Any], resolution: dict[str, Any] | None) -> BrokenReport:
    return BrokenReport(
        row["report_id"],
        row[_TIME],
        row["task_id"],
        row["agent_id"],
        parse_evidence(row["evidence"], INCONSISTENCIES.table),
        resolution["resolved_at"] if resolution else None,
        parse_evidence(resolution["resolved_by"], RESOLUTIONS.table) if resolution else None,
    )
