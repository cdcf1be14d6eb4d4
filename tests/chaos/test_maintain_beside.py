"""A stream that writes the rows of today while `kpiflow maintain` seals older days and moves them away."""

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.benchmarks.encryption import read_entries
from tests.chaos.faults import start_producer
from tests.integration.streaming import KEY, Scene
from tests.patience import PATIENCE
from transforms.encryption.key_ring import forget_keys

pytestmark = [pytest.mark.slow, pytest.mark.chaos]
REPORTS = 1500
ROW_FILES = (".parquet", ".enc", ".ndjson")


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_stream_beside_seals_and_moves_loses_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, encrypted: bool
) -> None:
    forget_keys()
    if encrypted:
        scene.ask("keys", "new", scene.folder / "m.key")
        monkeypatch.setenv("KPIFLOW_MASTER_KEY", str(scene.folder / "m.key"))
        monkeypatch.setenv("KPIFLOW_ENCRYPT", "true")
    old = sum(add_entries(scene, days) for days in (40, 10))
    scene.start()
    scene.until(lambda: scene.read() == old)
    producer = start_producer(scene, reports=REPORTS, rate=1500)
    roots = ("--warm", scene.folder / "warm", "--cold", scene.folder / "cold", "--grace-seconds", 1)
    while producer.poll() is None:
        scene.ask("maintain", scene.output, *roots)
    assert producer.wait(PATIENCE) == 0
    scene.until(lambda: scene.read() == old + REPORTS)
    scene.ask("maintain", scene.output, *roots)
    scene.runs[-1].send_signal(signal.SIGINT)
    scene.runs[-1].wait(PATIENCE)
    scene.finish()
    scene.ask("maintain", scene.output, *roots)
    assert scene.prove()["received"] == old + REPORTS
    assert {tier: count_days(scene.folder / tier) for tier in ("warm", "cold")} == {"warm": 1, "cold": 1}
    roots_of_rows = [scene.folder / name for name in ("out", "warm", "cold", "archive")]
    files = [path for root in roots_of_rows for path in root.rglob("*") if path.suffix in ROW_FILES]
    heads = {path.read_bytes()[:4] for path in files if "_stream" not in path.parts}
    assert heads == ({b"PARE", b"kpia"} if encrypted else {b"PAR1", b'{"so'})
    forget_keys()


def add_entries(scene: Scene, days: int) -> int:
    """Put a stream's entries of an hour of a past day into Redis, under their own ids; how many."""
    folder = scene.folder / f"generated-{days}"
    start = datetime.now(UTC) - timedelta(days=days)
    words = ["--reports", 400, "--agents", 8, "--seed", days, "--span", "1h", "--dirty", "0"]
    scene.ask("generate", "--output", folder, *words, "--start", f"{start:%Y-%m-%dT10:00:00Z}")
    entries = read_entries(folder).to_pylist()
    with scene.server.client() as client:
        for entry in entries:
            client.xadd(KEY, {"data": entry["payload"][:-1]}, id=entry["message_id"])
    return len(entries)


def count_days(root: Path) -> int:
    """The days of reports that a root has."""
    return len(list((root / "kpi_reports").rglob("day.parquet")))
