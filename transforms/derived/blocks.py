"""What is derived at once: chains of tables, blocks of files, and the stored files that a block reads."""

from collections.abc import Hashable, Iterator, Mapping, Sequence

import pyarrow as pa

from transforms.derived.bounds import UNTIMED, Period
from transforms.derived.derived_table import Clock, DerivedTable
from transforms.derived.plan import Choices, DerivePlan, DeriveUnit
from transforms.derived.task_sets import TaskSet
from transforms.sinks.parquet.output_files import OutputFile

_BY_TASK = ("tasks", "results", "claims")
"""Inputs of which only the rows of some tasks are read."""


def split_chains(tables: Sequence[DerivedTable]) -> list[list[DerivedTable]]:
    """The tables in chains that do not read each other; within a chain each follows those that it reads."""
    chains: list[list[DerivedTable]] = []
    for table in tables:
        read = {each.name for each in table.inputs}
        linked = [chain for chain in chains if any(each.table.name in read for each in chain)]
        chains = [chain for chain in chains if chain not in linked]
        chains.append([*(each for chain in linked for each in chain), table])
    return chains


def split_blocks(
    units: Sequence[DeriveUnit], stale: Sequence[DeriveUnit], rows: int
) -> Iterator[list[DeriveUnit]]:
    """The stale units in blocks: consecutive among all units, of one cutoff, and with about `rows` rows."""
    places = {unit.period: place for place, unit in enumerate(units)}
    block: list[DeriveUnit] = []
    for unit in stale:
        if block and not _continues(block, unit, places, rows):
            yield block
            block = []
        block.append(unit)
    if block:
        yield block


def _continues(
    block: Sequence[DeriveUnit], unit: DeriveUnit, places: Mapping[Period, int], rows: int
) -> bool:
    """Whether a unit can be derived together with those before it."""
    last = block[-1]
    return (
        places[unit.period] == places[last.period] + 1
        and unit.cutoff == last.cutoff
        and unit.period != UNTIMED
        and sum(each.rows for each in block) + unit.rows <= rows
    )


def choose_files(
    plan: DerivePlan, choices: Choices
) -> dict[str, dict[tuple[OutputFile, Hashable], pa.Schema]]:
    """The stored files to read with their versions and schemas, by stored table, without those in which an
    index finds none of the tasks."""
    chosen: dict[str, dict[tuple[OutputFile, Hashable], pa.Schema]] = {}
    of_tasks = _BY_TASK if plan.table.clock is Clock.RECORDED else (*_BY_TASK, "kpi_reports")
    wanted = None if plan.table.clock is Clock.RECEIVED else _find_tasks(plan, choices)
    for name, (stored, places) in choices.items():
        files = plan.catalogs[stored].name_files(places)
        if wanted is not None and name.removeprefix("own ") in of_tasks:
            files = [file for file in files if wanted.meets(file.tasks)]
        chosen.setdefault(stored, {}).update({(file.file, file.version): file.schema for file in files})
    return chosen


def _find_tasks(plan: DerivePlan, choices: Choices) -> TaskSet | None:
    """The tasks of the reports, or of the inconsistencies; None if a file has no index."""
    name = "own reports" if plan.table.clock is Clock.RECORDED else "inconsistencies"
    stored, places = choices[name]
    hashes = [file.tasks for file in plan.catalogs[stored].name_files(places)]
    if any(each is None for each in hashes):
        return None
    return TaskSet([each for each in hashes if each is not None])
