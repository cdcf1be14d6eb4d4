"""In which format a client wants its answer."""

from http import HTTPStatus

from aiohttp import web

from pipelines.queries.formats import FORMATS
from pipelines.service.errors import HttpError

CONTENT_TYPES = {
    "json": "application/json",
    "ndjson": "application/x-ndjson",
    "csv": "text/csv",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}
"""The media type of each format."""
_MOST_TYPES = 20


def choose_format(request: web.Request) -> str:
    """The format that `format` names, or the header Accept likes most; JSON if neither says anything.

    Raises:
        HttpError: 400 or 406, there is no such format.
    """
    if (named := request.query.get("format")) is not None:
        if named not in FORMATS:
            raise HttpError(
                HTTPStatus.BAD_REQUEST,
                f"format cannot be {named[:50]}",
                f"give one of {', '.join(FORMATS)}",
            )
        return named
    ranked = _rank(request.headers.get("Accept", "*/*"))
    for pattern in ranked:
        for form, type_ in CONTENT_TYPES.items():
            if pattern in ("*/*", type_, f"{type_.partition('/')[0]}/*"):
                return form
    raise HttpError(
        HTTPStatus.NOT_ACCEPTABLE,
        "no format fits Accept",
        f"accept one of {', '.join(CONTENT_TYPES.values())}",
    )


def _rank(accept: str) -> list[str]:
    """The media types of a header Accept, the most liked first."""
    weights: dict[str, float] = {}
    for part in accept.split(",")[:_MOST_TYPES]:
        type_, _, rest = part.partition(";")
        weights[type_.strip().lower()] = _parse_weight(rest)
    return sorted((each for each in weights if weights[each] > 0), key=lambda each: -weights[each])


def _parse_weight(text: str) -> float:
    """The value of `q` among the parameters of a media type; 1 without it, 0 if it is no number."""
    for part in text.split(";"):
        name, _, value = part.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
