"""kpiflow recommend: what it prints, and what is wrong use."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.cli import run
from pipelines.settings import Settings
from schemas.tables import LAYOUT_VERSION
from tests.benchmarks.recommendations import SHARE_RULES, make_series
from tests.pipelines.summary.test_queries import store
from tests.transforms.derived.test_change_rules import change, slope
from transforms.derived.recommendations import TABLE
from transforms.derived.run import derive_rows
from transforms.derived.trends import TRENDS

SOON = ("--at", "2025-10-22T23:00:00Z")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recommend")
    settings = Settings()
    described = {"layout": LAYOUT_VERSION, "schemas": {}, "settings": settings.row_settings()}
    (folder / "_kpiflow.json").write_text(json.dumps(described))
    sums = [make_series(rule, 0.3, 1, 20, 1, 12) for rule in SHARE_RULES[::2]]
    trends = [slope("latency_ms"), change("latency_ms", 30, 0.5, agent_id="a\nb")]
    stored = {
        "outcome_sums": pa.concat_tables(sums),
        "trends": pa.Table.from_pylist(trends, schema=TRENDS.schema),
    }
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


def test_an_agent_that_changed_is_shown_with_the_size_of_the_change(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["recommend", str(output), "--rule", "slower_agent", *SOON]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "slower_agent of agent a\\nb: new" in text
    assert "seen: latency_ms +50.0% (+25.0% to +100.0%) since 2025-10-22T12:25:00.000000Z" in text


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
