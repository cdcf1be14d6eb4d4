"""Messages become typed reports or explained quarantine rows."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.test_pipeline import TestPipeline as BeamPipeline
from apache_beam.testing.util import assert_that, equal_to

from schemas.readers import fast_reader
from schemas.readers.verdicts import MessageLimits
from schemas.registry import load
from tests.builders import NOON, agent, messages, payload, report
from transforms.validation import validate as module
from transforms.validation.quarantine_rows import bisect_faults
from transforms.validation.validate import MessageRules, Validate, judge_block

SCHEMA = load("kpi_report")


def judged(
    *documents: Any, received_at: datetime | None = NOON + timedelta(seconds=1)
) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    return judge_block(messages(documents, received_at), SCHEMA, MessageRules())


def reason(document: Any) -> tuple[str, str | None, str | None]:
    reports, refused = judged(document)
    assert (reports.num_rows, refused.num_rows) == (0, 1)
    row = refused.to_pylist()[0]
    assert row["payload"] == payload(document)
    assert row["message"]
    return row["reason"], row["field"], row["rule"]


def test_a_valid_report_keeps_every_field_with_its_type() -> None:
    full = report(
        7,
        network_bytes=1234.0,
        custom_metrics={"b": 1, "a": 0.5},
        gpu_utilization=0.25,
        error_details={"code": 3, "at": [1, 2]},
        source_layer="layer2",
        target_agent_type="gpu",
        priority=75,
        execution_context={
            "hostname": "node-1",
            "available_cores": 8.0,
            "available_memory_mb": 16384,
            "gpu_info": {"name": "x"},
            "network_interfaces": ["eth0", "lo"],
        },
    )
    reports, _ = judged(full)
    row = reports.to_pylist()[0]
    assert row["task_id"] == full["task_id"]
    assert row["recorded_at"] == NOON
    assert row["network_bytes"] == 1234
    assert row["custom_metrics"] == [("a", 0.5), ("b", 1.0)]
    assert row["error_details"] == '{"at":[1,2],"code":3}'
    assert row["execution_context"]["available_cores"] == 8
    assert row["execution_context"]["gpu_info"] == '{"name":"x"}'
    assert row["execution_context"]["network_interfaces"] == ["eth0", "lo"]
    assert (row["source"], row["message_id"], row["schema_version"], row["context"]) == (
        "test",
        "m0",
        1,
        False,
    )


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("{", ("json", None, None)),
        ("", ("json", None, None)),
        ('{"latency_ms": NaN}', ("json", None, None)),
        ('{"latency_ms": -Infinity}', ("json", None, None)),
        ('{"latency_ms": 1e400}', ("json", None, None)),
        ('{"a": "\\ud800"}', ("json", None, None)),
        ('{"a": 1} {"a": 2}', ("json", None, None)),
        (b'\xef\xbb\xbf{"a": 1}', ("json", None, None)),
        (b'{"a": "\xff"}', ("utf8", None, None)),
        ('{"a": 1, "a": 1}', ("duplicate_key", "a", None)),
        ('{"a": {"b": 1, "\\u0062": 2}}', ("duplicate_key", "b", None)),
        ("[1]", ("not_object", None, None)),
        ("null", ("not_object", None, None)),
        ('{"a": ' + "[" * 40 + "]" * 40 + "}", ("depth", None, None)),
        ("[" * 100_000, ("depth", None, None)),
        (report(odd={"a": json.loads("[" * 31 + "]" * 31)}), ("depth", None, None)),
        (report(latency_ms=...), ("schema", "latency_ms", "required")),
        (report(latency_ms=0), ("schema", "latency_ms", "exclusiveMinimum")),
        (report(latency_ms=True), ("schema", "latency_ms", "type")),
        (report(accuracy="1"), ("schema", "accuracy", "type")),
        (report(accuracy=1.0000001), ("schema", "accuracy", "maximum")),
        (report(memory_mb=None), ("schema", "memory_mb", "type")),
        (report(network_bytes=1.5), ("schema", "network_bytes", "type")),
        (report(network_bytes=2**63), ("schema", "network_bytes", "exclusiveMaximum")),
        (report(task_id="x"), ("schema", "task_id", "format")),
        (report(recorded_at="2025-02-29T00:00:00Z"), ("schema", "recorded_at", "format")),
        (report(custom_metrics={"k" * 101: 1}), ("schema", "custom_metrics", "maxLength")),
        (report(custom_metrics={"k": None}), ("schema", "custom_metrics.k", "type")),
        (report(priority=2), ("schema", "priority", "enum")),
        (
            report(execution_context={"hostname": "h"}),
            ("schema", "execution_context.available_cores", "required"),
        ),
        (report(execution_context=[]), ("schema", "execution_context", "type")),
        (report(at=NOON - timedelta(hours=1, seconds=1)), ("stale", "recorded_at", "recency")),
        (report(at=NOON + timedelta(seconds=62)), ("future", "recorded_at", "recency")),
    ],
)
def test_a_refused_message_says_why_and_keeps_its_bytes(
    document: Any, expected: tuple[str, str | None, str | None]
) -> None:
    assert reason(document) == expected


def test_a_line_of_five_megabytes_is_oversize_and_its_neighbours_are_not_hurt() -> None:
    reports, refused = judged(report(1), report(2, extra_text="x" * 5_000_000), report(3))
    assert reports["message_id"].to_pylist() == ["m0", "m2"]
    assert refused["reason"].to_pylist() == ["oversize"]


def test_broken_rows_cost_no_neighbour() -> None:
    documents = [
        report(i) if i % 3 else ["{", b"\xff", report(i, accuracy=2), '{"a":1}{"a":2}'][i // 3 % 4]
        for i in range(1000)
    ]
    reports, refused = judged(*documents)
    assert sorted(reports["message_id"].to_pylist()) == sorted(f"m{i}" for i in range(1000) if i % 3)
    assert refused.num_rows == 334


@pytest.mark.parametrize("odd", range(6))
def test_a_report_stays_with_its_own_message_where_rows_of_a_block_do_not_fit_together(odd: int) -> None:
    documents = [report(i, error_details=[[1]] if i == odd else {"code": i}) for i in range(6)]
    reports, _ = judged(*documents)
    told = {f"m{i}": document["task_id"] for i, document in enumerate(documents)}
    assert dict(zip(reports["message_id"].to_pylist(), reports["task_id"].to_pylist())) == told


def test_ordinary_reports_take_the_fast_path() -> None:
    context = report()["execution_context"]
    documents = [
        report(1),
        report(2, network_bytes=5, gpu_utilization=None, custom_metrics={"a": 1}),
        report(3, custom_metrics={"b": 1}, execution_context=context | {"gpu_info": None}),
        report(4, error_details={"code": 1}, custom_metrics=None),
        report(5, unknown=[1, 2], execution_context=context | {"rack": "r1"}),
        report(6, agent_id=agent(1).upper(), recorded_at="2025-10-22T14:00:00.123456789+02:00"),
    ]
    batch = messages(documents)
    assert fast_reader.read_block(
        SCHEMA.root, batch["payload"], MessageLimits()
    ).accepted.rows.tolist() == list(range(len(documents)))


def test_unknown_fields_are_kept_with_their_nulls_wherever_they_stand() -> None:
    context = report()["execution_context"] | {"rack": {"row": 1}}
    reports, _ = judged(
        report(1, zone=None), report(2, execution_context=context), report(3), report(4, big=2**70)
    )
    extra = dict(zip(reports["message_id"].to_pylist(), reports["extra"].to_pylist()))
    assert extra == {
        "m0": '{"zone":null}',
        "m1": '{"execution_context":{"rack":{"row":1}}}',
        "m2": None,
        "m3": '{"big":1180591620717411303424}',
    }


def test_what_a_block_holds_beside_a_row_changes_nothing_about_the_row() -> None:
    odd = [report(i, zone=[i, "x", {"y": i}][i % 3], custom_metrics={f"k{i}": i, "n": 1}) for i in range(60)]
    together, _ = judged(*odd)
    alone = [judged(document)[0].to_pylist()[0] for document in odd]
    rows = sorted(together.to_pylist(), key=lambda row: row["task_id"])
    assert [row | {"message_id": "m0"} for row in rows] == sorted(alone, key=lambda row: row["task_id"])


def test_recency_is_judged_to_the_microsecond_and_its_bounds_are_allowed() -> None:
    instant, received = timedelta(microseconds=1), NOON + timedelta(seconds=1)
    oldest, newest = received - timedelta(seconds=3600), received + timedelta(seconds=60)
    documents = [
        report(i, at=at) for i, at in enumerate((oldest - instant, oldest, newest, newest + instant))
    ]
    reports, refused = judged(*documents, received_at=received)
    assert reports["message_id"].to_pylist() == ["m1", "m2"]
    assert dict(zip(refused["message_id"].to_pylist(), refused["reason"].to_pylist())) == {
        "m0": "stale",
        "m3": "future",
    }


def test_recency_is_not_asked_of_a_message_without_a_time() -> None:
    reports, refused = judged(report(at=datetime(1999, 2, 28, tzinfo=UTC)), received_at=None)
    assert (reports.num_rows, refused.num_rows) == (1, 0)


def test_a_kernel_that_raises_costs_only_the_row_at_fault() -> None:
    def kernel(batch: pa.RecordBatch) -> int:
        if "m3" in batch["message_id"].to_pylist():
            raise ZeroDivisionError("no")
        return batch.num_rows

    results, faults = bisect_faults(kernel, messages([report(i) for i in range(8)]))
    assert sum(results) == 7
    assert [(row["message_id"].to_pylist(), why.reason, why.message) for row, why in faults] == [
        (["m3"], "error", "ZeroDivisionError: no")
    ]


def test_the_transform_quarantines_a_row_at_which_a_kernel_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(batch: pa.RecordBatch, *_: Any) -> Any:
        if "m1" in batch["message_id"].to_pylist():
            raise ZeroDivisionError("no")
        return judge_block(batch, SCHEMA, MessageRules())

    monkeypatch.setattr(module, "judge_block", kernel)
    with BeamPipeline() as pipeline:
        judged = pipeline | beam.Create([messages([report(i) for i in range(3)])]) | Validate()
        assert_that(
            judged.reports | beam.FlatMap(lambda b: b["message_id"].to_pylist()),
            equal_to(["m0", "m2"]),
            "reports",
        )
        assert_that(
            judged.quarantine | beam.FlatMap(lambda b: b["reason"].to_pylist()),
            equal_to(["error"]),
            "quarantine",
        )


def test_a_custom_metric_beyond_the_limit_is_refused_by_name_and_one_at_it_is_not() -> None:
    rules = MessageRules(custom_metric_limit=1000.0)
    values = [1000.0, -1000, 1000.5, -1e9, 10**30]
    sent = messages([report(custom_metrics={"a": 1.0, "b": value}) for value in values])
    reports, refused = judge_block(sent, SCHEMA.bounded(1000.0), rules)
    assert reports["message_id"].to_pylist() == ["m0", "m1"]
    assert [refused[name].to_pylist() for name in ("field", "rule")] == [
        ["custom_metrics.b"] * 3, ["maximum", "minimum", "maximum"]
    ]  # fmt: skip


def test_a_limit_is_part_of_what_validate_judges_by() -> None:
    with BeamPipeline() as pipeline:
        given = pipeline | beam.Create([messages([report(custom_metrics={"a": 11})])], reshuffle=False)
        judged = given | Validate(MessageRules(custom_metric_limit=10.0))
        counts = judged.quarantine | beam.Map(lambda rows: rows["rule"].to_pylist())
        assert_that(counts, equal_to([["maximum"]]))
