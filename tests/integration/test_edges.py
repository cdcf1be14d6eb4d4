"""The first and the last hours that there are, and names without an end: no message ends a run, each has one
fate."""

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from tests.builders import NOON, agent, report
from tests.integration.archives import Typed, envelope, write

FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def edges(seed: int) -> list[bytes]:
    """Envelopes, with a time like the report's or none, recorded near the edges of the calendar, before 1970,
    or now."""
    draw, lines = random.Random(seed), []
    for number in range(40):
        near = timedelta(seconds=draw.choice([0, 1, 59, 3599, 3600, draw.randrange(4 * 3600)]))
        at = draw.choice([FIRST + near, LAST - near, datetime(1970, 1, 1, tzinfo=UTC) - near, NOON + near])
        source = draw.choice(
            ["s", "s" * draw.randrange(1, 400), "한" * draw.randrange(1, 200), "../" * 90, "\x1b[31m"]
        )
        document = report(number, at, agent_id=agent(number % 2)) | (
            {"accuracy": 2} if number % 4 == 0 else {}
        )
        lines.append(
            envelope(document, f"{number}-" + "i" * draw.choice([0, 300]), draw.choice([None, at]), source)
        )
    return lines


@pytest.mark.parametrize("seed", range(3))
def test_messages_at_the_edges_of_the_calendar_have_one_fate_each(
    seed: int, tmp_path: Path, typed: Typed
) -> None:
    archive, out = write(tmp_path / "in/edges.ndjson", edges(seed)), tmp_path / "out"
    assert (
        typed(
            "backfill",
            "--input",
            write(tmp_path / "in/good.ndjson", [envelope(report(99), 99)]),
            "--output",
            out,
        )[0]
        == 0
    )
    for _ in range(2):
        assert typed("backfill", "--input", archive, "--output", out)[0] == 0
    code, text, _ = typed("reconcile", out, "--input", tmp_path / "in", "--json")
    counts = json.loads(text)
    assert (code, counts["received"], counts["quarantined"]) == (0, 41, 10)
    assert typed("show", out)[0] == typed("parity", out, out, "--identity")[0] == 0
    assert max(len(path.name) for path in out.rglob("*")) < 255


def test_the_last_window_ends_with_the_last_year(tmp_path: Path, typed: Typed) -> None:
    archive = write(tmp_path / "last.ndjson", [envelope(report(1, LAST), 1, LAST)])
    assert typed("backfill", "--input", archive, "--output", tmp_path / "out")[0] == 0
    for table in ("kpi_aggregations", "kpi_fleet"):
        ends = duckdb.sql(f"SELECT time_window_end FROM '{tmp_path}/out/{table}/**/*.parquet'").fetchall()
        assert {end.astimezone(UTC) for (end,) in ends} == {LAST}
