"""`kpiflow metrics`: the metrics of a streaming job, printed or served."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from pipelines.console import announce
from pipelines.jobs.job_status import read_health
from pipelines.metrics.exposition import make_page
from pipelines.metrics.numbers import SourceWatch
from pipelines.metrics.server import Address, serve_metrics, serve_pages
from pipelines.relay.home import is_relay
from pipelines.relay.metrics import make_relay_page, make_relay_pages
from pipelines.settings import Settings
from pipelines.sources import parse_live_source
from transforms.core.events import METRICS_SERVED
from transforms.core.secrets import mask_secrets


def metrics(
    ctx: typer.Context,
    home: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Output folder of a streaming job, or its --state folder."),
    ],
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            help="Serve /metrics, /healthz and /readyz here, until interrupted, instead of printing.",
            metavar="HOST:PORT",
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--redis", "--source", help="Source, if it is not the one of the job.", metavar="URL"),
    ] = None,
) -> None:
    """Print or serve the metrics of a streaming job, running or stopped, as OpenMetrics text.

    A job that was started with `--metrics` serves them itself.
    """
    settings = ctx.obj.settings()
    if is_relay(home):
        _show_relay(home, listen, settings)
        return
    found = read_health(home)
    watch = SourceWatch(parse_live_source(url or found.source, found.keys, found.group, settings))
    if listen is None:
        watch.ask()
        typer.echo(mask_secrets(make_page(home, watch).decode()), nl=False)
        return
    address = Address.parse(listen, settings)
    with serve_metrics(address, home, watch) as port:
        announce(METRICS_SERVED, home=str(home), host=address.host, port=port)
        signal.pause()


def _show_relay(home: Path, listen: str | None, settings: Settings) -> None:
    if listen is None:
        typer.echo(mask_secrets(make_relay_page(home).decode()), nl=False)
        return
    address = Address.parse(listen, settings)
    with serve_pages(address, make_relay_pages(home)) as port:
        announce(METRICS_SERVED, home=str(home), host=address.host, port=port)
        signal.pause()
