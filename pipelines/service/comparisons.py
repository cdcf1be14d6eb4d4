"""GET /kpi/compare: the variants of an experiment beside its control, as `kpiflow compare`."""

from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

from aiohttp import web

from pipelines.failures import Failure, WrongUse, make_missing_error
from pipelines.queries.limits import QueryLimits
from pipelines.queries.query import name_nearest
from pipelines.queries.stop import Stop
from pipelines.queries.table_queries import EXPERIMENT
from pipelines.service.access.policy import Rights
from pipelines.service.access.query_rights import choose_columns
from pipelines.service.access.subject import Forbidden
from pipelines.service.errors import HttpError, as_http_error
from pipelines.service.exchange import Exchange
from pipelines.time_flags import parse_span
from transforms.core.time_range import Span

EXPERIMENT_NAME = "experiment"
PARAMETERS = {
    EXPERIMENT_NAME: "the experiment, as the metadata of its tasks name it; any text",
    "control": "the variant that the others are compared with; control unless given",
    "metric": "metrics, or metric:pN for a percentile, with a comma between; the mean of each unless given",
    "share": "planned shares, as variant=share, with a comma between; equal ones unless given",
    "unit": "what was assigned to variants, task or agent; as the tasks show unless given",
    "alpha": "chance of any wrong verdict, over all looks; 0.05 unless given",
    "from": "start of the experiment; keep it fixed",
    "to": "only reports before this time",
}
MOST_TASKS = 2_000_000
_LEAST_ALPHA, _LARGEST_ALPHA = 1e-6, 0.5
_LONGEST = 1000


async def compare(request: web.Request, exchange: Exchange) -> web.StreamResponse:
    """The comparison, as `kpiflow compare --json` has it."""
    service = exchange.service
    check_rights(exchange.rights)
    try:
        given = _read_parameters(request)
        experiment = given[EXPERIMENT_NAME]
        span = parse_span(given.get("from"), given.get("to"))
        alpha = _parse_alpha(given.get("alpha", "0.05"))
        limits = replace(service.limits, rows=MOST_TASKS)

        def work(stop: Stop) -> dict[str, Any]:
            return _answer(service.folder, experiment, given, span, alpha, limits, stop)

        answer = await service.pool.run(work)
    except Failure as error:
        raise as_http_error(error) from error
    exchange.rows = len(answer["effects"])
    return web.json_response(answer)


def check_rights(rights: Rights) -> None:
    """Check that a subject may compare: it needs all that the query `experiment` shows.

    Raises:
        Forbidden: it may not see some of it.
    """
    if withheld := choose_columns(EXPERIMENT, ["experiment"], rights).withheld:
        raise Forbidden(f"{rights.subject.name} has no right to {', '.join(withheld)} of {EXPERIMENT.name}")


def _answer(
    folder: Path,
    experiment: str,
    given: Mapping[str, str],
    span: Span,
    alpha: float,
    limits: QueryLimits,
    stop: Stop,
) -> dict[str, Any]:
    """The comparison as JSON. What it needs is imported here: that takes seconds, and may be missing.

    Raises:
        HttpError: 501, a package is not installed.
        Failure: as `Question.parse` and `Question.answer`.
    """
    try:
        from pipelines.analysis.question import Question, list_comparison
    except ImportError as error:
        missing = make_missing_error("a comparison", error, "analysis")
        raise HttpError(HTTPStatus.NOT_IMPLEMENTED, str(missing), missing.fix) from error
    metrics, shares = (
        [each for each in given.get(name, "").split(",") if each] for name in ("metric", "share")
    )
    control = given.get("control", "control")
    question = Question.parse(experiment, (), control, metrics, shares, given.get("unit"), alpha)
    return list_comparison(question.answer(folder, span, limits, stop), alpha)


def _read_parameters(request: web.Request) -> dict[str, str]:
    """The parameters of the URL.

    Raises:
        WrongUse: one is unknown, given twice or too long, or there is no experiment.
    """
    if EXPERIMENT_NAME not in request.query:
        raise WrongUse("a comparison is of an experiment", f"give {EXPERIMENT_NAME}=NAME")
    for name, text in request.query.items():
        if name not in PARAMETERS:
            advice = name_nearest(name, list(PARAMETERS))
            raise WrongUse(f"a comparison has no parameter {name[:50]}", advice)
        if len(request.query.getall(name)) > 1:
            raise WrongUse(f"{name} is given twice", "give it once")
        if len(text) > _LONGEST:
            raise WrongUse(f"{name} has {len(text):,} characters", f"give at most {_LONGEST:,}")
    return dict(request.query)


def _parse_alpha(text: str) -> float:
    try:
        alpha = float(text)
    except ValueError:
        alpha = 0.0
    if not _LEAST_ALPHA <= alpha <= _LARGEST_ALPHA:
        raise WrongUse(f"alpha cannot be {text[:50]}", f"give {_LEAST_ALPHA:g} to {_LARGEST_ALPHA:g}")
    return alpha
