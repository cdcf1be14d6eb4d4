"""GET /kpi/compare: the answer of `kpiflow compare`, and what it says of wrong use."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.cli import run
from pipelines.service.guards import Guards, Subject
from tests.pipelines.queries.small_output import make_output
from tests.service import RunningService, make_service, run_service

PATH = "/kpi/compare"


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
    found = service.get(
        PATH, experiment="routing", metric="latency_ms,accuracy:p50", control="treatment", alpha="0.1"
    )
    words = ["--metric", "latency_ms", "--metric", "accuracy:p50", "--control", "treatment", "--alpha", "0.1"]
    assert run(["compare", str(output), "routing", *words, "--json"]) == 0
    assert found.json == json.loads(capsys.readouterr().out)
    assert [each["metric"] for each in found.json["effects"]] == ["latency_ms", "accuracy:p50"]


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"alpha": "nan"}, "alpha cannot be nan"),
        ({"metric": "latency"}, "no metric is called latency"),
        ({"control": "nobody"}, "no task has the variant nobody"),
        ({"limit": "1"}, "has no parameter limit"),
        ({"unit": "team"}, "unit team is not known"),
        ({"experiment": "nothing"}, "no task of the experiment nothing"),
        ({"experiment": ""}, "no task of the experiment"),
        ({"experiment": ".."}, "no task of the experiment .."),
        ({"experiment": "x" * 5000}, "experiment has 5,000 characters"),
    ],
)
def test_wrong_use_is_named(given: dict[str, str], fault: str, service: RunningService) -> None:
    reply = service.get(PATH, **{"experiment": "routing"} | given)
    assert (reply.status, fault in reply.json["error"], "--" in reply.json["error"]) == (400, True, False)


def test_without_an_experiment_it_says_how_to_name_one(service: RunningService) -> None:
    reply = service.get(PATH)
    assert (reply.status, reply.json["fix"]) == (400, "give experiment=NAME")


@pytest.mark.parametrize("name", ["", "..", ".", "/", "a/b?c#d", "%2e%2e", "\r\n", "x" * 1000])
def test_an_experiment_of_any_name_is_compared(name: str, tmp_path: Path) -> None:
    output = make_output(tmp_path / "out")
    for path in (output / "features").rglob("*.parquet"):
        rows = pq.read_table(path, partitioning=None)
        named = pc.if_else(rows["experiment"].is_valid(), name, None)
        place = rows.column_names.index("experiment")
        pq.write_table(rows.set_column(place, rows.schema.field(place), named), path)
    with run_service(make_service(output)) as service:
        found = service.get(PATH, experiment=name)
        assert (found.status, found.json["units"].keys()) == (200, {"control", "treatment"})


def test_without_the_extra_it_says_what_to_install(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pipelines.analysis.question", None)
    reply = service.get(PATH, experiment="routing")
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
