"""Derived files are a function of the stored rows and the settings, however often they are derived."""

import os
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.readers.formats import LAST_US
from schemas.tables import REPORTS, TASKS, Table
from tests.builders import NOON
from tests.transforms.derived.outputs import (
    EXAMPLES,
    FILE_MINUTES,
    MINUTE,
    SETTINGS,
    derive,
    invent_rows,
    make_report,
    make_task,
    read_derived,
    write,
)
from transforms.derived import engine
from transforms.derived.blocks import split_chains
from transforms.derived.bounds import Period
from transforms.derived.derived_table import Input
from transforms.derived.digests import GRAIN
from transforms.derived.engine import DeriveLimits
from transforms.derived.plan import LATE_STEP_US, DerivePlan
from transforms.derived.registry import DERIVED, TABLES


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables of the examples are known by name."""
    for table in EXAMPLES:
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

    bind = engine.bind_inputs
    with monkeypatch.context() as patch:
        patch.setattr(engine, "bind_inputs", write_more)
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


def test_tables_that_do_not_read_each_other_are_chains_of_their_own() -> None:
    chains = [[table.table.name for table in chain] for chain in split_chains(list(TABLES))]
    assert chains == [
        ["inconsistencies", "resolutions", "data_quality", "outcome_sums", "trends", "recommendations"],
        ["task_sums", "features"],
    ]


def test_a_table_that_reads_two_chains_joins_them() -> None:
    first, second = (replace(TABLES[0], table=replace(TABLES[0].table, name=name)) for name in "ab")
    reader = replace(TABLES[0], inputs=(Input("a"), Input("b")))
    assert split_chains([first, second, reader]) == [[first, second, reader]]


def test_if_one_chain_fails_the_pass_fails_and_the_next_one_makes_the_same_files(
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


def test_little_memory_makes_small_blocks() -> None:
    assert DeriveLimits(memory_mb=600).share(2).find_rows(TABLES[0]) == 187_500
    assert DeriveLimits(memory_mb=4000).share(2).find_rows(TABLES[0]) == 250_000
