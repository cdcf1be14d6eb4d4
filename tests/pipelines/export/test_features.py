"""`kpiflow features`: rows, labels, the dictionary of columns, encodings."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder

from pipelines.cli import run
from pipelines.export import dictionary, encoding, export
from pipelines.export.feature_rows import SCHEMA, iterate_hours
from pipelines.failures import RunFailed
from pipelines.settings import Settings
from schemas.tables import FLAGS, LAYOUT_VERSION, REPORTS, RESULTS
from tests.docs.column_texts import make_texts
from tests.pipelines.summary.test_queries import store
from transforms.core.time_range import Span
from transforms.derived.features import FEATURES

ROOT = Path(__file__).parents[3]
NOON = datetime(2025, 10, 20, 12, tzinfo=UTC)
DAY = timedelta(hours=24)


def at(hours: float) -> datetime:
    return NOON + timedelta(hours=hours)


def feature(number: int, hours: float = 0, **columns: Any) -> dict[str, Any]:
    named = {"agent_type": "retrieval", "source_layer": "layer2", "priority": 50}
    ids = {"report_id": f"{number:032x}", "task_id": f"t{number}", "agent_id": "a", "recorded_at": at(hours)}
    return named | ids | columns


def report(number: int, hours: float = 0, **columns: Any) -> dict[str, Any]:
    flags = dict.fromkeys((name for name in FLAGS.names if name.startswith("is_")), False)
    context = {"hostname": "h", "available_cores": 4, "available_memory_mb": 1024.0}
    kept = {"report_id": f"{number:032x}", "task_id": f"t{number}", "recorded_at": at(hours)}
    return flags | kept | {"execution_context": context, "latency_ms": 100.0 + number} | columns


def result(number: int, hours: float, version: str = "v", **columns: Any) -> dict[str, Any]:
    kept = {"task_id": f"t{number}", "version": version, "completed_at": at(hours), "effective_at": at(hours)}
    return kept | {"success": True, "execution_time_ms": 7} | columns


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Reports of three hours; a task without a result, one with two versions, one that ended a day later."""
    out = tmp_path / "out"
    out.mkdir()
    description = {"layout": LAYOUT_VERSION, "schemas": {}, "settings": Settings().row_settings()}
    (out / "_kpiflow.json").write_text(json.dumps(description))
    features = [feature(1), feature(2, 0.5, agent_type="coding", priority=None), feature(3, 1), feature(4, 2)]
    store(out, FEATURES, features)
    store(out, REPORTS, [report(1), report(2, 0.5), report(3, 1), report(4, 2)])
    results = [
        result(1, 0.1),
        result(2, 0.6, "a", success=False),
        result(2, 0.6, "b", effective_at=at(30), execution_time_ms=8),
        result(4, 27),
    ]
    store(out, RESULTS, results)
    return out


def export_rows(output: Path, *words: str) -> pd.DataFrame:
    target = output.parent / "features.parquet"
    assert run(["features", str(output), "--output", str(target), *words]) == 0
    return pq.read_table(target).to_pandas().set_index("report_id").sort_index()


def test_each_report_has_its_features_its_metrics_and_the_outcome_of_its_task(output: Path) -> None:
    rows = export_rows(output)
    assert rows["latency_ms"].tolist() == [101.0, 102.0, 103.0, 104.0]
    assert rows["agent_type"].tolist() == ["retrieval", "coding", "retrieval", "retrieval"]
    assert rows["available_cores"].tolist() == [4] * 4
    assert [None if pd.isna(each) else each for each in rows["label_success"]] == [True, True, None, None]
    assert rows["label_execution_time_ms"].tolist()[:2] == [7, 8]


def test_a_label_is_of_the_version_that_is_current_and_near_the_report(output: Path) -> None:
    store(output, RESULTS, [result(3, 25, "exactly a day later"), result(4, 26.0001, "too late")])
    rows = export_rows(output)
    assert [not pd.isna(each) for each in rows["label_success"]] == [True, True, True, False]


def test_a_file_among_the_tables_of_an_output_is_refused(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (output / "export.parquet", output / "features" / "export.parquet"):
        assert run(["features", str(output), "--output", str(path)]) == 2
        assert not path.exists()
    assert "where only tables belong" in " ".join(capsys.readouterr().err.split())


def test_only_reports_of_the_span_are_exported(output: Path) -> None:
    rows = export_rows(output, "--from", at(0.5).isoformat(), "--to", at(2).isoformat())
    assert rows["task_id"].tolist() == ["t2", "t3"]


def test_an_output_without_results_has_empty_labels(output: Path) -> None:
    for path in (output / RESULTS.name).rglob("*.parquet"):
        path.unlink()
    assert export_rows(output)["label_success"].isna().all()


def test_results_change_no_column_but_labels(output: Path) -> None:
    names = [name for name in SCHEMA.names if not name.startswith(dictionary.LABEL)]
    before = pa.Table.from_batches(iterate_hours(output, Span(), DAY)).select(names)
    store(output, RESULTS, [result(n, 0.2, "z", success=False, execution_time_ms=99) for n in range(1, 5)])
    assert pa.Table.from_batches(iterate_hours(output, Span(), DAY)).select(names).equals(before)


def test_every_column_is_explained_beside_the_file_and_in_it(output: Path) -> None:
    export_rows(output, "--encode")
    target = output.parent / "features.parquet"
    explained = json.loads((target.parent / "features.parquet.columns.json").read_text())
    schema = pq.read_schema(target)
    assert [each["name"] for each in explained] == schema.names
    assert [each["name"] for each in explained if not each.get("meaning") or not each.get("null_when")] == []
    assert schema.field("workload").metadata[b"meaning"].startswith(b"busy time")


def test_the_texts_of_columns_are_those_of_the_page() -> None:
    assert dictionary.load_texts() == make_texts(), "run python -m tests.docs.column_texts"


def test_categories_are_encoded(output: Path) -> None:
    rows = export_rows(output, "--encode")
    assert rows["agent_type=coding"].tolist() == [0, 1, 0, 0]
    assert rows["agent_type=retrieval"].tolist() == [1, 0, 1, 1]
    assert rows["source_layer_label"].tolist() == [0, 0, 0, 0]
    assert rows["priority_ordinal"].tolist() == [2, -1, 2, 2]


def test_a_kept_encoding_serves_again_and_knows_no_new_category(output: Path) -> None:
    first = export_rows(output, "--encode")
    encoder = output.parent / "features.parquet.skops"
    again = export_rows(output, "--encoder", str(encoder))
    pd.testing.assert_frame_equal(again, first)
    new = feature(5, 0.25, agent_type="vision", source_layer="layer9", priority=100)
    store(output, FEATURES, [new, feature(1), feature(2, 0.5)])
    store(output, REPORTS, [report(5, 0.25), report(1), report(2, 0.5)])
    row = export_rows(output, "--encoder", str(encoder)).loc[f"{5:032x}"]
    assert [row[name] for name in ("agent_type=coding", "agent_type=retrieval")] == [0, 0]
    assert (row["source_layer_label"], row["priority_ordinal"]) == (-1, 4)


def test_columns_without_any_category_have_no_encoding(output: Path) -> None:
    plain = [feature(n, n / 9, agent_type=None, source_layer=None, priority=None) for n in (1, 2)]
    for table in (FEATURES, REPORTS):
        for path in (output / table.name).rglob("*.parquet"):
            path.unlink()
    store(output, FEATURES, plain)
    store(output, REPORTS, [report(n, n / 9) for n in (1, 2)])
    rows = export_rows(output, "--encode")
    assert [name for name in rows if "=" in name or name.endswith(("_label", "_ordinal"))] == [
        "priority_ordinal"
    ]


class Foreign:
    """A type that no encoding has."""


@pytest.mark.parametrize("content", ["a dict", "a foreign type", "text", "nothing"])
def test_a_file_that_is_no_encoding_is_refused(
    output: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = output.parent / "encoder.skops"
    if content == "text":
        path.write_text("no encoding")
    elif content != "nothing":
        path.write_bytes(skops.io.dumps({"a": 1} if content == "a dict" else Foreign()))
    words = ["--output", str(output.parent / "f.parquet"), "--encoder", str(path)]
    assert run(["features", str(output), *words]) == 2
    assert "of an earlier `kpiflow features --encode`" in capsys.readouterr().err
    assert not (output.parent / "f.parquet").exists()


CATEGORIES = pd.DataFrame({"agent_type": ["retrieval"], "source_layer": ["layer2"], "priority": [50]})
OTHER_PIPELINES = {
    "a column that is not encoded": [("ordinal", OrdinalEncoder(), ["source_layer"])],
    "an encoder that fails on a new category": [
        ("one_hot", OneHotEncoder(sparse_output=False), ["agent_type"]),
        ("ordinal", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["priority"]),
    ],
    "a calculation": [("ordinal", FunctionTransformer(feature_names_out="one-to-one"), ["priority"])],
    "what is passed through": [("ordinal", "passthrough", ["priority"])],
}


@pytest.mark.parametrize("parts", OTHER_PIPELINES.values(), ids=list(OTHER_PIPELINES))
def test_a_pipeline_that_another_program_made_is_refused(
    output: Path, parts: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path, target = output.parent / "encoder.skops", output.parent / "f.parquet"
    path.write_bytes(skops.io.dumps(ColumnTransformer(parts).fit(CATEGORIES)))
    assert run(["features", str(output), "--output", str(target), "--encoder", str(path)]) == 2
    assert "of an earlier `kpiflow features --encode`" in capsys.readouterr().err
    assert not target.exists()


def test_an_output_without_features_names_the_command_that_makes_the_table(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (output / FEATURES.name).rglob("*.parquet"):
        path.unlink()
    assert run(["features", str(output), "--output", str(output.parent / "f.parquet")]) == 2
    assert f"`kpiflow derive {output}` makes it" in capsys.readouterr().err


@pytest.mark.parametrize("span", [[], ["--from", "2025-10-20T00:00:00Z", "--to", "2025-10-21T00:00:00Z"]])
def test_reports_without_features_are_counted_and_not_left_out_in_silence(
    output: Path, span: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["features", str(output), "--output", str(output.parent / "f.parquet"), *span]
    assert run(words) == 0
    assert "without features" not in capsys.readouterr().err
    for path in (output / FEATURES.name / "date=2025-10-20" / "hour=13").glob("*.parquet"):
        path.unlink()
    assert run(words) == 0
    assert re.search(rf"without features yet: [1-9] reports? .*; `kpiflow derive {output}`", one_line(capsys))


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_features_of_a_report_that_is_gone_are_no_export(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (output / REPORTS.name / "date=2025-10-20" / "hour=13").glob("*.parquet"):
        path.unlink()
    target = output.parent / "f.parquet"
    assert run(["features", str(output), "--output", str(target)]) == 3
    assert f"run `kpiflow derive {output}`" in capsys.readouterr().err
    assert list(target.parent.iterdir()) == [output]


def test_a_file_that_cannot_be_written_is_a_failed_run_with_its_fix(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = output.parent / f"{'n' * 240}.parquet"  # the names beside it are too long
    assert run(["features", str(output), "--output", str(target)]) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert f"cannot write {target}: File name too long" in said
    assert "give --output another file" in said
    assert list(target.parent.iterdir()) == [output]


def test_a_run_that_dies_leaves_the_file_of_the_run_before(output: Path) -> None:
    export_rows(output)
    target = output.parent / "features.parquet"
    before = target.read_bytes()
    program = (
        "import os, sys\n"
        "from pipelines.export import export\n"
        "export.os.replace = lambda *names: os._exit(9)\n"
        "from pipelines.cli import run\n"
        f"run(['features', {str(output)!r}, '--output', {str(target)!r}, '--encode'])\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=os.environ, check=False)
    assert ended.returncode == 9
    assert target.read_bytes() == before
    assert len(export_rows(output, "--encode")) == 4
    left = {path.name for path in target.parent.iterdir()} - {"out"}
    assert left == {"features.parquet", "features.parquet.columns.json", "features.parquet.skops"}


def test_a_run_that_fails_while_it_encodes_leaves_the_encoding_of_the_run_before(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: encoding.Encoder, rows: pa.RecordBatch) -> list[pa.Array]:
        raise RunFailed("no more")

    export_rows(output, "--encode")
    target = output.parent / "features.parquet"
    kept = target.with_name("features.parquet.skops")
    before = target.read_bytes(), kept.read_bytes()
    store(output, FEATURES, [feature(5, 0.25, agent_type="vision")])
    store(output, REPORTS, [report(5, 0.25)])
    monkeypatch.setattr(encoding.Encoder, "encode", fail)
    assert run(["features", str(output), "--output", str(target), "--encode"]) == 3
    assert (target.read_bytes(), kept.read_bytes()) == before


def test_hours_are_read_one_at_a_time(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def count(*arguments: Any) -> Iterator[pa.RecordBatch]:
        for rows in iterate_hours(*arguments):
            seen.append(rows.num_rows)
            yield rows

    monkeypatch.setattr(export, "iterate_hours", count)
    export_rows(output)
    assert seen == [2, 1, 1]
