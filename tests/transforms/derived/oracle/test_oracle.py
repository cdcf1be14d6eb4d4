"""The SQL of every derived table against plain Python that was written from docs/columns.md alone.

Many more seeds: `python -m tests.transforms.derived.oracle --seeds 500`, with `--files` through real files.
"""

from pathlib import Path

import pytest

from tests.transforms.derived.oracle.cases import compare_case, compare_files

SEEDS = range(8)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_sql_gives_the_rows_that_the_documentation_defines(seed: int) -> None:
    assert {name: lines for name, lines in compare_case(seed).items() if lines} == {}


@pytest.mark.parametrize("seed", [1000, 1003])
def test_backfills_that_follow_one_another_give_the_rows_that_the_documentation_defines(
    tmp_path: Path, seed: int
) -> None:
    assert {name: lines for name, lines in compare_files(seed, tmp_path).items() if lines} == {}
