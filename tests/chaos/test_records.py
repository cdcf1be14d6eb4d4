"""Reports and records that come late and out of order to a job that is killed: a backfill of what the job
archived gives the same stored and derived tables."""

import json
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas.kinds import KINDS, REPORT_KIND
from tests.builders import payload
from tests.chaos.faults import start_producer
from tests.integration.streaming import Scene, kill
from tests.patience import PATIENCE
from transforms.derived.registry import DERIVED

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

WAIT = ("--context-wait-seconds", "5")
DERIVE = ("--derive", "always", *WAIT)
KEYS = tuple(kind.stream for kind in KINDS.values())


def make_past(scene: Scene, reports: int, seed: int) -> list[dict[str, Any]]:
    """The messages of the past 50 minutes, in random order."""
    folder, start = scene.folder / "past", datetime.now(UTC) - timedelta(minutes=50)
    words = ["--records", "--reports", reports, "--agents", 8, "--span", "45m", "--start", start.isoformat()]
    scene.ask("generate", "--output", folder, "--inconsistent", 0.1, "--seed", seed, *words)
    lines = [line for path in folder.rglob("*.ndjson") for line in path.read_text().splitlines()]
    random.Random(seed).shuffle(lines)
    return [json.loads(line) for line in lines]


def send(scene: Scene, messages: Iterable[dict[str, Any]]) -> None:
    """Put messages into their streams."""
    with scene.server.client() as client:
        for message in messages:
            client.xadd(message["source"], {"data": payload(message["data"])})


def test_a_killed_job_gives_the_stored_and_derived_tables_of_a_backfill(scene: Scene, seed: int) -> None:
    """A part of the records comes after the wait of their reports, which resolves inconsistencies."""
    scene.keys = KEYS
    past = make_past(scene, 500, seed)
    is_late = [
        message["source"] != REPORT_KIND.stream and place % 5 == 0 for place, message in enumerate(past)
    ]
    send(scene, (message for message, late in zip(past, is_late) if not late))
    records = ["--records", "--inconsistent", "0.1", "--late", "0.1", "--duplicates", "0.05"]
    producer = start_producer(scene, 1000, 3000, *records)
    scene.start(*DERIVE, "--derive-seconds", "5")
    scene.until(lambda: scene.read() >= 1500 and any((scene.output / "features").rglob("*.parquet")))
    kill(scene.runs[-1], "all")
    send(scene, (message for message, late in zip(past, is_late) if late))
    assert producer.wait(PATIENCE) == 0
    scene.finish(*DERIVE)
    verdict = scene.verdict()
    assert [verdict[name] for name in ("missing", "surplus", "unreadable", "uncommitted")] == [0] * 4
    scene.ask("derive", scene.output, *WAIT)
    backfilled = scene.folder / "backfilled"
    scene.ask("backfill", "--input", scene.folder / "archive", "--output", backfilled, *DERIVE)
    compared = json.loads(scene.ask("parity", scene.output, backfilled, "--identity", "--json"))
    assert compared["equal"]
    tables = {*(kind.table.name for kind in KINDS.values()), *DERIVED}
    assert {name for name in tables if not compared["tables"][name]["equal"]} == set()
