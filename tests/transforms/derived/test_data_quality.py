"""What each fate of a message counts for in the scores of its source."""

from typing import Any

import pyarrow as pa
import pytest

from schemas.tables import TABLES
from tests.transforms.derived.contexts import Row, agent, at, derive, report, store, task
from transforms.derived.bounds import UNTIMED
from transforms.derived.data_quality import COUNTS, TABLE
from transforms.derived.inconsistencies import INCONSISTENCY


def rejected(reason: str, rule: str | None = None, message: str = "", **fields: Any) -> dict[str, pa.Table]:
    row = {"source": "s", "message_id": "q", "received_at": at(1), "reason": reason, "rule": rule}
    rows = [row | {"message": message, "kind": "kpi_report"} | fields]
    return {"quarantine": pa.Table.from_pylist(rows, schema=TABLES["quarantine"].schema)}


def score(stored: dict[str, pa.Table], granularity: str = "1m", **settings: Any) -> list[Row]:
    return [row for row in derive(TABLE, stored, **settings) if row["granularity"] == granularity]


def count(*reports: Row, **others: Any) -> tuple[int, ...]:
    """The counts of the one window."""
    (row,) = score(store(reports, **others))
    return tuple(row[name] for name in COUNTS)


BROKEN = pa.Table.from_pylist([{"report_id": "r", "rule": "x", "severity": "error"}], schema=INCONSISTENCY)


@pytest.mark.parametrize(
    ("reports", "others", "counts"),
    [
        ([report()], {}, (1, 0, 1, 0, 1, 1, 1, 1)),
        ([report(late=10)], {}, (1, 0, 1, 0, 1, 1, 1, 1)),
        ([report(late=10.001)], {}, (1, 0, 1, 0, 1, 0, 1, 1)),
        ([report(is_cpu_outlier=True)], {}, (1, 0, 1, 1, 1, 1, 1, 1)),
        ([report()], {"inconsistencies": BROKEN}, (1, 0, 1, 0, 1, 1, 1, 0)),
        ([], rejected("json"), (1, 1, 0, 0, 0, 0, 0, 0)),
        ([], rejected("schema", "required"), (1, 1, 0, 0, 0, 0, 0, 0)),
        ([], rejected("schema", "type", "None is not of type 'number'"), (1, 1, 0, 0, 0, 0, 0, 0)),
        ([], rejected("schema", "type", "'x' is not of type 'number'"), (1, 0, 1, 1, 0, 0, 0, 0)),
        ([], rejected("stale", "recency"), (1, 0, 1, 0, 1, 0, 0, 0)),
        ([], rejected("stale", "recency", kind="execution_result"), (1, 0, 1, 0, 0, 0, 0, 0)),
        ([], rejected("refused", "write"), (1, 0, 0, 0, 0, 0, 0, 0)),
        ([report(message_id="q")], rejected("json", resolution="replayed"), (1, 1, 0, 0, 0, 0, 0, 0)),
        ([], {"tasks": [task(received=1)], "agents": [agent(received=2)]}, (2, 0, 2, 0, 0, 0, 0, 0)),
    ],
)
def test_a_message_counts_once_by_its_fate(
    reports: list[Row], others: dict[str, Any], counts: tuple[int, ...]
) -> None:
    assert count(*reports, **others) == counts


def test_an_hour_is_the_sum_of_its_minutes_and_a_missed_threshold_is_said() -> None:
    stored = store([report(), report("q", 90, late=20)])
    assert [row["verdict"] for row in score(stored)] == ["met", "missed"]
    (hour,) = score(stored, "1h")
    assert (hour["received"], hour["timeliness"], hour["verdict"]) == (2, 0.5, "missed")
    assert score(stored, "1h", timeliness_threshold=0.5)[0]["verdict"] == "met"


def test_messages_without_a_time_of_receipt_are_one_row_a_source() -> None:
    stored = store([report(late=None), report("q", 90, late=None)])
    (row,) = derive(TABLE, stored, UNTIMED)
    assert (row["granularity"], row["time_window_start"], row["received"]) == ("1h", None, 2)
    assert row["timeliness"] is None
