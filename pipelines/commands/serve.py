"""`kpiflow serve`: the tables of an output over HTTP."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.query import MOST_ROWS, require_folder
from pipelines.connections import connect_redis
from pipelines.console import announce
from pipelines.failures import RunFailed, WrongUse, make_missing_error
from pipelines.listening import is_loopback, parse_address
from pipelines.queries.limits import QueryLimits
from pipelines.settings import Settings
from pipelines.verify.output_description import read_row_settings
from transforms.core.events import SERVING
from transforms.redis.access import LIVE_STREAMS
from transforms.redis.connection import Connection
from transforms.redis.errors import RedisUnavailable

PORT = 8443


def serve(
    ctx: typer.Context,
    output: Annotated[
        str, typer.Argument(metavar="OUT", help="Output folder; a stream may be writing to it.")
    ],
    address: Annotated[
        str, typer.Option("--listen", help="Where to listen; port 0 is a free one.", metavar="HOST:PORT")
    ] = f"127.0.0.1:{PORT}",
    is_insecure: Annotated[
        bool,
        typer.Option(
            "--insecure-loopback",
            help="Serve plain HTTP to everybody on this machine, to try it out. Refused on other addresses.",
        ),
    ] = False,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="Certificate of the service (PEM).", metavar="FILE")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Its key (PEM).", metavar="FILE")] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option("--client-ca", help="Authorities that sign certificates of clients.", metavar="FILE"),
    ] = None,
    client_crl: Annotated[
        Path | None,
        typer.Option("--client-crl", help="Certificates that they revoked (PEM).", metavar="FILE"),
    ] = None,
    roles: Annotated[
        Path | None,
        typer.Option("--roles", help="Which certificate has which role (TOML).", metavar="FILE"),
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option("--audit", help="Folder of the audit: each answer has a line.", metavar="DIR"),
    ] = None,
    writer: Annotated[
        str | None,
        typer.Option("--audit-writer", help="Name of this service's chain there. Default: the host's."),
    ] = None,
    redis: Annotated[
        str | None,
        typer.Option(
            "--redis",
            help="Redis of `kpiflow stream --live`, for /kpi/stream, as redis://HOST:PORT/DB.",
            metavar="URL",
        ),
    ] = None,
    rows: Annotated[int, typer.Option("--most-rows", min=1, help="Rows of a page, at most.")] = MOST_ROWS,
    seconds: Annotated[float, typer.Option(min=0.001, max=3600, help="Seconds of a query, at most.")] = 30,
    memory_mb: Annotated[int, typer.Option(min=16, help="Memory of a query, at most.")] = 512,
    queries: Annotated[
        int, typer.Option(min=1, max=64, help="Queries that run at once; a few more wait, others get 503.")
    ] = 4,
    connections: Annotated[
        int,
        typer.Option(
            min=1,
            help="Connections at once; for a further one the oldest without a request is closed.",
        ),
    ] = 1000,
) -> None:
    """Serve the named queries of an output folder over HTTP, until interrupted.

    GET /queries lists them, and GET /openapi.json describes every route. `kpiflow query` answers the same
    questions without a server.
    """
    try:
        from pipelines.service.access.open_guards import Access
        from pipelines.service.live import LiveReports
        from pipelines.service.server import serve as run
        from pipelines.service.service import Service
    except ImportError as error:
        raise make_missing_error("serve", error, "service") from error
    host, port = parse_address(address, PORT)
    if is_insecure and not is_loopback(host):
        raise WrongUse(f"{host} is not the loopback, so it needs TLS", "listen on 127.0.0.1")
    folder = require_folder(output)
    minutes = read_row_settings(folder, "served")["file_minutes"]
    live = None if redis is None else LiveReports(_connect(redis, ctx.obj.settings()))
    access = Access(certificate, key, client_ca, client_crl, roles, audit, writer)
    context, log = None, None
    if is_insecure:
        guards, log = access.open_local()
    else:
        guards, context, log = access.open()
    limits = QueryLimits(rows, seconds, memory_mb)
    service = Service(folder, minutes, limits, queries, connections, guards, is_local=is_insecure, live=live)

    def say(port: int) -> None:
        scheme = "http" if context is None else "https"
        announce(SERVING, output=output, address=f"{scheme}://{_bracket(host)}:{port}")

    try:
        asyncio.run(run(service, host, port, context, say))
    finally:
        if log is not None:
            log.close()


def _connect(url: str, settings: Settings) -> Connection:
    """The Redis of live reports.

    Raises:
        RunFailed: it cannot be used.
    """
    connection = connect_redis(url, settings)
    try:
        connection.check(LIVE_STREAMS[:1])
    except RedisUnavailable as error:
        raise RunFailed(str(error), "correct --redis, or serve without it") from error
    return connection


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host
