"""Days that `kpiflow maintain` moves to object storage: read as before, and gone when they expire."""

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.cli import run
from pipelines.jobs.maintain import Maintenance
from pipelines.maintenance.steps import WRITTEN, ignore_point
from pipelines.settings import Settings
from tests.integration.archives import Typed
from tests.pipelines.maintenance.test_maintain import Killed
from tests.s3 import S3Server
from transforms.sinks.parquet.maintenance_ledger import COLD, WARM, read_ledger
from transforms.storage.local_folder import LocalFolder

START = datetime(2026, 1, 1, 20, tzinfo=UTC)
"""The reports are of two days."""


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        for tier in (WARM, COLD):
            server.make_bucket(tier)
        yield server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive `a`, and its output `plain`."""
    folder = tmp_path_factory.mktemp("made")
    few = ["--reports", "200", "--agents", "3", "--span", "8h", "--start", f"{START:%FT%TZ}"]
    assert run(["generate", "--output", str(folder / "a"), *few]) == 0
    assert run(["backfill", "--input", str(folder / "a"), "--output", str(folder / "plain")]) == 0
    return folder


def kill_before_the_ledger(point: str) -> None:
    if point == WRITTEN:
        raise Killed(point)


def test_days_on_object_storage_are_read_as_before_and_expire(
    server: S3Server, made: Path, tmp_path: Path, typed: Typed
) -> None:
    output, urls = tmp_path / "out", {tier: server.url(tier, "kpi") for tier in (WARM, COLD)}
    shutil.copytree(made / "plain", output)

    def maintain(days: int, reach=ignore_point, **more) -> None:
        def clock() -> datetime:
            return START + timedelta(days=days)

        Maintenance(output, Settings(), urls, clock=clock, reach=reach, **more).run(lambda *_: None)

    def list_days(tier: str) -> list[str]:
        return sorted(server.storage(tier, "kpi").list_files(""))

    def reconcile() -> tuple[int, str]:
        return typed("reconcile", output, "--input", made / "a", "--json")[:2]

    def read_all() -> tuple[str, str]:
        code, reconciled = reconcile()
        shown, equal = typed("show", output, "--json"), typed("parity", output, made / "plain")
        assert (code, shown[0], equal[0]) == (0, 0, 0), (reconciled, shown, equal)
        return reconciled, shown[1].replace(str(output), "OUT")

    before = read_all()
    maintain(3)
    for days, tier, other in ((10, WARM, COLD), (40, COLD, WARM)):
        with pytest.raises(Killed):
            maintain(days, kill_before_the_ledger)
        assert len(list_days(tier)) == 1
        assert reconcile() == (0, before[0])
        maintain(days)
        maintain(days + 1)
        assert list_days(other) == []
    assert read_all() == before
    ledger, _ = read_ledger(LocalFolder(output))
    assert {place.tier for days in ledger.days.values() for place in days.values()} == {COLD}
    moved = list_days(COLD)
    assert {name.rpartition("/")[2] for name in moved} == {"day.parquet"}

    maintain(401, expire_most=True)
    maintain(402)
    assert list_days(COLD) == []
    code, text = reconcile()
    verdict = json.loads(text)
    assert (code, verdict["missing"], verdict["reports"]) == (0, 0, 0), text
    assert verdict["expired"] == verdict["received"] == 200
