"""A service's summaries are those of plain SQL over the reports, whatever has become of the output.

An output goes through random changes: late reports, windows that are written, lost or damaged, days that are
sealed, moved and expire, rows without a time. One service, which keeps what it has read, is asked after each.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import duckdb
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.jobs.maintain import Maintenance
from pipelines.queries.registry import QUERIES
from pipelines.queries.run import Answer, run_query
from pipelines.service import window_cover
from pipelines.service.service import Service
from schemas.partitioning import UNTIMED_HOUR
from schemas.tables import AGGREGATIONS, GRANULARITIES, REPORTS
from tests.outputs import open_output
from tests.pipelines.maintenance.stored import SETTINGS
from tests.pipelines.queries.summaries import compare
from tests.service import MOST
from transforms.aggregation.statistics import finish, make_partials, merge_by_agent
from transforms.core.time_range import Span
from transforms.sinks.parquet.file_merge import write_rows
from transforms.sinks.parquet.maintenance_ledger import WARM, now, put_ledger, read_ledger
from transforms.sinks.parquet.parquet_file import encode_file
from transforms.storage.local_folder import LocalFolder

FIRST, DAYS = datetime(2026, 1, 1, tzinfo=UTC), 3
FILE_MINUTES = 30
SECONDS = DAYS * 86_400
MEANS = "avg(latency_ms), sum(round(accuracy * 1e12)::HUGEINT)::DOUBLE / count(*) / 1e12, count(*) AS n"
PLAIN = {
    "agent-summary": (f"agent_id, {MEANS}, stddev_samp(latency_ms)", "3 DESC, 1"),
    "hourly-patterns": (f"date_trunc('hour', recorded_at), agent_id, {MEANS}", "1, 2"),
}


class World:
    """An output, all reports that were ever written to it, and a service that was there from the start."""

    def __init__(self, top: Path) -> None:
        self.output, self.warm, self.storage = top / "out", top / "warm", LocalFolder(top / "out")
        self.output.mkdir()
        self.reports: list[dict[str, Any]] = []
        self.expired_before = date.min
        open_output(self.output, SETTINGS.model_copy(update={"file_minutes": FILE_MINUTES}), create=True)
        self.service = Service(self.output, FILE_MINUTES, MOST)

    def add_reports(self, chance: Random, count: int = 40) -> None:
        """Write reports, some of them together in a minute; no window has them yet."""
        first = len(self.reports)
        at = chance.randrange(SECONDS)
        for number in range(first, first + count):
            second = chance.randrange(SECONDS) if chance.random() < 0.7 else min(at + number, SECONDS - 1)
            self.reports.append(make_report(number, chance, FIRST + timedelta(seconds=second)))
        batch = pa.RecordBatch.from_pylist(self.reports[first:], schema=REPORTS.schema)
        write_rows(REPORTS, self.storage, [batch], FILE_MINUTES)

    def write_windows(self, chance: Random) -> None:
        """Write the windows of all reports, of all sizes or of some."""
        timed = [each for each in self.reports if each["recorded_at"]]
        partials = make_partials(pa.RecordBatch.from_pylist(timed, schema=REPORTS.schema))
        for size in chance.sample(list(GRANULARITIES), chance.choice((1, 3, 3))):
            batch = finish(merge_by_agent(partials, size))
            with suppress(Exception):  # of files that were damaged here
                write_rows(AGGREGATIONS, self.storage, [batch], FILE_MINUTES)

    def lose_windows(self, chance: Random) -> None:
        for path in self._list_windows(chance):
            path.unlink()

    def damage_windows(self, chance: Random) -> None:
        for path in self._list_windows(chance):
            path.write_bytes(b"PAR1 is not enough")

    def _list_windows(self, chance: Random) -> list[Path]:
        found = sorted((self.output / AGGREGATIONS.name).rglob("date=*/hour=*/*.parquet"))
        return [path for path in found if chance.random() < 0.1]

    def maintain(self, chance: Random) -> None:
        """Seal the first two days; some hours later their files of hours are removed, or they move."""
        at = FIRST + timedelta(days=2, hours=chance.choice((6, 8, 24 * 8)))
        work = Maintenance(self.output, SETTINGS, {WARM: str(self.warm)}, clock=lambda: at)
        with suppress(Exception):  # of files that were damaged here: the next maintenance goes on
            work.run(lambda *_: None)

    def expire(self, chance: Random) -> None:
        """Let the reports, or the windows, of a day expire."""
        before = (FIRST + timedelta(days=1)).date()
        folders = [f"{AGGREGATIONS.name}/window_size={chance.choice(list(GRANULARITIES))}"]
        if chance.random() < 0.3:
            folders, self.expired_before = [REPORTS.name], before
        for folder in folders:
            ledger, version = read_ledger(self.storage)
            put_ledger(self.storage, ledger.expire(folder, before, frozenset({FIRST.date()}), now()), version)

    def add_untimed(self, chance: Random) -> None:
        """A report without a time: no pipeline stores one, and SQL counts it as within every span."""
        self.reports.append(make_report(len(self.reports), chance, None))
        untimed = [each for each in self.reports if each["recorded_at"] is None]
        path = self.output / REPORTS.name / UNTIMED_HOUR / "00.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_file(pa.RecordBatch.from_pylist(untimed, schema=REPORTS.schema)))

    def ask(self, name: str, given: dict[str, str], span: Span, cursor: str | None = None) -> Answer:
        query = QUERIES[name]
        asked = query.parse(given)
        return run_query(
            self.output, query, asked, span, FILE_MINUTES, MOST, cursor, means=self.service.means
        )

    def select(self, name: str, given: dict[str, str], span: Span) -> list[tuple[Any, ...]]:
        """Plain SQL over the reports that have not expired."""
        stored = [
            each
            for each in self.reports
            if each["recorded_at"] is None or each["recorded_at"].date() >= self.expired_before
        ]
        columns, order = PLAIN[name]
        within = "(recorded_at IS NULL OR (recorded_at >= $start AND recorded_at < $end))"
        condition = "agent_id = $agent_id" if "agent_id" in given else "true"
        bound = {"start": span.start, "end": span.end, **given}
        values = {key: bound[key] for key in ("start", "end", "agent_id") if key in bound}
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.register("reports", pa.Table.from_pylist(stored, REPORTS.schema))
            sql = f"SELECT {columns} FROM reports WHERE {within} AND {condition} GROUP BY ALL"
            sql += f" HAVING n > {given.get('min_reports', 0)} ORDER BY {order} NULLS LAST"
            return connection.execute(sql, values).fetchall()


def make_report(number: int, chance: Random, at: datetime | None) -> dict[str, Any]:
    agent = chance.choice(("a", "a", "b", "hardly differs", f"alone {number}"))
    return {
        "report_id": f"{number:032x}",
        "task_id": f"task {number}",
        "agent_id": agent,
        "target_agent_type": chance.choice(("gpu", "cpu")),
        "recorded_at": at,
        "latency_ms": 1e6 + chance.random() if agent == "hardly differs" else chance.expovariate(0.01),
        "accuracy": round(chance.random(), 6),
        "cpu_usage": 0.5,
        "memory_mb": 1.0,
        "performance_score": 1.0,
        "revision": 1,
    }


def draw_asked(chance: Random) -> Iterator[tuple[str, dict[str, str], Span]]:
    """Questions over spans with ends on hours, minutes and anywhere."""
    for name in PLAIN:
        unit = chance.choice((1, 10**6, 60 * 10**6, 3600 * 10**6))
        ends = sorted(chance.randrange(SECONDS * 10**6) // unit * unit for _ in range(2))
        start, end = (FIRST + timedelta(microseconds=each) for each in ends)
        given = {"min_reports": chance.choice(("0", "1"))} if name == "hourly-patterns" else {}
        if chance.random() < 0.2:
            given["agent_id"] = "a"
        yield name, given, Span(start, end + timedelta(microseconds=1))


CHANGES = ("add_reports", "write_windows", "lose_windows", "damage_windows", "maintain", "expire")


@given(
    st.integers(0, 2**32),
    st.lists(st.sampled_from(("write_windows", *CHANGES)), min_size=2, max_size=6),
    st.booleans(),
    st.sampled_from((0, 30, 200_000)),
)
@settings(max_examples=10, deadline=None)
def test_summaries_are_those_of_plain_sql(seed: int, changes: list[str], is_untimed: bool, most: int) -> None:
    with TemporaryDirectory() as top, patch.object(window_cover, "MOST_REPORTS", most):
        chance, world = Random(seed), World(Path(top))
        world.add_reports(chance, 150)
        world.write_windows(chance)
        for change in (*changes, *(["add_untimed"] if is_untimed else [])):
            getattr(world, change)(chance)
            for name, given, span in draw_asked(chance):
                compare(world.ask(name, given, span), world.select(name, given, span))
