"""/kpi/export: Layer 4's shape, snapshots that do not move, and a relay that reads them."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from pipelines.jobs.relay import RelayJob, relay
from pipelines.service import arrivals
from pipelines.settings import Settings
from schemas.registry import load
from schemas.tables import LAYOUT_VERSION, REPORTS
from tests.builders import NOON, messages, report
from tests.pipelines.relay.running import STREAM, read, shorten_pauses
from tests.pipelines.summary.test_queries import store
from tests.servers import RedisServer
from tests.service import RunningService, make_service, run_service
from transforms.core.record_batches import conform
from transforms.encryption.key_ring import KeySource, forget_keys, use_master_key
from transforms.encryption.master_key import KeyFile
from transforms.sinks.parquet.parquet_file import encode_file, read_file
from transforms.sinks.parquet.parquet_store import ENCRYPT
from transforms.storage.local_folder import LocalFolder
from transforms.validation.validate import MessageRules, judge_block


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "LOOK_SECONDS", 0.0)


def make_output(folder: Path, documents: list[dict[str, Any]]) -> Path:
    """An output whose kpi_reports are these reports."""
    folder.mkdir(exist_ok=True)
    settings = Settings().row_settings() | {"file_minutes": 10}
    described = {"layout": LAYOUT_VERSION, "schemas": {}, "settings": settings}
    (folder / "_kpiflow.json").write_text(json.dumps(described))
    store(folder, REPORTS, judge(documents).to_pylist())
    return folder


def judge(documents: list[Any]) -> pa.RecordBatch:
    """The rows of reports that are valid."""
    rows, refused = judge_block(messages(documents, None), load("kpi_report"), MessageRules())
    assert not refused.num_rows
    return conform(rows, REPORTS.schema)


def add(folder: Path, documents: list[dict[str, Any]]) -> None:
    """Add reports to a file that is there already, by a rename as a stream does."""
    (path,) = (folder / "kpi_reports").rglob("*.parquet")
    rows = pa.concat_tables(
        [pq.read_table(path, partitioning=None), pa.Table.from_batches([judge(documents)])]
    )
    pq.write_table(rows.sort_by("report_id"), path.with_name("new"))
    path.with_name("new").rename(path)


def many(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [report(n, NOON + timedelta(milliseconds=n)) for n in range(first, first + count)]


def read_all(service: RunningService, per_page: int, **more: Any) -> list[Any]:
    """The reports of all pages."""
    found: list[Any] = []
    page, pages = 1, 1
    while page <= pages:
        body = service.get("/kpi/export", page=page, per_page=per_page, **more).json
        found += body["kpi_reports"]
        page, pages = page + 1, body["pagination"]["total_pages"]
    return found


def test_a_page_has_the_shape_of_layer_4(tmp_path: Path) -> None:
    with run_service(make_service(make_output(tmp_path, many(250)))) as service:
        body = service.get("/kpi/export", page=3).json
    assert set(body) == {"timestamp", "kpi_reports", "pagination", "snapshot"}
    assert body["pagination"] == {"page": 3, "per_page": 100, "total_pages": 3, "total_count": 250}
    assert len(body["kpi_reports"]) == 50
    assert body["kpi_reports"][0] == report(200, NOON + timedelta(milliseconds=200)) | {
        "recorded_at": "2025-10-22T12:00:00.200000Z",
        "network_bytes": None,
        "custom_metrics": None,
        "execution_context": report()["execution_context"] | {"gpu_info": None, "network_interfaces": None},
    }


ODD = [
    report(0, custom_metrics={"a": 0.1, "b": 1e300}, network_bytes=7, priority=50, source_layer="l2"),
    report(1, error_details={"code": [1, None, 9007199254740993]}, gpu_utilization=0.5),
    report(2, error_details="it said \"no\" \u00e9\u2028", target_agent_type="gpu"),
    report(3, more={"deep": [1.0, 1e0, 123456789012345678901234567890]}, other="x"),
    report(
        4,
        execution_context={
            "hostname": "n", "available_cores": 8, "available_memory_mb": 1.5, "rack": {"row": 3},
            "gpu_info": {"name": "g", "memory": 9007199254740993}, "network_interfaces": ["eth0", ""],
        },
    ),
]  # fmt: skip


def test_an_exported_report_has_its_report_id_when_it_is_read_again(tmp_path: Path) -> None:
    with run_service(make_service(make_output(tmp_path, ODD))) as service:
        exported = service.get("/kpi/export").body
    texts = _split(exported)
    assert sorted(judge(texts)["report_id"].to_pylist()) == sorted(judge(ODD)["report_id"].to_pylist())


def _split(body: bytes) -> list[Any]:
    from pipelines.relay.export import parse_page

    return list(parse_page(body).reports)


def test_the_pages_of_a_snapshot_do_not_move_while_files_are_replaced(tmp_path: Path) -> None:
    output = make_output(tmp_path, many(120, first=100))
    with run_service(make_service(output)) as service:
        first = service.get("/kpi/export", per_page=50).json
        before = read_all(service, 50)
        add(output, many(60))  # older than all that were there
        snapshot = first["snapshot"]
        assert read_all(service, 50, snapshot=snapshot) == before
        now = read_all(service, 50)
        assert (len(before), len(now), now[:120]) == (120, 180, before)
        assert [each["task_id"] for each in now[120:]] == [each["task_id"] for each in _in_order(many(60))]
        assert service.get("/kpi/export", page=9, per_page=50).json["kpi_reports"] == []


def _in_order(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Documents in the order of their report_ids."""
    ids = judge(documents)["report_id"].to_pylist()
    return [document for _, document in sorted(zip(ids, documents), key=lambda pair: pair[0])]


def test_a_snapshot_ends_when_its_reports_are_gone(tmp_path: Path) -> None:
    output = make_output(tmp_path, many(20))
    with run_service(make_service(output)) as service:
        snapshot = service.get("/kpi/export").json["snapshot"]
        shutil.rmtree(output / "kpi_reports")
        reply = service.get("/kpi/export", snapshot=snapshot)
        assert (reply.status, reply.json["fix"]) == (410, "begin at page 1, without a snapshot")
        assert service.get("/kpi/export").json["pagination"]["total_count"] == 0
        store(output, REPORTS, judge(many(5)).to_pylist())
        assert service.get("/kpi/export").json["pagination"]["total_count"] == 5


@pytest.mark.parametrize(
    "query",
    [
        "page=0", "page=-1", "page=x", "page=1e9", "page=9999999999", "per_page=1001", "per_page=0",
        "pages=1", "page=1&page=2", "snapshot=x", "snapshot=00000000-" + "9" * 99, "page=%D9%A1", "page=1%00",
    ],
)  # fmt: skip
def test_a_wrong_page_is_refused(query: str, tmp_path: Path) -> None:
    with run_service(make_service(make_output(tmp_path, many(1)))) as service:
        reply = service.request("GET", f"/kpi/export?{query}")
        assert (reply.status, set(reply.json)) == (400, {"error", "fix"})
        assert service.get("/kpi/export", snapshot="00000000-1-" + "0" * 32).status == 410


def test_a_snapshot_that_the_service_did_not_make_is_refused(tmp_path: Path) -> None:
    with run_service(make_service(make_output(tmp_path, many(3)))) as service:
        true = service.get("/kpi/export").json["snapshot"]
        name, total, signature = true.split("-")
        forged = [f"{name}-{number}-{signature}" for number in ("2", "4", "999999999", "03")]
        for text in (*forged, f"{name}-{total}", f"{name}-{total}-{'0' * 32}", f"{true}0", f"{true}\n"):
            reply = service.get("/kpi/export", snapshot=text)
            assert (reply.status, reply.json["fix"]) == (400, "copy it whole from a page")
        assert service.get("/kpi/export", snapshot=true).json["pagination"]["total_count"] == 3


def test_our_relay_reads_the_export_and_goes_on_with_what_is_new(
    server: RedisServer, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_pauses(monkeypatch)
    output = make_output(tmp_path / "out", many(1500, first=100))
    with run_service(make_service(output)) as service:
        job = RelayJob(f"{service.url}/kpi/export", server.url, STREAM, tmp_path / "relay", once=True)

        def relay_all() -> set[str]:
            relay(job, Settings().model_copy(update={"stale_seconds": 10**9}), lambda _: None)
            return {json.loads(each)["task_id"] for each in read(client)}

        assert relay_all() == {each["task_id"] for each in many(1500, first=100)}
        add(output, many(90))
        assert relay_all() == {each["task_id"] for each in many(1600)} - {
            each["task_id"] for each in many(10, first=90)
        }
        assert len(read(client)) == 1590


def test_an_encrypted_output_is_exported_and_its_tasks_are_found(tmp_path: Path) -> None:
    output, plain = tmp_path / "encrypted", make_output(tmp_path / "plain", many(30))
    master = str(tmp_path / "master.key")
    forget_keys()
    KeyFile(tmp_path / "master.key").create(datetime.now(UTC))
    keys = KeySource(LocalFolder(output), master)
    keys.begin()
    for path in plain.rglob("*.parquet"):
        copy = output / path.relative_to(plain)
        copy.parent.mkdir(parents=True)
        copy.write_bytes(encode_file(read_file(path), key=keys.find_writing_key()))
    description = json.loads((plain / "_kpiflow.json").read_text())
    description["settings"][ENCRYPT] = True
    (output / "_kpiflow.json").write_text(json.dumps(description))
    try:
        forget_keys()  # as in a new process
        use_master_key(master)
        with run_service(make_service(output)) as service, run_service(make_service(plain)) as other:
            assert read_all(service, 20) == read_all(other, 20)
            found = service.get("/query/reports-by-task", task_id=report(7)["task_id"]).json["rows"]
            assert found == other.get("/query/reports-by-task", task_id=report(7)["task_id"]).json["rows"]
            assert len(found) == 1
            assert all(group.files for group in service.service.index._groups.values())
    finally:
        forget_keys()
