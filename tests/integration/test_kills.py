"""A backfill that is killed at any point is completed by running it again."""

import random
import signal
from pathlib import Path

import pytest

from tests.integration.archives import Typed, make_output, stream
from tests.integration.processes import count_files, start_command, wait_until

pytestmark = pytest.mark.slow

WORKERS = ["--workers", "2", "--block-hours", "2"]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nobody kills, beside its archive."""
    lines = stream(2000, agents=10, seconds=60, seed=11)
    random.Random(11).shuffle(lines)
    return make_output(tmp_path_factory.mktemp("kills"), lines, *WORKERS)


@pytest.mark.parametrize("moment", range(5))
def test_the_same_command_completes_what_a_kill_left(
    clean: Path, tmp_path: Path, moment: int, typed: Typed
) -> None:
    command = ["backfill", "--input", clean.parent / "a.ndjson", "--output", tmp_path / "out", *WORKERS]
    share = random.Random(moment).uniform(moment / 5, (moment + 1) / 5)
    process = start_command(*command)
    wait_until(process, lambda: count_files(tmp_path / "out") >= int(share * count_files(clean)))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert typed(*command)[0] == 0
    assert typed("reconcile", tmp_path / "out", "--input", clean.parent / "a.ndjson")[0] == 0
    assert typed("parity", clean, tmp_path / "out", "--identity")[0] == 0
    assert [path.name for path in (tmp_path / "out").rglob(".*")] == []
