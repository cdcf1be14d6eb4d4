"""The reader and the score of the Numenta Anomaly Benchmark, on a tiny folder of its shape."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.nab import LEARNING, Series, read_series, score

WINDOW = ["2014-01-01 01:00:00.000000", "2014-01-01 01:19:00.000000"]


@pytest.fixture
def series(tmp_path: Path) -> list[Series]:
    """Two hours of a value a minute, with a window of 20 minutes."""
    (tmp_path / "data" / "group").mkdir(parents=True)
    (tmp_path / "labels").mkdir()
    rows = [f"2014-01-01 {n // 60:02}:{n % 60:02}:00,{n % 7}" for n in range(120)]
    (tmp_path / "data" / "group" / "a.csv").write_text("\n".join(["timestamp,value", *rows]))
    labels = {"group/a.csv": [WINDOW]}
    (tmp_path / "labels" / "combined_windows.json").write_text(json.dumps(labels))
    return read_series(tmp_path)


def test_series_and_their_windows_are_read(series: list[Series]) -> None:
    assert [(each.name, each.windows) for each in series] == [("group/a.csv", [(60, 79)])]
    assert series[0].values.tolist()[:8] == [0, 1, 2, 3, 4, 5, 6, 0]


def test_no_detection_is_0_and_the_first_point_is_100(series: list[Series]) -> None:
    assert score(series, [[]]) == 0
    assert score(series, [[60]]) == pytest.approx(100)
    assert 50 <= score(series, [[79]]) < score(series, [[65]]) < 100


def test_false_detections_cost_and_those_of_the_learning_part_do_not_count(series: list[Series]) -> None:
    assert score(series, [[60, 40]]) < score(series, [[60, 82]]) < score(series, [[60]])
    assert score(series, [[int(LEARNING * 120) - 1]]) == 0
