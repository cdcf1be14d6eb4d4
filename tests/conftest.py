"""For every test: the Hypothesis profile, a quicker Beam, marks of tests that need a server or begin threads,
the order of a parallel run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import settings

from runners.worker_processes import has_library_threads
from tests.quick_beam import remember_answers
from tests.servers import RedisServer

# How long an example takes says nothing about whether it is right.
settings.register_profile("kpiflow", deadline=None)
settings.load_profile("kpiflow")
remember_answers()

TESTS = Path(__file__).parent
SERVERS = {"RedisServer", "S3Server", "Emulator", "PrometheusServer", "VictoriaMetricsServer"}
THREADED = {"S3Server", "Emulator", "ObjectStorage", "grpc", "obstore"}
FIRST = ("chaos", "integration")
BEGUN = pytest.StashKey[bool]()
"""Whether a library runs threads in this process."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests that need a server or begin threads of a library. A parallel run begins with the folders
    whose tests take longest, and ends with the files that begin threads."""
    for item in items:
        if needs_server(item):
            item.add_marker("server")
        if begins_threads(item):
            item.add_marker("threads")
    if hasattr(config, "workerinput"):
        last = {item.path for item in items if item.get_closest_marker("threads")}
        items.sort(key=lambda item: (item.path in last, folder(item) not in FIRST))


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[BEGUN] = False


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Once a library runs threads here, workers of a backfill are no forks any more: each takes 1.5 s longer.
    So only tests with the mark `threads` should begin them."""
    stash = item.config.stash
    stash[BEGUN] = stash[BEGUN] or item.get_closest_marker("threads") is not None
    if not stash[BEGUN] and has_library_threads():
        stash[BEGUN] = True
        item.warn(pytest.PytestWarning("this test begins threads of a library: give it the mark `threads`"))


def needs_server(item: pytest.Item) -> bool:
    """Whether a test may start Java or a server: its folder, its module's imports or its fixtures say so."""
    return folder(item) in FIRST or uses(item, SERVERS, {"server", "bucket_server", "emulator"})


def begins_threads(item: pytest.Item) -> bool:
    """Whether a library may run threads after a test, as its module's imports or its fixtures say."""
    return uses(item, THREADED, {"emulator"})


def uses(item: pytest.Item, names: set[str], fixtures: set[str]) -> bool:
    """Whether a test's module has one of these names, or the test one of these fixtures or a bucket."""
    imported = vars(getattr(item, "module", object)).keys()
    storage = item.callspec.params.get("storage") if hasattr(item, "callspec") else ""
    used = fixtures & set(getattr(item, "fixturenames", ()))
    return bool(names & imported or used) or storage == "objects"


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
