"""Derived files are a function of the stored rows and the settings, however often they are derived."""

import os
import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.readers.formats import FIRST_US, LAST_US
from schemas.tables import REPORTS, TASKS, Table
from tests.builders import NOON
from tests.transforms.derived.outputs import (
    EXAMPLES,
    FILE_MINUTES,
    GROUP,
    MINUTE,
    SETTINGS,
    derive,
    invent_rows,
    make_report,
    make_task,
    read_derived,
    write,
)
from transforms.derived import block_connections, engine
from transforms.derived.blocks import cut_spans, split_groups
from transforms.derived.bounds import Period
from transforms.derived.derived_table import DerivedTable, Input
from transforms.derived.digests import GRAIN
from transforms.derived.engine import DeriveLimits
from transforms.derived.plan import LATE_STEP_US, DerivePlan
from transforms.derived.registry import DERIVED, TABLES
from transforms.derived.stored_files import StoredFiles
from transforms.sinks.parquet.output_files import OutputFiles


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables of the examples are known by name."""
    for table in (*EXAMPLES, *GROUP):
        monkeypatch.setitem(DERIVED, table.table.name, table)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def add(output: Path, rows: list[tuple[Table, dict[str, Any]]]) -> None:
    for table in {table.name: table for table, _ in rows}.values():
        write(output, table, [row for each, row in rows if each is table])


def derive_once(rows: list[tuple[Table, dict[str, Any]]], **options: Any) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        add(Path(folder), rows)
        derive(Path(folder), **options)
        return read_derived(Path(folder))


def moment(minute: float) -> int:
    return int((NOON + minute * MINUTE).timestamp() * 1_000_000)


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(0, 60), max_size=3))
def test_deriving_after_each_of_some_additions_is_deriving_once(seed: int, cuts: list[int]) -> None:
    rows = invent_rows(seed)
    bounds = [0, *sorted(cuts), len(rows)]
    with tempfile.TemporaryDirectory() as folder:
        for start, end in zip(bounds, bounds[1:]):
            add(Path(folder), rows[start:end])
            chance = random.Random(seed)
            derive(Path(folder), moment(chance.random() * 400) // GRAIN * GRAIN)
            derive(Path(folder), settings=SETTINGS | {"context_hours": chance.choice([1, 24])})
        derive(Path(folder), indexed=True, limits=DeriveLimits(threads=2, rows=4))
        assert read_derived(Path(folder)) == derive_once(rows)
        assert derive(Path(folder)).written == 0


class Killed(BaseException):
    """The process ends."""


def kill_after(writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter(range(writes))
    replace = Path.replace

    def die(self: Path, target: Path) -> Path:
        if next(left, None) is None:
            raise Killed
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", die)


def test_killed_at_any_write_and_run_again_it_gives_the_same_files(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = invent_rows(1, 6)
    add(output, rows)
    whole = derive_once(rows)
    runs = 0
    while True:
        runs += 1
        with monkeypatch.context() as patch:
            kill_after(3 * (runs % 3), patch)
            try:
                derive(output)
                break
            except Killed:
                continue
    assert runs > 3
    assert read_derived(output) == whole


def test_files_whose_reports_are_gone_are_removed(output: Path) -> None:
    add(
        output,
        [
            (REPORTS, make_report(1, NOON, MINUTE, 1)),
            (REPORTS, make_report(2, NOON + 60 * MINUTE, MINUTE, 1)),
        ],
    )
    derive(output)
    next((output / "kpi_reports").rglob("hour=13/*.parquet")).unlink()
    assert derive(output).removed == 4
    assert {name for name in read_derived(output) if "hour=13" in name} == set()


@pytest.mark.parametrize("rows", [1, 9])
def test_a_table_reads_none_of_the_files_of_its_group_that_the_pass_removes(output: Path, rows: int) -> None:
    reports = [(REPORTS, make_report(hour, NOON + 60 * hour * MINUTE, MINUTE, 1)) for hour in range(3)]
    options: dict[str, Any] = {"tables": GROUP, "limits": DeriveLimits(rows=rows)}
    add(output, reports)
    derive(output, **options)
    next((output / "kpi_reports").rglob("hour=12/*.parquet")).unlink()
    assert derive(output, **options).removed == 2
    assert read_derived(output) == derive_once(reports[1:], **options)
    assert derive(output, **options).written == 0


def test_a_pass_over_many_spans_lists_each_derived_table_as_often_as_over_one(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A year has thousands of files, and hundreds of spans."""
    add(output, invent_rows(3))
    derive(output, tables=GROUP)
    listed: list[str] = []
    list_versions = OutputFiles.list_versions

    def follow(self: OutputFiles, table: Table, *options: Any, **named: Any) -> Any:
        listed.append(table.name)
        return list_versions(self, table, *options, **named)

    monkeypatch.setattr(OutputFiles, "list_versions", follow)
    for rows in (1, 1000):
        assert derive(output, tables=GROUP, limits=DeriveLimits(rows=rows)).written == 0
    assert sorted(listed[: len(listed) // 2]) == sorted(listed[len(listed) // 2 :])


@pytest.mark.parametrize(("effective", "stale"), [(2.5, 0), (0.9, 2)])
def test_what_comes_too_late_for_a_file_leaves_it_alone(output: Path, effective: float, stale: int) -> None:
    """Its report is effective at 0: context and inconsistencies are the two tables with a file of it."""
    add(
        output,
        [(REPORTS, make_report(1, NOON, 0 * MINUTE, 1)), (TASKS, make_task(1, NOON, NOON - 90 * MINUTE, 9))],
    )
    derive(output)
    before = read_derived(output)
    add(output, [(TASKS, make_task(2, NOON - MINUTE, NOON + effective * MINUTE, 9))])
    derive(output)
    after = read_derived(output)
    kept = [name for name in before if name.startswith(("context/", "inconsistencies/"))]
    assert sum(before[name] != after[name] for name in kept) == stale


def test_reports_after_the_watermark_are_derived_later(output: Path) -> None:
    add(
        output, [(REPORTS, make_report(number, NOON + number * MINUTE, 0 * MINUTE, 1)) for number in range(3)]
    )
    assert derive(output, moment(1)).rows["context"] == 1
    assert derive(output).rows["context"] == 3


def test_reports_that_are_late_for_a_file_that_was_derived_count_at_the_next_full_step(output: Path) -> None:
    late = [make_report(n, NOON, minutes * MINUTE, n) for n, minutes in ((2, 93.1), (3, 94.2), (4, 103))]
    add(output, [(REPORTS, row) for row in (make_report(1, NOON, 0 * MINUTE, 1), *late)])
    assert [derive(output, moment(m)).rows.get("context", 0) for m in (92, 93.5, 99.5, 100, 109.5)] == [
        1, 0, 0, 3, 0,
    ]  # fmt: skip
    derive(output)
    assert read_derived(output) == derive_once([(REPORTS, make_report(1, NOON, 0 * MINUTE, 1))] + [
        (REPORTS, row) for row in late
    ])  # fmt: skip


def test_reports_of_a_fresh_file_count_at_every_pass(output: Path) -> None:
    reports = [make_report(n, NOON + n * MINUTE, 5 * MINUTE, n) for n in (50, 51, 52)]
    add(output, [(REPORTS, row) for row in reports])
    assert [derive(output, moment(m)).rows.get("context", 0) for m in (55.5, 56.5, 57.5)] == [1, 2, 3]


@given(ends=st.integers(0, 2000), moments=st.lists(st.integers(0, 4000), min_size=2, max_size=2).map(sorted))
def test_what_was_derived_of_a_file_stays_in_it(ends: int, moments: list[int]) -> None:
    """The cutoff of a file never goes back, and ends at that of the pass."""
    earlier, later = (
        DerivePlan(TABLES[0], {}, SETTINGS, FILE_MINUTES, each * GRAIN).find_cutoff(Period(0, ends * GRAIN))
        for each in moments
    )
    assert earlier <= later <= moments[1] * GRAIN
    assert later > (moments[1] - LATE_STEP_US // GRAIN) * GRAIN
    assert DerivePlan(TABLES[0], {}, SETTINGS, FILE_MINUTES).find_cutoff(Period(0, ends)) == LAST_US


def test_a_file_that_is_replaced_after_it_was_compared_is_left_for_the_next_pass(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(output, [(REPORTS, make_report(1, NOON, 0 * MINUTE, 1))])
    for file in output.rglob("*.parquet"):
        os.utime(file, (0, 0))
    link = os.link

    def replace_first(source: Path, target: Path) -> None:
        data = Path(source).read_bytes()
        Path(f"{source}.new").write_bytes(data)
        os.replace(f"{source}.new", source)
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", replace_first)
        assert derive(output).changed > 0
    assert derive(output).changed == 0
    assert any(name.startswith("context/") for name in read_derived(output))


def test_files_that_are_being_written_are_derived_as_they_were_when_they_were_listed(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(output, [(REPORTS, make_report(1, NOON, 0 * MINUTE, 1))])
    before = derive_once([(REPORTS, make_report(1, NOON, 0 * MINUTE, 1))])

    def write_more(*arguments: Any) -> Any:
        add(output, [(REPORTS, make_report(2, NOON, 0 * MINUTE, 1))])
        return bind(*arguments)

    bind = block_connections.bind_reports
    with monkeypatch.context() as patch:
        patch.setattr(block_connections, "bind_reports", write_more)
        derive(output, tables=EXAMPLES[:1])
    context = {name: data for name, data in read_derived(output).items() if name.startswith("context/")}
    assert context == {name: data for name, data in before.items() if name.startswith("context/")}


def test_a_file_system_without_hard_links_is_copied_from(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    rows = invent_rows(2, 6)
    add(output, rows)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        derive(output)
    assert read_derived(output) == derive_once(rows)


def list_names(tables: Sequence[DerivedTable]) -> list[list[str]]:
    return [[table.table.name for table in group] for group in split_groups(tables)]


def test_tables_that_join_records_are_one_group_and_the_others_each_their_own() -> None:
    """Trends read no derived table, so that they are made beside the group."""
    assert list_names(TABLES) == [
        ["inconsistencies", "outcome_sums", "task_sums", "features"],
        ["trends"], ["resolutions"], ["data_quality"], ["recommendations"],
    ]  # fmt: skip


def test_a_group_that_waits_for_another_comes_after_all_that_wait_for_none() -> None:
    groups = split_groups(TABLES)
    made = {table.table.name for table in TABLES}
    waits = [any(each.name in made for table in group for each in table.inputs) for group in groups[1:]]
    assert waits == sorted(waits)
    assert {False, True} == set(waits)


def test_a_table_that_reads_one_outside_of_the_group_comes_after_it() -> None:
    reader = replace(TABLES[0], inputs=(*TABLES[0].inputs, Input("trends", timedelta(hours=1))))
    named = replace(reader, table=replace(reader.table, name="reader"))
    assert list_names([*TABLES, named])[-1] == ["reader"]


def test_spans_of_reports_are_cut_where_their_rows_are_enough(output: Path) -> None:
    minutes = [0, 1, 30, 60, 61, 62, 90, 91]
    add(output, [(REPORTS, make_report(n, NOON + n * MINUTE, MINUTE, 1)) for n in minutes])
    catalog = StoredFiles(output, FILE_MINUTES).read(REPORTS)
    cuts = [FIRST_US, moment(60), moment(90), LAST_US]
    assert cut_spans(catalog, 3, FIRST_US) == [Period(*each) for each in pairwise(cuts)]
    assert cut_spans(catalog, 1, moment(60)) == [Period(*each) for each in pairwise([cuts[0], *cuts[2:]])]


def test_if_one_group_fails_the_pass_fails_and_the_next_one_makes_the_same_files(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = invent_rows(2, 6)
    add(output, rows)
    with monkeypatch.context() as patch:
        kill_after(2, patch)
        with pytest.raises(Killed):
            derive(output, limits=DeriveLimits(threads=2))
    derive(output, limits=DeriveLimits(threads=2))
    assert read_derived(output) == derive_once(rows)
    assert [path.name for path in (output / "_derive").iterdir() if path.suffix == ".parquet"] == []


def test_a_group_that_waits_does_not_start_when_the_pass_has_been_interrupted(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its inputs are not whole."""
    add(output, invent_rows(2, 6))
    started, ended, derived = Event(), Event(), set[str]()

    def follow(table: str, done: int, total: int) -> None:
        derived.add(table)
        started.set()
        ended.wait(10)

    def interrupt(futures: Any) -> Any:
        started.wait(10)
        raise Killed

    monkeypatch.setattr(engine, "Event", lambda: ended)
    monkeypatch.setattr(engine, "as_completed", interrupt)
    (output / "_derive").mkdir()
    deriver = engine.Deriver(output, SETTINGS, FILE_MINUTES, DeriveLimits(threads=2), EXAMPLES)
    with pytest.raises(Killed):
        deriver.derive(output / "_derive", follow=follow)
    assert derived == {"context"}


def test_little_memory_makes_small_blocks() -> None:
    assert DeriveLimits(memory_mb=600).share(2).find_rows(TABLES[0]) == 187_500
    assert DeriveLimits(memory_mb=4000).share(2).find_rows(TABLES[0]) == 250_000
