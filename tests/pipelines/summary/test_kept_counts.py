"""Counts that are kept from summary to summary: the same numbers, and only what has changed is read."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.summary import queries
from pipelines.summary.kept_counts import KeptCounts
from pipelines.summary.queries import summarise
from schemas.tables import REPORTS
from tests.builders import list_paths
from tests.pipelines.summary.test_queries import EIGHT, report, store
from transforms.sinks.parquet.output_files import OutputFile


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files of reports that are read."""
    names: list[str] = []
    count = queries._count_reports

    def note(files: list[OutputFile]) -> object:
        names.extend(file.name for file in files)
        return count(files)

    monkeypatch.setattr(queries, "_count_reports", note)
    return names


def test_only_hours_that_have_changed_are_read_again(tmp_path: Path, read: list[str]) -> None:
    hours = [EIGHT + timedelta(hours=n) for n in range(4)]
    store(tmp_path, REPORTS, [report(n, hours[n % 4], is_latency_outlier=n % 3 == 0) for n in range(40)])
    kept = KeptCounts()

    def check(changed: int) -> None:
        read.clear()
        found = summarise(tmp_path, kept)
        assert len(read) == changed
        assert found == summarise(tmp_path)

    check(4)
    check(0)
    first, second, *_ = list_paths(tmp_path, REPORTS)
    replaced = second.with_name("new")
    replaced.write_bytes(first.read_bytes())
    os.replace(replaced, first)  # as a writer does: equal bytes in another file
    check(1)
    store(tmp_path / "other", REPORTS, [report(99, hours[1], failed=True)])
    os.replace(list_paths(tmp_path / "other", REPORTS)[0], second)
    check(1)
    second.unlink()
    check(0)
    store(tmp_path, REPORTS, [report(100, hours[2] + timedelta(minutes=30))])
    check(2)


def test_an_output_without_reports_has_a_summary(tmp_path: Path) -> None:
    assert summarise(tmp_path, KeptCounts()).reports == 0
