"""Messages that nobody can use, and one at which the code itself fails, cost their neighbours nothing."""

import json
from collections import Counter
from datetime import UTC, datetime

import duckdb
import pytest

from tests.builders import payload, report
from tests.chaos.faults import inject
from tests.integration.streaming import KEY, Scene

pytestmark = pytest.mark.slow


def reasons(scene: Scene) -> Counter[tuple[str, str]]:
    """Reasons and payloads of what is in quarantine, the generated ones aside."""
    rows = duckdb.sql(
        f"select reason, decode(payload) from read_parquet('{scene.output}/quarantine/**/*.parquet')"
    ).fetchall()
    return Counter((reason, text.strip()) for reason, text in rows)


def test_an_error_of_the_code_and_entries_that_are_no_messages_are_refused_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in inject(POISON="arsenic").items():
        monkeypatch.setenv(name, value)
    scene.apart = True  # for the backfill has the same error
    good = [payload(report(number, at=datetime.now(UTC))) for number in range(300)]
    bad = payload(report(300, at=datetime.now(UTC), note="arsenic"))
    with scene.server.client() as client:
        for number, data in enumerate(good):
            client.xadd(KEY, {"data": data})
            if number == 150:
                client.xadd(KEY, {"data": bad})
                client.xadd(KEY, {"text": "no data"})
                client.xadd(KEY, {"data": "no JSON"})
    scene.finish()
    verdict = scene.prove()
    assert (verdict["received"], verdict["reports"], verdict["quarantined"]) == (303, 300, 3)
    found = reasons(scene)
    assert found["error", bad.decode()] == 1
    assert {json.loads(text)["fields"]["text"] for _, text in found if text.startswith('{"source"')} == {
        "no data"
    }
    assert [text for _, text in found if text == "no JSON"] == ["no JSON"]
    assert "restarts" not in scene.said()
