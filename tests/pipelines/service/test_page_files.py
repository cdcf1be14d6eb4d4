"""The page and its files: headers, versions, and nothing that the policy of the page would refuse."""

import re
from collections.abc import Iterator
from importlib.resources import files

import pytest

from pipelines.service.page_files import POLICY, read_files
from tests.pipelines.queries.small_output import make_output
from tests.service import RunningService, make_service, run_service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with run_service(make_service(make_output(tmp_path_factory.mktemp("page") / "out"))) as running:
        yield running


def test_the_page_has_its_policy_and_is_asked_for_again_each_time(service: RunningService) -> None:
    page = service.get("/")
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.headers["Content-Security-Policy"] == POLICY
    assert page.headers["Cache-Control"] == "private, no-cache"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert "'unsafe" not in POLICY
    assert "frame-ancestors 'none'" in POLICY


def test_a_file_that_a_browser_has_is_not_sent_again(service: RunningService) -> None:
    first = service.get("/page/main.js")
    again = service.get("/page/main.js", {"If-None-Match": first.headers["ETag"]})
    assert (first.status, again.status, again.body) == (200, 304, b"")
    assert service.get("/page/main.js", {"If-None-Match": '"another"'}).body == first.body


@pytest.mark.parametrize("name", ["__init__.py", "..%2fserver.py", "none.js", "%2e%2e", "main.js%00.css"])
def test_no_other_file_is_served(name: str, service: RunningService) -> None:
    assert service.get(f"/page/{name}").status == 404


def test_every_file_that_the_page_names_is_served(service: RunningService) -> None:
    named = re.findall(r'(?:href|src)="(/page/[^"]+)"', service.get("/").body.decode())
    assert len(named) == 3
    for name, file in read_files().items():
        for imported in re.findall(r'^import .* from "\./([^"]+)";$', file.body.decode(), flags=re.MULTILINE):
            named.append(f"/page/{imported}")
        assert service.get(f"/page/{name}").body == file.body
    assert {name.removeprefix("/page/") for name in named} == set(read_files()) - {"index.html"}


def test_no_file_makes_markup_of_text() -> None:
    for name, file in read_files().items():
        text = file.body.decode()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), name
        assert not re.search(r"\son\w+=|<style|\sstyle=", text) or not name.endswith(".html"), name


def test_its_colours_are_those_of_the_page_of_show() -> None:
    charts = pytest.importorskip("pipelines.summary.charts", reason="needs kpiflow[html]")
    style = files("pipelines.service.page").joinpath("page.css").read_text()
    shared = ("INK", "GRID", "BLUE", "GREY", "RED", "AMBER", "GREEN", "PALE")
    for colour in (getattr(charts, name) for name in shared):
        assert colour in style
        assert style.count(charts.IN_THE_DARK[colour]) >= 2  # chosen, and as the system says
