"""Which outputs hold the same rows, and how a difference is explained."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.failures import WrongUse
from pipelines.settings import Settings
from pipelines.summary.queries import summarise
from pipelines.verify import parity as module
from pipelines.verify.comparison import Difference, TableComparison
from pipelines.verify.parity import compare_outputs
from schemas.tables import AGGREGATIONS, DUPLICATES, QUARANTINED, REPORTS, Table
from tests.outputs import open_output
from tests.pipelines.marks import add_marks, read_marks
from transforms.core.errors import DamagedFile
from transforms.core.record_batches import conform
from transforms.sinks.parquet.parquet_file import encode_file, read_file
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.storage.local_folder import LocalFolder

NOON = datetime(2025, 10, 22, 12, 0, tzinfo=UTC)
NAN = float("nan")
Row = dict[str, Any]


def batch(table: Table, rows: list[Row]) -> pa.RecordBatch:
    named = pa.schema([field for field in table.schema if any(field.name in row for row in rows)])
    return conform(pa.RecordBatch.from_pylist(rows, schema=named), table.schema)


def report(number: int, **values: Any) -> Row:
    context = {"hostname": f"h{number}", "available_cores": 8, "network_interfaces": ["eth0"]}
    return {
        "report_id": f"r{number}", "agent_id": "a", "recorded_at": NOON + timedelta(minutes=3 * number),
        "latency_ms": float(number),
        "custom_metrics": [("tokens", number / 3)], "execution_context": context, "source": "s",
        "message_id": f"{number}-0",
        "received_at": NOON, "revision": 0, "accuracy": NAN if number == 1 else 0.5,
        "extra": None if number == 2 else "{}",
        "is_cpu_outlier": number == 3, "latency_zscore": 1.0, "schema_version": 1, **values,
    }  # fmt: skip


def window(number: int, **values: Any) -> Row:
    start = NOON + timedelta(hours=number)
    sums = {
        "avg_latency_ms": 100.0,
        "latency_stddev": 0.0,
        "latency_p50_ms": 100.0,
        "task_count": 3,
        "revision": 3,
    }
    return {"granularity": "1h", "agent_id": "a", "time_window_start": start, **sums, **values}


def refused(number: int, **values: Any) -> Row:
    identity = {
        "source": "s",
        "message_id": f"{number}-0",
        "received_at": NOON + timedelta(minutes=number),
        "revision": 0,
    }
    return {**identity, "payload": b"{" * number, "reason": "json", **values}


def duplicate(number: int, **values: Any) -> Row:
    identity = {"source": "s", "message_id": f"{number}-0", "received_at": NOON, "revision": 1}
    return {**identity, "report_id": "r1", **values}


def output(path: Path, tables: dict[str, list[Row]] | None = None, file_minutes: int = 10) -> Path:
    """An output with some rows in every table, or other rows in the tables named."""
    rows = {
        "kpi_reports": [report(number) for number in range(12)],
        "kpi_aggregations": [window(number) for number in range(3)],
        "quarantine": [refused(1), refused(2), refused(3, received_at=None)],
        "duplicates": [duplicate(1), duplicate(2)],
    } | (tables or {})
    open_output(
        path, Settings.model_construct().model_copy(update={"file_minutes": file_minutes}), create=True
    )
    for table in (REPORTS, AGGREGATIONS, QUARANTINED, DUPLICATES):
        if rows[table.name]:
            ParquetStore(LocalFolder(path), file_minutes).write(table, [batch(table, rows[table.name])])
    return path


def test_marks_are_no_rows_of_an_output_and_stay_as_they_are(tmp_path: Path) -> None:
    marked, plain = output(tmp_path / "marked"), output(tmp_path / "plain")
    marks = add_marks(marked)
    for one, other in ((marked, plain), (plain, marked)):
        assert all(table.same for table in compare_outputs(one, other, identity=True).values())
    assert read_marks(marked) == marks


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return output(tmp_path_factory.mktemp("plain"))


HOUR_FILE = "kpi_aggregations/window_size=1h/date=2025-10-22/hour=13/1300.parquet"
OLDER = {
    HOUR_FILE: "kpi_aggregations/granularity=1h/2025-10-22.parquet",
    "quarantine/date=unknown/hour=unknown/49.parquet": "quarantine/date=unknown/s.parquet",
}


def test_an_output_of_layout_1_has_the_rows_of_one_of_layout_2(tmp_path: Path) -> None:
    older = output(
        tmp_path / "older", {"kpi_aggregations": [window(1)], "quarantine": [refused(3, received_at=None)]}
    )
    newer = output(
        tmp_path / "newer", {"kpi_aggregations": [window(1)], "quarantine": [refused(3, received_at=None)]}
    )
    for present, before in OLDER.items():
        (older / before).parent.mkdir(parents=True, exist_ok=True)
        (older / present).rename(older / before)
    assert all(compared.same for compared in compare_outputs(older, newer, identity=True).values())
    assert summarise(older).hours == summarise(newer).hours


def differing(compared: dict[str, TableComparison]) -> dict[str, list[str]]:
    """The explained differences of the tables that are not the same."""
    assert all(each.same is not bool(each.differences) for each in compared.values())
    return {
        name: [str(each) for each in found.differences] for name, found in compared.items() if not found.same
    }


@pytest.mark.parametrize("identity", [True, False])
def test_an_output_is_the_same_as_itself_with_every_row_counted(plain: Path, identity: bool) -> None:
    compared = compare_outputs(plain, plain, identity)
    assert {name: (each.rows_a, each.rows_b, each.equal) for name, each in compared.items()} == {
        "kpi_reports": (12, 12, 12), "kpi_aggregations": (3, 3, 3),
        "quarantine": (3, 3, 3), "duplicates": (2, 2, 2),
    }  # fmt: skip
    assert differing(compared) == {}


def test_the_cut_of_files_and_the_order_of_rows_do_not_matter(plain: Path, tmp_path: Path) -> None:
    rows = [report(number) for number in np.random.default_rng(3).permutation(12).tolist()]
    other = output(tmp_path / "other", {"kpi_reports": rows}, file_minutes=60)
    for path in (other / "kpi_reports").rglob("*.parquet"):
        stored = read_file(path)
        path.write_bytes(
            encode_file(stored.take(pa.array(np.random.default_rng(4).permutation(stored.num_rows))))
        )
    assert differing(compare_outputs(plain, other, identity=True)) == {}


def test_a_missing_row_is_only_in_one_output(plain: Path, tmp_path: Path) -> None:
    tables = {
        "kpi_reports": [report(number) for number in range(1, 13)],
        "kpi_aggregations": [window(1), window(2)],
    }
    compared = compare_outputs(plain, output(tmp_path / "other", tables), identity=False)
    assert differing(compared) == {
        "kpi_reports": ["report_id=r0: only in A", "report_id=r12: only in B"],
        "kpi_aggregations": [
            "granularity=1h agent_id=a time_window_start=2025-10-22 12:00:00+00:00: only in A"
        ],
    }
    counts = compared["kpi_reports"]
    assert (counts.rows_a, counts.rows_b, counts.equal, counts.different, counts.only_a, counts.only_b) == (
        12,
        12,
        11,
        0,
        1,
        1,
    )
    fewer = compared["kpi_aggregations"]
    assert (fewer.rows_a, fewer.rows_b, fewer.equal, fewer.only_a, fewer.only_b) == (3, 2, 2, 1, 0)


@pytest.mark.parametrize(
    ("change", "explained"),
    [
        ({"latency_ms": 4.0 + 1e-12}, "latency_ms is 4.0 in A, 4.000000000001 in B"),
        ({"accuracy": NAN}, "accuracy is 0.5 in A, nan in B"),
        ({"accuracy": None}, "accuracy is 0.5 in A, None in B"),
        ({"extra": "{} "}, "extra is {} in A, {}  in B"),
        ({"extra": None}, "extra is {} in A, None in B"),
        ({"is_cpu_outlier": True}, "is_cpu_outlier is False in A, True in B"),
        ({"network_bytes": 0}, "network_bytes is None in A, 0 in B"),
        (
            {"custom_metrics": [("tokens", 1.0)]},
            "custom_metrics is [('tokens', 1.3333333333333333)] in A, [('tokens', 1.0)] in B",
        ),
        ({"latency_zscore": 1.0 + 1e-8}, "latency_zscore is 1.0 in A, 1.00000001 in B"),
        ({"schema_version": 2}, "schema_version is 1 in A, 2 in B"),
    ],
)
def test_a_changed_value_is_explained_by_key_column_and_both_values(
    plain: Path, tmp_path: Path, change: Row, explained: str
) -> None:
    other = output(
        tmp_path / "other", {"kpi_reports": [report(n, **(change if n == 4 else {})) for n in range(12)]}
    )
    compared = compare_outputs(plain, other, identity=False)
    assert differing(compared) == {"kpi_reports": [f"report_id=r4: {explained}"]}
    assert (compared["kpi_reports"].equal, compared["kpi_reports"].different) == (11, 1)


def test_one_changed_field_of_a_struct_is_found_among_many_rows(plain: Path, tmp_path: Path) -> None:
    changed = report(9)["execution_context"] | {"available_cores": 9}
    rows = [*(report(number) for number in range(12) if number != 9), report(9, execution_context=changed)]
    other = output(tmp_path / "other", {"kpi_reports": rows})
    (found,) = compare_outputs(plain, other, identity=False)["kpi_reports"].differences
    assert (found.key, found.column) == ({"report_id": "r9"}, "execution_context")


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"avg_latency_ms": 100 * (1 + 5e-10)}, True),
        ({"avg_latency_ms": 100 * (1 + 5e-9)}, False),
        ({"latency_stddev": 1e-13}, True),
        ({"latency_stddev": 1e-6}, False),
        ({"latency_p50_ms": 100 * (1 + 1e-15)}, False),
        ({"task_count": 4}, False),
        ({"avg_latency_ms": NAN}, False),
        ({"avg_latency_ms": None}, False),
    ],
)
def test_only_what_derives_from_sums_may_differ_by_its_rounding(
    plain: Path, tmp_path: Path, change: Row, same: bool
) -> None:
    other = output(tmp_path / "other", {"kpi_aggregations": [window(0, **change), window(1), window(2)]})
    assert compare_outputs(plain, other, identity=False)["kpi_aggregations"].same is same
    assert compare_outputs(other, plain, identity=True)["kpi_aggregations"].same is same


def test_messages_and_revisions_are_compared_on_request(plain: Path, tmp_path: Path) -> None:
    identity = {"source": "t", "message_id": "x", "received_at": None, "revision": 9}
    reports, windows = [report(n, **identity) for n in range(12)], [window(n, revision=9) for n in range(3)]
    other = output(tmp_path / "other", {"kpi_reports": reports, "kpi_aggregations": windows})
    assert differing(compare_outputs(plain, other, identity=False)) == {}
    compared = compare_outputs(plain, other, identity=True)
    assert (compared["kpi_reports"].different, compared["kpi_aggregations"].different) == (12, 3)
    assert {each.column for each in compared["kpi_reports"].differences} == {"source"}
    assert compared["kpi_aggregations"].differences[0].column == "revision"


def test_quarantine_and_duplicates_are_multisets_without_identity(plain: Path, tmp_path: Path) -> None:
    elsewhere = {"received_at": NOON + timedelta(days=3), "source": "archive"}
    others = {
        "quarantine": [refused(number, message_id=f"file:{number}", **elsewhere) for number in (1, 2, 3)],
        "duplicates": [duplicate(number, **elsewhere) for number in (7, 8)],
    }
    other = output(tmp_path / "other", others)
    assert differing(compare_outputs(plain, other, identity=False)) == {}
    compared = compare_outputs(plain, other, identity=True)
    assert [(compared[name].only_a, compared[name].only_b) for name in ("quarantine", "duplicates")] == [
        (3, 3),
        (2, 2),
    ]


def test_a_multiset_counts_how_often_a_row_is_there(plain: Path, tmp_path: Path) -> None:
    others = {
        "duplicates": [duplicate(number) for number in (1, 2, 3)],
        "quarantine": [refused(1), refused(2, reason="utf8")],
    }
    compared = compare_outputs(plain, output(tmp_path / "other", others), identity=False)
    assert compared["duplicates"] == TableComparison(
        2,
        3,
        2,
        0,
        0,
        1,
        [Difference({"kind": "kpi_report", "record_id": None, "report_id": "r1"}, "rows", "2", "3")],
    )
    refusals = compared["quarantine"]
    assert (refusals.equal, refusals.only_a, refusals.only_b) == (1, 2, 1)
    others = "field=None rule=None message=None resolution=None"
    assert sorted(
        str(each).replace("payload_bytes=None payload_sha256=None ", "") for each in refusals.differences
    ) == [
        f"kind=kpi_report encoding=None payload={{{{ reason=json {others}: rows is 1 in A, 0 in B",
        f"kind=kpi_report encoding=None payload={{{{ reason=utf8 {others}: rows is 0 in A, 1 in B",
        f"kind=kpi_report encoding=None payload={{{{{{ reason=json {others}: rows is 1 in A, 0 in B",
    ]


def test_a_key_that_a_table_holds_twice_is_two_rows(plain: Path, tmp_path: Path) -> None:
    other = output(tmp_path / "other")
    path = sorted((other / "kpi_reports").rglob("*.parquet"))[0]
    stored = read_file(path)
    path.write_bytes(encode_file(pa.concat_batches([stored, stored.slice(0, 1)])))
    counts = compare_outputs(plain, other, identity=False)["kpi_reports"]
    assert (counts.equal, counts.only_a, counts.only_b) == (12, 0, 1)


def test_only_the_first_few_differences_are_kept_and_all_are_counted(plain: Path, tmp_path: Path) -> None:
    other = output(tmp_path / "other", {"kpi_reports": [report(n, latency_ms=-1.0) for n in range(12)]})
    counts = compare_outputs(plain, other, identity=False)["kpi_reports"]
    assert (counts.different, len(counts.differences)) == (12, module.EXAMPLES)


def test_columns_are_compared_in_groups_when_there_are_many_rows(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CELLS", 9)
    changes = {"kpi_aggregations": [window(0, latency_stddev=1e-13, task_count=9), window(1), window(2)]}
    compared = compare_outputs(plain, output(tmp_path / "other", changes), identity=False)
    assert [each.column for each in compared["kpi_aggregations"].differences] == ["task_count"]


def test_a_column_that_an_older_file_lacks_is_null(plain: Path, tmp_path: Path) -> None:
    other = output(tmp_path / "other")
    for path in (other / "kpi_reports").rglob("*.parquet"):
        path.write_bytes(encode_file(read_file(path).drop_columns(["priority"])))
    assert differing(compare_outputs(plain, other, identity=True)) == {}


def test_an_output_without_rows_has_none_in_common(plain: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    open_output(nothing, Settings.model_construct(), create=True)
    compared = compare_outputs(plain, nothing, identity=False)
    assert {name: (each.only_a, each.rows_b) for name, each in compared.items()} == {
        "kpi_reports": (12, 0), "kpi_aggregations": (3, 0), "quarantine": (3, 0), "duplicates": (2, 0),
    }  # fmt: skip


def test_what_is_no_output_or_cannot_be_read_is_an_error(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="there is no folder"):
        compare_outputs(plain, tmp_path / "gone", identity=False)
    damaged = output(tmp_path / "damaged")
    path = sorted((damaged / "duplicates").rglob("*.parquet"))[0]
    path.write_bytes(b"PAR1")
    with pytest.raises(DamagedFile, match=str(path)):
        compare_outputs(plain, damaged, identity=False)
