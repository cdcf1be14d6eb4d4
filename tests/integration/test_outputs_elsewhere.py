"""A stream whose outputs are an object store and BigQuery, and no folder."""

import json
import shutil

import pytest

from tests.bigquery import Emulator, store
from tests.integration.streaming import KEY, Scene
from tests.s3 import S3Server

pytestmark = pytest.mark.slow


def test_a_stream_without_a_folder_fills_stores_elsewhere_and_goes_on_from_them(scene: Scene) -> None:
    with S3Server() as bucket, Emulator() as emulator:
        bucket.make_bucket("bucket")
        scene.elsewhere = (bucket.url("bucket", "kpis"), store("kpis", emulator).name)
        quick = ("--warehouse-seconds", 1)
        scene.add(600)
        scene.finish(*quick)
        shutil.rmtree(scene.output)  # with the checkpoints: what was read before is read again
        scene.add(600, seed=2)
        scene.finish(*quick)
        again = scene.folder / "backfill"
        scene.ask("backfill", "--input", scene.folder / "archive", "--output", again)
        for url in scene.elsewhere:
            verdict = json.loads(
                scene.ask("reconcile", url, "--redis", scene.server.url, "--stream", KEY, "--json")
            )
            assert (verdict["received"], verdict["missing"], verdict["surplus"], verdict["uncommitted"]) == (
                1200,
                0,
                0,
                0,
            )
            scene.ask("parity", url, again)
