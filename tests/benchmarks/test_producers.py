"""A thousand producers, and how long a peak of theirs is felt."""

import asyncio
import json
from pathlib import Path

import jsonschema

from tests.benchmarks.producers import Done, Phase, late_seconds, through
from tests.benchmarks.test_parts import SECOND, live, stamped
from tests.servers import RedisServer


def test_a_peak_is_felt_until_the_last_message_that_was_late() -> None:
    peak, after = (
        Done("burst", 100 * SECOND, 110 * SECOND, 9),
        Done("after the burst", 110 * SECOND, 140 * SECOND, 9),
    )
    prompt = [*live(90, 108), *live(114, 150)]
    assert late_seconds(stamped(*prompt), peak, after) == 0
    assert late_seconds(stamped(*prompt, (99.0, 112.0), (141.0, 143.0), (105.0, 109.0)), peak, after) == 0
    assert late_seconds(stamped(*prompt, (109.0, 112.5), (111.0, 113.0)), peak, after) == 3


def test_a_thousand_producers_send_valid_reports_at_their_rate(tmp_path: Path) -> None:
    asked = [Phase("steady", 1.2, 60_000), Phase("all at once", 60, None)]
    with RedisServer(tmp_path) as server, server.client() as client:
        done = asyncio.run(through(server.url, "k", asked))
        entries = client.xrange("k")
    assert [(each.name, each.sent) for each in done] == [("steady", 1200), ("all at once", 20_000)]
    assert [len(entries), len({json.loads(entry[b"data"])["task_id"] for _, entry in entries})] == [
        21_200,
        21_200,
    ]
    assert len({json.loads(entry[b"data"])["agent_id"] for _, entry in entries}) == 1000
    schema = json.loads(Path("schemas/kpi_report.v1.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads(entries[0][1][b"data"]))
