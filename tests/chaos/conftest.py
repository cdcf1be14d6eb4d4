"""What every fault needs: a Redis that keeps what it has, an output, and runs that end with their test."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runners.flink.jars import FlinkMissing, ensure_jars, find_java
from tests.integration.streaming import Scene, end_runs
from tests.servers import RedisServer


@pytest.fixture(scope="session")
def engine() -> None:
    """Java and Flink, or no test."""
    try:
        find_java()
        ensure_jars()
    except FlinkMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def scene(engine: None, tmp_path: Path) -> Iterator[Scene]:
    with RedisServer(tmp_path, appendonly=True) as server, end_runs(Scene(server, tmp_path)) as scene:
        yield scene


@pytest.fixture
def seed() -> int:
    """What is drawn by lot in a test comes of this: CHAOS_SEED repeats it."""
    return int(os.environ.get("CHAOS_SEED", "1"))
