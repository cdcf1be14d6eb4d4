"""Generated hostile messages: each has one fate, and the fast reader never decides otherwise than the strict
one.

`python -m tests.integration.hostile_run` does the same with 200,000 of them, and with a stream.
"""

import json
from pathlib import Path

import pytest

from tests.integration.archives import Typed
from tests.integration.hostile_run import differences, write_archive
from tests.integration.hostile_shapes import SHARES, STRETCH, payloads

PART = STRETCH // 4


@pytest.mark.parametrize("seed", [1])
def test_hostile_messages_have_one_fate_each_and_both_readers_agree(
    seed: int, tmp_path: Path, typed: Typed
) -> None:
    archive, out = tmp_path / "in", tmp_path / "out"
    count = write_archive(archive, payloads(PART * len(SHARES), seed, largest=1 << 16, stretch=PART), seed)
    assert list(differences(archive)) == []
    assert typed("backfill", "--input", archive, "--output", out)[0] == 0
    code, text, _ = typed("reconcile", out, "--input", archive, "--json")
    counts = json.loads(text)
    assert (code, counts["problems"], counts["received"]) == (0, [], count)
    assert min(counts["reports"], counts["quarantined"]) > count // 5
