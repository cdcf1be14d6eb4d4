"""Commands, typed in this process; a stream and what it needs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli import run
from runners.flink.jars import FlinkMissing, ensure_jars, find_java
from tests.integration.archives import Typed
from tests.integration.streaming import Scene, end_runs
from tests.servers import RedisServer


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    """Runs one command: its exit code, what it said on stdout, and on stderr."""

    def type_(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(word) for word in words])
        return code, *capsys.readouterr()

    return type_


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A Redis that keeps what it has, an output, and runs that end with their test; or no test."""
    try:
        find_java()
        ensure_jars()
    except FlinkMissing as missing:
        pytest.skip(str(missing))
    with RedisServer(tmp_path, appendonly=True) as server, end_runs(Scene(server, tmp_path)) as scene:
        yield scene
