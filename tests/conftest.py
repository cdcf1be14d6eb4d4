"""For every test: the Hypothesis profile, the mark of tests that need a server, the order of a parallel
run."""

from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says nothing about whether it is right.
settings.register_profile("kpiflow", deadline=None)
settings.load_profile("kpiflow")

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
    """Whether a test may start Java or a server: its folder, its module's imports or its storage say so."""
    names = vars(getattr(item, "module", object))
    storage = item.callspec.params.get("storage") if hasattr(item, "callspec") else ""
    return folder(item) in FIRST or bool(SERVERS & names.keys()) or storage == "objects"


def folder(item: pytest.Item) -> str:
    """The folder of tests/ that a test is in."""
    return item.path.relative_to(TESTS).parts[0]
