"""The OpenAPI document: made from the table of routes and the parameters of the queries."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from pipelines.queries.query import Parameter, ParameterKind, Query
from pipelines.queries.registry import QUERIES
from pipelines.service import comparisons, export, stream
from pipelines.service.content_types import CONTENT_TYPES
from pipelines.service.exchange import Exchange
from pipelines.service.query_answers import OF_ALL

if TYPE_CHECKING:
    from pipelines.service.routes import Route

QUERY_PATH = "/query/{name}"
_TYPES: dict[ParameterKind, dict[str, str]] = {
    ParameterKind.TEXT: {"type": "string"},
    ParameterKind.INTEGER: {"type": "integer"},
    ParameterKind.NUMBER: {"type": "number"},
    ParameterKind.TIME: {"type": "string", "format": "date-time"},
}
_ERROR = {
    "type": "object",
    "required": ["error", "fix"],
    "properties": {"error": {"type": "string"}, "fix": {"type": "string"}},
}
_TYPE_OF = {"/metrics": "application/openmetrics-text", "/": "text/html", "/page/{file}": "text/javascript"}
_TEXTS = {
    "/kpi/compare": comparisons.PARAMETERS,
    "/kpi/export": export.PARAMETERS,
    "/kpi/stream": stream.PARAMETERS,
}
"""Parameters of the routes that are no queries, with what they mean."""


async def show_document(request: web.Request, exchange: Exchange) -> web.StreamResponse:
    """The document."""
    return web.json_response(make_document())


def make_document() -> dict[str, Any]:
    """The OpenAPI document of the service. Each query has a path of its own."""
    from pipelines.service.routes import ROUTES

    paths: dict[str, Any] = {}
    for route in ROUTES:
        if route.path == QUERY_PATH:
            for query in QUERIES.values():
                path = route.path.replace("{name}", query.name)
                paths[path] = {route.method.lower(): _describe_query(query)}
        else:
            paths.setdefault(route.path, {})[route.method.lower()] = _describe_route(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "kpiflow serve", "version": version("kpiflow")},
        "paths": paths,
        "components": {"schemas": {"Error": _ERROR}},
    }


def _describe_route(route: "Route") -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": route.summary,
        "parameters": [
            _describe_parameter(Parameter(name, text, required=name == comparisons.EXPERIMENT_NAME))
            for name, text in _TEXTS.get(route.path, {}).items()
        ],
        "responses": _describe_responses({_TYPE_OF.get(route.path, "application/json"): {}}),
    }
    if route.takes is not None:
        (schema,), components = msgspec.json.schema_components([route.takes])
        body = {"application/json": {"schema": components[schema["$ref"].rpartition("/")[2]]}}
        described["requestBody"] = {"required": True, "content": body}
        described["responses"]["201"] = described["responses"]["200"]
    return described


def _describe_query(query: Query) -> dict[str, Any]:
    return {
        "summary": query.summary,
        "parameters": [_describe_parameter(each) for each in (*query.parameters, *OF_ALL)],
        "responses": _describe_responses({type_: {} for type_ in CONTENT_TYPES.values()}),
    }


def _describe_parameter(parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = dict(_TYPES[parameter.kind])
    if parameter.choices:
        schema["enum"] = list(parameter.choices)
    if parameter.default is not None:
        schema["default"] = parameter.default
    described = {"name": parameter.name, "in": "query", "description": parameter.summary, "schema": schema}
    return described | ({"required": True} if parameter.required else {})


def _describe_responses(content: dict[str, Any]) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "200": {"description": "The answer.", "content": content},
        "default": {"description": "What is wrong, and what to do about it.", "content": error},
    }
