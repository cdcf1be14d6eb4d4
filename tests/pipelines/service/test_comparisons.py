"""GET /kpi/compare: the answer of `kpiflow compare`, and what it says of wrong use."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli import run
from pipelines.service.guards import Guards, Subject
from tests.pipelines.queries.small_output import make_output
from tests.service import RunningService, make_service, run_service

PATH = "/kpi/compare/routing"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_output(tmp_path_factory.mktemp("comparisons") / "out")


@pytest.fixture(scope="module")
def service(output: Path) -> Iterator[RunningService]:
    with run_service(make_service(output)) as running:
        yield running


def test_it_answers_as_the_command(
    output: Path, service: RunningService, capsys: pytest.CaptureFixture[str]
) -> None:
    found = service.get(PATH, metric="latency_ms,accuracy:p50", control="treatment", alpha="0.1")
    words = ["--metric", "latency_ms", "--metric", "accuracy:p50", "--control", "treatment", "--alpha", "0.1"]
    assert run(["compare", str(output), "routing", *words, "--json"]) == 0
    assert found.json == json.loads(capsys.readouterr().out)
    assert [each["metric"] for each in found.json["effects"]] == ["latency_ms", "accuracy:p50"]


@pytest.mark.parametrize(
    ("path", "given", "fault"),
    [
        (PATH, {"alpha": "nan"}, "alpha cannot be nan"),
        (PATH, {"metric": "latency"}, "no metric is called latency"),
        (PATH, {"control": "nobody"}, "no task has the variant nobody"),
        (PATH, {"limit": "1"}, "has no parameter limit"),
        (PATH, {"unit": "team"}, "unit team is not known"),
        ("/kpi/compare/nothing", {}, "no task of the experiment nothing"),
    ],
)
def test_wrong_use_is_named(path: str, given: dict[str, str], fault: str, service: RunningService) -> None:
    reply = service.get(path, **given)
    assert (reply.status, fault in reply.json["error"], "--" in reply.json["error"]) == (400, True, False)


def test_without_the_extra_it_says_what_to_install(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pipelines.analysis.question", None)
    reply = service.get(PATH)
    assert (reply.status, reply.json["fix"]) == (501, "pip install 'kpiflow[analysis]'")


@pytest.mark.parametrize(
    "subject",
    [
        Subject("reader", "kpi-consumer", frozenset({"kpi_reports", "features"})),
        Subject("admin", "optimization-admin", frozenset({"features"})),
    ],
    ids=["role", "grants"],
)
def test_it_needs_the_rights_of_the_query_of_tasks(subject: Subject, output: Path) -> None:
    with run_service(make_service(output, guards=Guards(identify=lambda _: subject))) as service:
        assert (
            service.get(PATH).status == service.get("/query/experiment", experiment="routing").status == 403
        )
