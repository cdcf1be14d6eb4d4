"""The benchmark of tiers: each tier can be left out without a change of verdicts."""

import json

import numpy as np

from tests.benchmarks.tiers import TIERS, measure, write_table
from tests.builders import report


def test_every_tier_is_measured_and_changes_no_verdict() -> None:
    documents = [
        json.dumps(report(i, error_details={"code": i}, zone="a")) if i % 5 else '{"latency_ms": "x"}'
        for i in range(40)
    ]
    lines = [
        f'{{"message_id":"{i}-0","received_at":null,"data":{text}}}\n' for i, text in enumerate(documents)
    ]
    gains = list(measure(["".join(lines).encode()], dirty=0.2, turns=1))
    assert [gain.tier for gain in gains] == list(TIERS)
    assert all(np.isfinite([gain.rate, gain.rate_without]).all() for gain in gains)
    assert len(list(write_table(gains))) == 2 + len(TIERS)
