"""A change of level in a stream is in the table `trends` once the stream has passed it, and a backfill of
what the job archived gives the same table."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.builders import payload, report
from tests.integration.streaming import KEY, Scene
from transforms.derived.trends import TRENDS
from transforms.sinks.parquet.parquet_file import read_file

pytest.importorskip("ruptures")
pytestmark = [pytest.mark.slow, pytest.mark.chaos]

DERIVE = ("--derive", "always", "--context-wait-seconds", "5")
MINUTE = timedelta(minutes=1)
MINUTES, CHANGE = 50, 34
"""Minutes of the past with a report each, and the one from which latencies are twice as long."""


def make_past(seed: int) -> list[tuple[datetime, dict[str, Any]]]:
    """When each report was recorded and sent, and the report."""
    start = datetime.now(UTC).replace(second=0, microsecond=0) - (MINUTES + 3) * MINUTE
    noise = np.random.default_rng(seed).standard_normal(MINUTES)
    latency = 200 * np.exp(0.1 * noise) * np.where(np.arange(MINUTES) < CHANGE, 1, 2)
    moments = [start + minute * MINUTE for minute in range(MINUTES)]
    return [
        (moment, report(number, moment, latency_ms=round(each, 3)))
        for number, (moment, each) in enumerate(zip(moments, latency.tolist()))
    ]


def send(scene: Scene, reports: Iterable[tuple[datetime, dict[str, Any]]]) -> None:
    """Put reports into the stream, each with the time at which it was recorded as that of its entry."""
    with scene.server.client() as client:
        for moment, each in reports:
            client.xadd(KEY, {"data": payload(each)}, id=f"{int(moment.timestamp() * 1000)}-*")


def list_files(scene: Scene) -> list[Path]:
    """The files of the table, without those that are being written."""
    paths = (scene.output / TRENDS.name).rglob("*.parquet")
    return sorted(path for path in paths if not path.name.startswith("."))


def read_changes(scene: Scene) -> list[dict[str, Any]]:
    """The changes of latency in the table."""
    paths = list_files(scene)
    rows = pa.Table.from_batches([read_file(path, TRENDS.schema.names) for path in paths], TRENDS.schema)
    return [row for row in rows.to_pylist() if row["kind"] == "change" and row["metric"] == "latency_ms"]


def test_a_change_in_a_stream_is_in_the_table_once_the_stream_has_passed_it(scene: Scene, seed: int) -> None:
    past = make_past(seed)
    send(scene, past[:CHANGE])
    scene.start(*DERIVE, "--derive-seconds", "2")
    scene.until(lambda: len(list_files(scene)) == CHANGE)
    assert read_changes(scene) == []
    send(scene, past[CHANGE:])
    scene.until(lambda: any(row["level"] == "agent" for row in read_changes(scene)))
    (change,) = (row for row in read_changes(scene) if row["level"] == "agent")
    assert change["verdict"] == "raised"
    assert abs(change["changed_at"] - past[CHANGE][0]) <= 2 * MINUTE
    assert 1.7 < change["after"] / change["before"] < 2.3
    assert timedelta(0) <= change["time_window_start"] - past[CHANGE][0] <= 10 * MINUTE
    scene.runs[-1].terminate()
    scene.runs[-1].wait()
    scene.finish(*DERIVE)
    backfilled = scene.folder / "backfilled"
    scene.ask("backfill", "--input", scene.folder / "archive", "--output", backfilled, *DERIVE)
    compared = json.loads(scene.ask("parity", scene.output, backfilled, "--identity", "--json"))
    assert compared["equal"]
    assert compared["tables"][TRENDS.name]["equal"] > 0
