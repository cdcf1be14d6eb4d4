"""Messages of Protocol Buffers in a real Redis: archived, backfilled, reconciled, replayed."""

import json
from collections import Counter
from pathlib import Path

from pipelines.cli import run
from schemas.protobuf.encode import encode_document
from schemas.registry import load
from schemas.tables import QUARANTINED, REPORTS, TASKS
from tests.integration.archives import Typed, rows
from tests.servers import RedisServer

KEYS = ["layer4_kpi_reports", "layer4_tasks", "layer4_results", "layer4_agents"]
ENCODINGS = [f"{key}=protobuf" for key in KEYS]


def test_what_redis_holds_is_archived_backfilled_and_replayed(
    server: RedisServer, tmp_path: Path, typed: Typed
) -> None:
    archive, output, truth = tmp_path / "archive", tmp_path / "out", tmp_path / "truth.json"
    redis = ["--redis", server.url, "--stream"]
    sent = ["generate", *redis, KEYS[0], "--rate", "0", "--reports", "400", "--agents", "4", "--dirty", "0.2"]
    assert run([*sent, "--records", "--encoding", "protobuf", "--truth", str(truth)]) == 0
    with server.client() as client:
        broken = encode_document("kpi_report", load("kpi_report").root, {"latency_ms": "slow"})
        client.xadd(KEYS[0], {"data": broken})
        client.xadd(KEYS[0], {"data": b"\xff"})
    assert run(["archive", *redis, *KEYS, "--output", str(archive), "--encoding", *ENCODINGS]) == 0
    assert run(["backfill", "--input", str(archive), "--output", str(output)]) == 0
    for source in (["--input", str(archive)], [*redis, *KEYS, "--encoding", *ENCODINGS]):
        assert run(["reconcile", str(output), *source]) == 0

    said = json.loads(truth.read_text())
    wanted = Counter(said["quarantined_by_reason"]) + Counter({"schema": 1, "protobuf": 1})
    for fates in said["records"]["fates"].values():
        wanted += Counter(fates["quarantined_by_reason"])
    rejected = rows(output, QUARANTINED)
    assert Counter(row["reason"] for row in rejected) == wanted
    assert {row["encoding"] for row in rejected} == {"protobuf"}
    assert broken in {row["payload"] for row in rejected}
    reports, tasks = len(rows(output, REPORTS)), len(rows(output, TASKS))
    assert reports == said["reports"]

    code, out, _ = typed("quarantine", "show", output, "--reason", "schema", "--limit", 1000)
    assert code == 0
    assert '{"latency_ms":"slow"}' in out
    exported = tmp_path / "rejected.ndjson"
    assert run(["quarantine", "show", str(output), "--reason", "stale", "--export", str(exported)]) == 0
    stale = [json.loads(line) for line in exported.read_text().splitlines()]
    assert {each["encoding"] for each in stale} == {"protobuf"}
    replay = ["quarantine", "replay", str(output)]
    assert run([*replay, "--input", str(exported), "--waive-recency"]) == 0
    assert run(["reconcile", str(output), "--input", str(archive)]) == 0
    of_reports = sum(each["source"] == KEYS[0] for each in stale)
    assert of_reports > 0
    assert len(rows(output, REPORTS)) == reports + of_reports
    assert len(rows(output, TASKS)) == tasks
