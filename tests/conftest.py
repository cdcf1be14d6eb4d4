"""For every test: the Hypothesis profile, a quicker Beam, the mark of tests that need a server, the order of a
parallel run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import settings

from tests.quick_beam import remember_answers
from tests.servers import RedisServer

# How long an example takes says nothing about whether it is right.
settings.register_profile("kpiflow", deadline=None)
settings.load_profile("kpiflow")
remember_answers()

TESTS = Path(__file__).parent
SERVERS = {"RedisServer", "S3Server", "Emulator", "VictoriaMetricsServer"}
FIRST = ("chaos", "integration")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests that need a server; a parallel run begins with the folders whose tests take longest."""
    for item in items:
        if needs_server(item):
            item.add_marker("server")
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: folder(item) not in FIRST)


def needs_server(item: pytest.Item) -> bool:
    """Whether a test may start Java or a server: its folder, its module's imports or its fixtures say so."""
    imported = vars(getattr(item, "module", object)).keys()
    storage = item.callspec.params.get("storage") if hasattr(item, "callspec") else ""
    used = {"server", "emulator"} & set(getattr(item, "fixturenames", ()))
    return folder(item) in FIRST or bool(SERVERS & imported or used) or storage == "objects"


def folder(item: pytest.Item) -> str:
    """The folder of tests/ that a test is in."""
    return item.path.relative_to(TESTS).parts[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for the tests of a file, which may not stop it."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    """A client of that Redis, which is empty when the test begins."""
    with server.client() as client:
        client.flushall()
        yield client


@pytest.fixture(scope="session")
def emulator() -> Iterator[Any]:
    """A BigQuery emulator for all tests of this process; each makes a dataset of its own."""
    from tests.bigquery import Emulator  # takes a second to import

    with Emulator() as running:
        yield running
