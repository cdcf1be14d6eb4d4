"""The OpenAPI document has every route and every parameter that the service takes, and no other."""

from pathlib import Path

import pytest

from pipelines.queries.registry import QUERIES
from pipelines.service.openapi import QUERY_PATH, make_document
from pipelines.service.query_answers import OF_ALL
from pipelines.service.routes import ROUTES
from schemas.marks import FLAGS, VERDICTS
from tests.pipelines.queries.small_output import make_output
from tests.service import make_service, run_service

PATHS = make_document()["paths"]


def test_its_paths_are_the_routes() -> None:
    routes = {(route.path, route.method) for route in ROUTES if route.path != QUERY_PATH}
    routes |= {(f"/query/{name}", "GET") for name in QUERIES}
    assert {(path, method.upper()) for path, methods in PATHS.items() for method in methods} == routes


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_has_its_own_parameters_and_those_of_all(name: str) -> None:
    listed = PATHS[f"/query/{name}"]["get"]["parameters"]
    assert [each["name"] for each in listed] == [each.name for each in (*QUERIES[name].parameters, *OF_ALL)]
    required = [each["name"] for each in listed if each.get("required")]
    assert required == [each.name for each in QUERIES[name].parameters if each.required]


def test_every_parameter_of_the_document_is_known_to_its_route_and_others_are_not(tmp_path: Path) -> None:
    with run_service(make_service(make_output(tmp_path / "out"))) as service:
        document = service.get("/openapi.json").json
        assert document == make_document()
        for path, methods in document["paths"].items():
            for method, described in methods.items():
                assert method == "get" or described["requestBody"]["required"]
            target = path.replace("{experiment}", "routing")
            listed = methods.get("get", {}).get("parameters", [])
            for each in listed:
                reply = service.get(target, **{each["name"]: "\x00"})
                said = reply.json.get("error", "") if reply.status != 404 else ""
                assert "has no parameter" not in said
                assert "cannot use" not in said
            if listed and path != "/kpi/stream":
                assert service.get(target, never_a_parameter="1").status == 400


def test_the_body_of_a_mark_is_described() -> None:
    schema = PATHS["/kpi/marks"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["required"]) == {"report_id", "column", "verdict"}
    assert set(schema["properties"]["column"]["enum"]) == set(FLAGS)
    assert set(schema["properties"]["verdict"]["enum"]) == set(VERDICTS)
