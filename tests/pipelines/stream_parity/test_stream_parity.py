"""A stream of reports and records that come late, out of order and again, with restarts, gives the tables
of a backfill.

Many more seeds: `python -m tests.pipelines.stream_parity --seeds 200`.
"""

from pathlib import Path

import pytest

from tests.pipelines.stream_parity.cases import compare_case


@pytest.mark.slow
def test_a_stream_that_dies_and_goes_on_gives_the_tables_of_a_backfill(tmp_path: Path) -> None:
    assert compare_case(0, tmp_path) == {}
