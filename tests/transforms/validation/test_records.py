"""Messages of other kinds than reports become rows of their tables."""

import hashlib
from base64 import b64encode
from datetime import datetime, timedelta
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.test_pipeline import TestPipeline as BeamPipeline
from apache_beam.testing.util import assert_that, equal_to

from schemas.kinds import KINDS
from schemas.readers.verdicts import MessageLimits
from schemas.registry import load
from tests.builders import NOON, agent, agent_record, health, messages, report, result, task
from transforms.core.record_batches import concat
from transforms.validation.message_kinds import give_kind
from transforms.validation.validate import Judged, MessageRules, Validate, judge_kinds

SOON = NOON + timedelta(seconds=1)
DOCUMENTS = {
    "kpi_report": report(),
    "task": task(),
    "execution_result": result(),
    "agent": agent_record(),
    "system_health": health(),
}


def judged(
    kind: str, *documents: Any, received_at: datetime | None = SOON, rules: MessageRules | None = None
) -> Judged:
    """What became of documents of one kind, which its stream tells."""
    sent = messages(documents, received_at, KINDS[kind].stream)
    ((found, each),) = judge_kinds(sent, rules or MessageRules())
    assert found.schema == kind
    return each


def rows(kind: str, *documents: Any, received_at: datetime | None = SOON) -> list[dict[str, Any]]:
    found = judged(kind, *documents, received_at=received_at)
    assert found.quarantine.to_pylist() == []
    assert found.rows.schema.equals(KINDS[kind].table.schema)
    return found.rows.to_pylist()


def versions(kind: str, *documents: Any, received_at: datetime | None = SOON) -> list[str]:
    return [row["version"] for row in rows(kind, *documents, received_at=received_at)]


def reasons(found: Judged) -> list[tuple[str, str | None, str | None]]:
    assert found.rows.num_rows == 0
    return [(row["reason"], row["field"], row["rule"]) for row in found.quarantine.to_pylist()]


def test_a_task_keeps_every_field_with_its_type():
    quota = {
        "max_cpu_cores": 1,
        "max_memory_mb": 512.0,
        "max_execution_time_secs": 60,
        "max_network_mbps": None,
    }
    document = task(
        7,
        payload={"b": [1, {"c": None}], "a": "ä"},
        deadline="2025-10-22T15:00:00+01:00",
        resource_quota=quota,
        metadata={"variant": "b", "experiment": "x"},
        shape="new",
    )
    document["id"] = document["id"].upper()
    (row,) = rows("task", document)
    text = '{"a":"ä","b":[1,{"c":null}]}'
    assert row | {"version": ""} == {
        "task_id": report(7)["task_id"],
        "version": "",
        "effective_at": SOON,
        "created_at": NOON,
        "priority": 50,
        "source_layer": "layer2",
        "target_agent_type": "gpu",
        "deadline": NOON + timedelta(hours=2),
        "max_cpu_cores": 1.0,
        "max_memory_mb": 512,
        "max_execution_time_secs": 60,
        "max_network_mbps": None,
        "payload": text,
        "payload_bytes": len(text.encode()),
        "metadata": [("experiment", "x"), ("variant", "b")],
        "extra": '{"shape":"new"}',
        "source": "layer4_tasks",
        "message_id": "m0",
        "received_at": SOON,
        "schema_version": 1,
    }


def test_what_a_message_does_not_say_is_null():
    (row,) = rows("task", task(), received_at=None)
    absent = {name for name, value in row.items() if value is None}
    assert absent == {
        "deadline", "max_cpu_cores", "max_memory_mb", "max_execution_time_secs", "max_network_mbps",
        "payload", "payload_bytes", "metadata", "extra", "received_at",
    }  # fmt: skip
    assert row["effective_at"] == NOON


def test_a_result_has_its_use_of_resources_as_columns():
    used = result()["resource_usage"] | {"gpu_utilization": 0.25, "fans": 2}
    (row,) = rows("execution_result", result(resource_usage=used, output=[1.0], error="no", success=False))
    assert (row["success"], row["output"], row["error"]) == (False, "[1]", "no")
    assert (row["cpu_seconds"], row["memory_peak_mb"], row["gpu_utilization"]) == (0.5, 64.0, 0.25)
    assert (row["network_tx_bytes"], row["network_rx_bytes"], row["disk_io_ops"]) == (7, 7, 7)
    assert row["extra"] == '{"resource_usage":{"fans":2}}'
    assert (row["completed_at"], row["effective_at"]) == (NOON, SOON)


def test_health_is_keyed_by_its_message_and_needs_no_time():
    timed, untimed = rows("system_health", health(recorded_at=NOON.isoformat()), health(), received_at=None)
    assert (timed["recorded_at"], timed["effective_at"]) == (NOON, NOON)
    assert (untimed["recorded_at"], untimed["effective_at"]) == (None, None)
    assert untimed["resource_utilization"] == [("cpu", 0.5)]


def test_of_a_program_its_length_and_digest_are_kept():
    program = bytes(range(256)) * 20_000  # 5 MB
    (row,) = rows("agent", agent_record(wasm_binary=b64encode(program).decode()))
    assert row["wasm_bytes"] == len(program)
    assert row["wasm_sha256"] == hashlib.sha256(program).hexdigest()
    (row,) = rows("agent", agent_record(wasm_binary=""))
    assert (row["wasm_bytes"], row["wasm_sha256"]) == (0, hashlib.sha256(b"").hexdigest())


@pytest.mark.parametrize("program", ["QUI", "QU I=", "not base64!", 7])
def test_a_program_that_is_not_base64_is_rejected_and_says_so(program: Any):
    found = judged("agent", agent_record(wasm_binary=program), agent_record(1))
    assert found.rows["agent_id"].to_pylist() == [agent(1)]
    (row,) = found.quarantine.to_pylist()
    assert (row["kind"], row["reason"], row["field"]) == ("agent", "schema", "wasm_binary")
    assert row["rule"] == ("type" if program == 7 else "format")


def test_the_same_record_in_another_spelling_is_the_same_version():
    rest = '"source_layer":"a","target_agent_type":"b"'
    one = f'{{"id":"%s","priority":50,"created_at":"{NOON.isoformat()}",{rest},"payload":{{"x":1,"y":[2]}}}}'
    again = (NOON + timedelta(hours=2)).isoformat().replace("+00:00", "+02:00")
    other = (
        f'{{{rest}, "payload": {{"y": [2.0], "x": 1e0}}, "created_at":"{again}", "priority":50.0,"id":"%s"}}'
    )
    same = versions("task", one % report()["task_id"], other % report()["task_id"].upper())
    assert same[0] == same[1]
    assert len(same[0]) == 32


@pytest.mark.parametrize("kind", ["task", "execution_result", "agent"])
def test_every_field_is_part_of_the_version_but_an_agents_stats(kind: str):
    document = DOCUMENTS[kind]
    changes = {
        "task": [
            {"priority": 25}, {"payload": 1}, {"deadline": NOON.isoformat()}, {"metadata": {}}, {"extra": 1},
            {"metadata": {"a": "b"}}, {"metadata": {"b": "a"}}, {"source_layer": "x"}, {"id": agent(9)},
            {"resource_quota": {"max_cpu_cores": 1, "max_memory_mb": 1, "max_execution_time_secs": 2}},
            {"resource_quota": {"max_cpu_cores": 1, "max_memory_mb": 2, "max_execution_time_secs": 1}},
        ],
        "execution_result": [{"success": False}, {"output": 0}, {"error": ""}, {"execution_time_ms": 1}],
        "agent": [
            {"agent_type": "x"}, {"state": "x"}, {"capabilities": []}, {"capabilities": ["a", "b"]},
            {"capabilities": ["b", "a"]}, {"wasm_binary": ""}, {"created_at": NOON.isoformat()},
        ],
    }[kind]  # fmt: skip
    found = versions(kind, document, *(document | change for change in changes))
    assert len(set(found)) == len(found)
    if kind == "agent":
        assert versions(kind, document | {"stats": {"tasks": 1}}) == found[:1]


def test_an_agent_that_changes_and_goes_back_has_a_version_for_each():
    hours = [NOON, NOON + timedelta(minutes=59), NOON + timedelta(hours=1)]
    same = [versions("agent", agent_record(), received_at=at)[0] for at in hours]
    assert same[0] == same[1] != same[2]
    untimed = versions("agent", agent_record(), agent_record(created_at=NOON.isoformat()), received_at=None)
    assert len({*untimed, *same}) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_measured_must_be_recent(kind: str):
    late = NOON + timedelta(hours=2)
    document = DOCUMENTS[kind] | ({"recorded_at": NOON.isoformat()} if kind == "system_health" else {})
    for at, reason in ((late, "stale"), (NOON - timedelta(hours=1), "future")):
        found = judged(kind, document, received_at=at)
        expected = [(reason, KINDS[kind].time, "recency")] if KINDS[kind].is_recent else []
        assert (found.rows.num_rows == 0) == bool(expected)
        assert not expected or reasons(found) == expected
    assert judged("system_health", health(), received_at=late).rows.num_rows == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_malformed_record_is_rejected_as_what_it_is_and_costs_only_itself(kind: str):
    document = DOCUMENTS[kind]
    wrong = [b"{", b"[]", *({**document, name: [[]]} for name in document), b'{"id":"x"}', b"\xff"]
    found = judged(kind, *wrong, document)
    assert found.rows["message_id"].to_pylist() == [f"m{len(wrong)}"]
    assert found.quarantine["kind"].unique().to_pylist() == [kind]
    assert sorted(found.quarantine["message_id"].to_pylist()) == sorted(f"m{i}" for i in range(len(wrong)))


def test_an_agent_may_be_as_large_as_a_program():
    rules = MessageRules(MessageLimits(2000))
    for kind, sizes in {"task": (2, 2), "agent": (0, 1)}.items():
        large = [DOCUMENTS[kind] | {"x": "x" * size} for size in (2000, 33 << 20)]
        found = judged(kind, *large, rules=rules).quarantine
        assert found["reason"].to_pylist() == ["oversize"] * sizes[1 if kind == "agent" else 0]
    assert (
        judged("agent", agent_record(x="x" * 2000), rules=MessageRules(MessageLimits(64 << 20))).rows.num_rows
        == 1
    )


def test_the_source_tells_the_kind_unless_one_is_given():
    plain = messages([task()], source="layer4_tasks")
    given = give_kind(messages([agent_record()], source="layer4_tasks"), "agent")
    assert [kind.schema for kind, _ in judge_kinds(plain, MessageRules())] == ["task"]
    assert [kind.schema for kind, _ in judge_kinds(given, MessageRules())] == ["agent"]
    assert [kind.schema for kind, _ in judge_kinds(messages([report()]), MessageRules())] == ["kpi_report"]
    assert list(judge_kinds(plain.slice(0, 0), MessageRules())) == []


def test_one_transform_validates_all_kinds_at_once():
    sent = [
        messages([document, "{"], source=KINDS[kind].stream).slice(0, 2)
        for kind, document in DOCUMENTS.items()
    ]
    with BeamPipeline() as pipeline:
        found = pipeline | beam.Create([concat(sent)]) | Validate()
        for tag in ("reports", "tasks", "results", "agents", "system_health"):
            ids = found[tag] | f"ids of {tag}" >> beam.FlatMap(lambda batch: batch["message_id"].to_pylist())
            assert_that(ids, equal_to(["m0"]), tag)
        kinds = found.quarantine | "kinds" >> beam.FlatMap(lambda batch: batch["kind"].to_pylist())
        assert_that(kinds, equal_to(list(KINDS)), "quarantine")


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_field_of_a_schema_has_a_column(kind: Any):
    leaves = [leaf.name for leaf in load(kind.schema).root.leaves()]
    named = {kind.record_id if name == "id" else name for name in leaves} - {"wasm_binary"}
    fields = [[*field.type] if pa.types.is_struct(field.type) else [field] for field in kind.table.schema]
    columns = {field.name for group in fields for field in group}
    assert named <= columns
    assert len(leaves) == len(set(leaves))
    assert set(kind.contents) - {"effective_hour", "execution_context"} <= columns


def test_a_version_does_not_change_from_one_release_to_the_next():
    document = task(payload={"a": 1}, metadata={"k": "v"})
    assert versions("task", document, received_at=None) == ["f6801d03b0cd28472c05f8122fc18043"]
    assert versions("execution_result", result(), received_at=None) == ["095fa2db1942bb99569a53f72f27c60e"]
    assert versions("agent", agent_record(capabilities=["a"]), received_at=NOON) == [
        "bf5f93999e0d765c295ff8937e9ed661"
    ]
