"""The rivals say what kpiflow says, on a generated archive and on messages chosen to be misjudged."""

import importlib
import json
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.registry import load
from tests.benchmarks.rivals.equal import UnequalError, likeness
from tests.builders import NOON, report
from transforms.sources.archives.archive_files import find_files
from transforms.sources.archives.archive_reader import Chunk, read_files
from transforms.validation.validate import MessageRules, judge_block

ROOT = Path(__file__).parents[2]
KPIFLOW = [sys.executable, "-m", "pipelines.cli"]
RIVALS = ("duckdb", "polars")
CONTEXT = report()["execution_context"]
pytestmark = pytest.mark.threads


def run_rival(name: str, source: Path, output: Path) -> None:
    """Run a rival's job, whose module is imported now: Polars begins a thread when it is."""
    importlib.import_module(f"tests.benchmarks.rivals.{name}_job").run(source, output)


def text_of(**fields: Any) -> str:
    """A report as JSON text."""
    return json.dumps(report(**fields))


def metrics(**values: Any) -> dict[str, Any]:
    """A report with these metrics of its own."""
    return report(custom_metrics=values)


def context(**fields: Any) -> dict[str, Any]:
    """A report whose execution_context has these fields."""
    return report(execution_context=CONTEXT | fields)


HOSTILE: dict[str, Any] = {
    "plain": report(),
    "a number as text": report(latency_ms="120"),
    "a truth value for a number": report(accuracy=True),
    "an optional number as text": report(gpu_utilization="0.5"),
    "a number for text": report(source_layer=5),
    "a number for a hostname": context(hostname=5),
    "a whole float for an integer": report(priority=25.0, network_bytes=5e3),
    "a fraction for an integer": report(network_bytes=5.5),
    "no priority that there is": report(priority=60),
    "optional nulls": report(priority=None, network_bytes=None, custom_metrics=None, error_details=None),
    "a required null": report(memory_mb=None),
    "a null context": report(execution_context=None),
    "a text for a context": report(execution_context="node-1"),
    "a name twice": text_of()[:-1] + ',"accuracy":0.5}',
    "an optional name twice": text_of(priority=25)[:-1] + ',"priority":50}',
    "a name twice in the context": text_of().replace('"hostname"', '"hostname": "x", "hostname"'),
    "a metric twice": text_of(custom_metrics={"a": 1}).replace('"a": 1', '"a": 1, "a": 2'),
    "metrics": metrics(a=1, b=2.5, c=-1e-3),
    "no metrics": metrics(),
    "a metric as text": metrics(a="1"),
    "a null metric": metrics(a=None),
    "a nested metric": metrics(a={"b": 1}),
    "a long name of a metric": metrics(**{"m" * 101: 1}),
    "metrics in a list": report(custom_metrics=[1]),
    "metrics that are infinite": text_of(custom_metrics={"a": 0}).replace('"a": 0', '"a": 1e400'),
    "a gpu": context(gpu_info={"model": "A100", "memory_mb": 40960}),
    "a nested gpu": context(gpu_info={"model": {"accuracy": 5}}),
    "a gpu as text": context(gpu_info="A100"),
    "interfaces": context(network_interfaces=["eth0", "lo"]),
    "no interfaces": context(network_interfaces=[]),
    "a number for an interface": context(network_interfaces=["eth0", 1]),
    "a null interface": context(network_interfaces=["eth0", None]),
    "an error as text": report(error_details='a } brace and a " quote'),
    "an error as a number": report(error_details=5),
    "an error that names fields": report(error_details={"accuracy": "none", "priority": {"x": [1, None]}}),
    "nested 32 deep": report(error_details=json.loads("[" * 31 + "]" * 31)),
    "nested 33 deep": report(error_details=json.loads("[" * 32 + "]" * 32)),
    "an unknown field": report(notes={"a": [1, {"b": None}]}),
    "brackets in a text": report(source_layer="[{" * 40),
    "a uuid in capitals": report(task_id=report()["task_id"].upper()),
    "a uuid without dashes": report(task_id=report()["task_id"].replace("-", "")),
    "a uuid in braces": report(task_id="{" + report()["task_id"] + "}"),
    "an offset": report(recorded_at="2025-10-22T17:30:00+05:30"),
    "nine digits": report(recorded_at="2025-10-22T12:00:00.123456789Z"),
    "no zone": report(recorded_at="2025-10-22T12:00:00"),
    "a space in a time": report(recorded_at="2025-10-22 12:00:00Z"),
    "a day that is not": report(recorded_at="2025-02-29T12:00:00Z"),
    "an hour that is not": report(recorded_at="2025-10-22T24:00:00Z"),
    "a time as a number": report(recorded_at=1761134400),
    "an hour ago": report(at=NOON - timedelta(seconds=3599)),
    "more than an hour ago": report(at=NOON - timedelta(seconds=3600)),
    "in a minute": report(at=NOON + timedelta(seconds=61)),
    "in more than a minute": report(at=NOON + timedelta(seconds=62)),
    "at the upper bound": report(latency_ms=299_999.99, accuracy=1, cpu_usage=0),
    "beyond the upper bound": report(latency_ms=300_000),
    "beyond float64": text_of().replace("0.9", "1e400"),
    "not a number": text_of().replace("0.9", "NaN"),
    "cut": text_of()[:-20],
    "nothing": "",
    "a list": f"[{text_of()}]",
    "a text": json.dumps("report"),
    "a report as text": text_of(),
}  # fmt: skip


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An archive with all the generator's dirt, and kpiflow's tables of it."""
    folder = tmp_path_factory.mktemp("rivals")
    archive, tables = folder / "archive", folder / "tables"
    words = ["--scenario", "anomaly", "--reports", "4000", "--agents", "4", "--seed", "3"]
    for command in (
        ["generate", *words, "--output", archive],
        ["backfill", "--input", archive, "--output", tables],
    ):
        subprocess.run([*KPIFLOW, *map(str, command)], cwd=ROOT, check=True, capture_output=True)
    return archive, tables


@pytest.fixture(scope="module", params=RIVALS)
def rival(
    request: pytest.FixtureRequest, generated: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A rival's tables of the same archive."""
    output = tmp_path_factory.mktemp(request.param)
    run_rival(request.param, generated[0], output)
    return output


def test_a_rival_has_kpiflows_tables(rival: Path, generated: tuple[Path, Path]) -> None:
    archive, tables = generated
    found = likeness(tables, rival)
    truth = json.loads((archive / "truth.json").read_text())
    assert [found.rows[name] for name in ("kpi_reports", "quarantine", "duplicates")] == [
        truth[name] for name in ("reports", "quarantined", "duplicates")
    ]
    assert found.flags <= truth["reports"] // 1000


DIFFERENCES = [
    ("kpi_reports", "memory_mb", 1.0), ("kpi_reports", "is_cpu_outlier", True), ("kpi_reports",
    "latency_q3", 1.0),
    ("kpi_aggregations", "avg_accuracy", 0.5), ("kpi_aggregations", "latency_p95_ms", 1.0),
    ("kpi_aggregations", "task_count", 7),
    ("quarantine", "reason", "utf8"), ("duplicates", "message_id", "another"),
]  # fmt: skip


def test_a_value_that_differs_is_noticed(rival: Path, generated: tuple[Path, Path], tmp_path: Path) -> None:
    for table, column, value in DIFFERENCES:
        shutil.copytree(rival, tmp_path, dirs_exist_ok=True)
        path = tmp_path / f"{table}.parquet"
        rows = pq.read_table(path)
        place = rows.column_names.index(column)
        values = pa.array([*rows[column].to_pylist()[:-1], value], rows.schema.field(place).type)
        pq.write_table(rows.set_column(place, rows.schema.field(place), values), path)
        with pytest.raises(UnequalError):
            likeness(generated[1], tmp_path)


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_judges_hostile_messages_as_kpiflow_does(name: str, tmp_path: Path) -> None:
    received = NOON.isoformat().replace("+00:00", "Z")
    lines = [
        json.dumps({"message_id": key, "received_at": received, "data": data})
        for key, data in HOSTILE.items()
    ]
    source = tmp_path / "archive"
    source.mkdir()
    (source / "hostile.ndjson").write_text("".join(f"{line}\n" for line in lines))
    run_rival(name, source, tmp_path)
    assert judged(tmp_path) == expected(source)


def judged(output: Path) -> dict[str, str]:
    """The reason of each message in a rival's tables, nothing of a report."""
    wrong = pq.read_table(output / "quarantine.parquet", columns=["message_id", "reason"]).to_pydict()
    paths = [output / f"{table}.parquet" for table in ("kpi_reports", "duplicates")]
    fine = [name for path in paths for name in pq.read_table(path)["message_id"].to_pylist()]
    return dict.fromkeys(fine, "") | dict(zip(wrong["message_id"], wrong["reason"]))


def expected(source: Path) -> dict[str, str]:
    """The same by kpiflow."""
    (chunk,) = read_files(find_files([str(source)]))
    assert isinstance(chunk, Chunk)
    reports, wrong = judge_block(chunk.messages, load("kpi_report"), MessageRules())
    refused = zip(wrong["message_id"].to_pylist(), wrong["reason"].to_pylist())
    return dict.fromkeys(reports["message_id"].to_pylist(), "") | dict(refused)
