"""How many files each query opens: those of its span, as docs/queries.md says, and no other."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.queries.registry import QUERIES
from tests.pipelines.queries.small_output import AGENTS, START, ask, make_output
from transforms.core.time_range import Span

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "queries.md").read_text(encoding="utf-8")
OPENED = {
    name: int(files)
    for name, files in re.findall(r"^\| `([\w-]+)` \| (\d+) \| .* \|$", PAGE, flags=re.MULTILINE)
}
GIVEN = {
    "reports-by-task": {"task_id": "task 100"},
    "agent-over-time": {"agent_id": AGENTS[0]},
    "reports-by-type": {"agent_type": "gpu"},
    "experiment": {"experiment": "x"},
}
HOUR = Span(START + timedelta(hours=2), START + timedelta(hours=3))


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_output(tmp_path_factory.mktemp("files") / "out")


def test_every_query_is_listed() -> None:
    assert list(OPENED) == list(QUERIES)


def test_the_page_of_plans_has_each_query() -> None:
    page = (DOCS / "plans.md").read_text(encoding="utf-8")
    assert re.findall(r"^## ([\w-]+)$", page, flags=re.MULTILINE) == list(QUERIES)


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_of_an_hour_opens_the_files_of_that_hour(name: str, output: Path) -> None:
    assert ask(output, name, span=HOUR, **GIVEN.get(name, {})).files == OPENED[name]
    whole = ask(output, name, **GIVEN.get(name, {})).files
    assert whole >= (1 if name == "marks" else 12)
