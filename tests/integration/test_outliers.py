"""The outliers that the generator hides are found, and little else is taken for one."""

import json
from pathlib import Path

import pytest

from pipelines.cli import run
from schemas.tables import METRICS, REPORTS
from tests.integration.archives import rows

SCENARIOS = {
    "anomaly": ["--reports", "8000", "--agents", "10"],
    "normal": ["--reports", "12000", "--agents", "4", "--span", "24h"],
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_flags_reach_nine_in_ten_in_precision_and_recall(tmp_path: Path, scenario: str) -> None:
    generate = [
        "generate",
        "--output",
        str(tmp_path / "in"),
        "--scenario",
        scenario,
        "--outliers",
        "0.02",
        *SCENARIOS[scenario],
    ]
    assert run(generate) == 0
    assert run(["backfill", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 0
    truth = json.loads((tmp_path / "in" / "truth.json").read_text())
    hidden = {(metric, task) for metric in METRICS for task in truth["outlier_task_ids"][metric]}
    columns = {metric: f"is_{metric}_outlier" for metric in METRICS}
    found = {
        (metric, row["task_id"])
        for row in rows(tmp_path / "out", REPORTS, ["task_id", *columns.values()])
        for metric, column in columns.items()
        if row[column]
    }
    assert len(hidden) >= 100
    for metrics in [METRICS, *([metric] for metric in METRICS)]:
        flagged, pushed = ({each for each in every if each[0] in metrics} for every in (found, hidden))
        precision, recall = len(flagged & pushed) / len(flagged), len(flagged & pushed) / len(pushed)
        assert min(precision, recall) >= 0.9, (metrics, precision, recall)
