"""The lines of a run without a terminal: how far it is, and no share or rate that says nothing any more."""

from pipelines.reading_progress import _describe
from transforms.core.stage_counters import Stage


def test_while_messages_are_read_the_share_and_their_rate_are_shown() -> None:
    stages = {"read": Stage(bytes=500), "validate": Stage(rows=2_000)}
    assert _describe(stages, 1_000, 10.0) == "50% read, 2,000 messages, 200/s"


def test_once_all_is_read_the_rows_that_are_written_are_shown() -> None:
    stages = {"read": Stage(bytes=1_000), "validate": Stage(rows=2_000)}
    stages |= {"write kpi_reports": Stage(rows=1_500), "write kpi_fleet": Stage(rows=3_000)}
    assert _describe(stages, 1_000, 20.4) == "all read (2,000 messages), 4,500 rows written, 20 s"
