"""kpiflow recommend: what it prints, and what is wrong use."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.cli import run
from pipelines.settings import Settings
from schemas.tables import LAYOUT_VERSION
from tests.benchmarks.recommendations import make_series
from tests.pipelines.summary.test_queries import store
from transforms.derived.recommendation_rules import RECOMMENDATION_RULES
from transforms.derived.recommendations import TABLE
from transforms.derived.run import derive_rows

SOON = ("--at", "2025-10-22T23:00:00Z")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recommend")
    settings = Settings()
    described = {"layout": LAYOUT_VERSION, "schemas": {}, "settings": settings.row_settings()}
    (folder / "_kpiflow.json").write_text(json.dumps(described))
    sums = [make_series(rule, 0.3, 1, 20, 1, 12) for rule in RECOMMENDATION_RULES[::2]]
    stored = {"outcome_sums": pa.concat_tables(sums)}
    store(folder, TABLE.table, derive_rows(TABLE, stored, settings.derived_settings()).to_pylist())
    return folder


def test_open_recommendations_say_what_why_and_until_when(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["recommend", str(output), "--rule", "raise_memory_quota", *SOON]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "raise max_memory_mb of tasks for subject 0, from a mean of 1000 MB" in text
    assert "more than 5 % of the tasks use over 95 % of their memory quota" in text
    assert "until 2025-10-23T12:00:00" in text


def test_json_has_the_evidence(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recommend", str(output), "--json", "--subject", "subject 0", *SOON]) == 0
    found = json.loads(capsys.readouterr().out)["recommendations"]
    rules = {row["rule"] for row in found}
    assert rules == {"raise_memory_quota", "raise_cpu_quota", "raise_time_quota", "fix_producer"}
    assert all(row["evidence"]["low"] > row["evidence"]["limit"] for row in found)


def test_what_has_expired_is_not_open(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recommend", str(output)]) == 0
    assert "no open recommendations" in capsys.readouterr().out
    assert run(["recommend", str(output), "--all"]) == 0
    assert "fix_producer of source subject 0: new" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "fault"), [(["--rule", "raise_quota"], "no rule is called"), (["--at", "soon"], "--at")]
)
def test_wrong_use_names_the_fault(
    words: list[str], fault: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["recommend", str(output), *words]) == 2
    assert fault in capsys.readouterr().err
