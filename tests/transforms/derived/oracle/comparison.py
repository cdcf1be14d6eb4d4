"""Differences between the rows of the SQL and those of the oracle."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from tests.transforms.derived.oracle.data_quality import derive_data_quality
from tests.transforms.derived.oracle.features import derive_features
from tests.transforms.derived.oracle.inconsistencies import derive_inconsistencies
from tests.transforms.derived.oracle.resolutions import derive_resolutions
from tests.transforms.derived.oracle.rows import Row, Settings, Tables
from tests.transforms.derived.oracle.task_sums import derive_task_sums

ORACLES: dict[str, Callable[[Tables, Settings], list[Row]]] = {
    "task_sums": derive_task_sums,
    "features": derive_features,
    "inconsistencies": derive_inconsistencies,
    "resolutions": derive_resolutions,
    "data_quality": derive_data_quality,
}
JSON_COLUMNS = {"evidence", "resolved_by"}
RELATIVE, ABSOLUTE = 1e-9, 1e-12
ABSOLUTES = {
    "agent_fitness_weight": 1e-8,
    "latency_trend_se": 1e-6,
    "accuracy_trend_se": 1e-9,
    "throughput_trend_se": 1e-9,
    "task_complexity_score": 1e-3,
}
"""Columns that come from a difference of nearly equal numbers, whose last digits float64 does not keep."""


def find_differences(expected: Sequence[Row], found: Sequence[Row], key: Sequence[str]) -> list[str]:
    """One line for each row that is missing or too much, and for each value that differs."""
    wanted = {tuple(row[name] for name in key): row for row in expected}
    given = {tuple(row[name] for name in key): row for row in found}
    lines = [f"missing: {wanted[each]}" for each in wanted if each not in given]
    lines += [f"too much: {given[each]}" for each in given if each not in wanted]
    for each in sorted(wanted.keys() & given.keys(), key=str):
        names = wanted[each].keys() | given[each].keys()
        for name in sorted(names):
            first, second = wanted[each].get(name, "no such column"), given[each].get(name, "no such column")
            if name in JSON_COLUMNS:
                first, second = json.loads(first), json.loads(second)
            if not is_equal(first, second, ABSOLUTES.get(name, ABSOLUTE)):
                lines.append(f"{each} {name}: the oracle has {first!r}, the SQL {second!r}")
    return lines


def is_equal(first: Any, second: Any, absolute: float = ABSOLUTE) -> bool:
    """Whether two values are equal; floats within 10^-9 of the larger one."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(is_equal(first[name], second[name]) for name in first)
    if isinstance(first, float) and isinstance(second, int | float):
        return math.isclose(first, second, rel_tol=RELATIVE, abs_tol=absolute)
    return type(first) is type(second) and first == second
