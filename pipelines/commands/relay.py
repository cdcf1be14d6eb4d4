"""`kpiflow relay`: Layer 4's HTTP export and WebSocket into a Redis stream."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.console import announce, err, print_result
from pipelines.failures import WrongUse, make_missing_error
from transforms.core.counts import format_count
from transforms.core.events import RELAY_PROGRESS, is_json

if TYPE_CHECKING:
    from pipelines.relay.home import RelayStatus
    from pipelines.relay.tls import TlsFiles

Certificate = Annotated[
    Path | None, typer.Option("--certificate", help="Certificate of this client (PEM).", metavar="FILE")
]
Key = Annotated[
    Path | None, typer.Option("--key", help="Private key of that certificate (PEM).", metavar="FILE")
]
Authority = Annotated[
    Path | None, typer.Option("--ca", help="Certificate authority of Layer 4 (PEM).", metavar="FILE")
]
Revoked = Annotated[
    Path | None, typer.Option("--crl", help="Revoked certificates of that authority (PEM).", metavar="FILE")
]
_LINE_SECONDS = 10.0


def relay(
    ctx: typer.Context,
    export: Annotated[
        str, typer.Option("--export", help="https://HOST:PORT/kpi/export of Layer 4.", metavar="URL")
    ],
    url: Annotated[
        str,
        typer.Option(
            "--redis", help="redis://HOST:PORT/DB, rediss:// for TLS, or unix:///PATH.", metavar="URL"
        ),
    ],
    stream: Annotated[
        str, typer.Option("--stream", help="Key of the stream that reports are added to.", metavar="KEY")
    ],
    live: Annotated[
        str | None,
        typer.Option("--live", help="wss://HOST:PORT/kpi/stream: reports come at once.", metavar="URL"),
    ] = None,
    certificate: Certificate = None,
    key: Key = None,
    ca: Authority = None,
    crl: Revoked = None,
    archive: Annotated[
        Path | None,
        typer.Option(
            "--archive",
            help="Folder of reports that are too old for the stream, and of the relay's status. Default: "
            "relay-KEY.",
            metavar="DIR",
        ),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="End once everything that the export has is relayed.")
    ] = False,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help="Serve the relay's metrics here, with /healthz and /readyz. Without HOST: on 127.0.0.1.",
            metavar="HOST:PORT",
        ),
    ] = None,
) -> None:
    """Read Layer 4's export and socket, and add each report to a Redis stream, until interrupted.

    The same command continues after Ctrl-C and after any crash, and no report is lost. Several relays may run
    for one stream: one is active, and another takes over within seconds. `kpiflow stream` makes the tables.
    """
    with explain_missing_extra():
        from pipelines.jobs.relay import RelayJob
        from pipelines.jobs.relay import relay as run
    home = archive or Path(f"relay-{stream.replace('/', '_')}")
    job = RelayJob(export, url, stream, home, live, make_tls_files(certificate, key, ca, crl), once, metrics)
    with _followed() as follow:
        try:
            status = run(job, ctx.obj.settings(), follow)
        except KeyboardInterrupt:
            print_result("stopped; the same command goes on from where it was")
            raise
    totals = status.totals
    print_result(f"everything in the export is relayed: {_count(totals, 'exported')} over all runs")
    if status.backfill:
        print_result(f"too old for the stream: {_count(totals, 'archived')}; put them into the tables:")
        print_result(f"  {status.backfill}")


@contextmanager
def explain_missing_extra() -> Iterator[None]:
    """Raise WrongUse where a package of the extra `relay` is not installed."""
    try:
        yield
    except ImportError as error:
        raise make_missing_error("a relay", error, "relay") from error


def make_tls_files(
    certificate: Path | None, key: Path | None, ca: Path | None, crl: Path | None
) -> "TlsFiles | None":
    """The files of TLS; None if none are given.

    Raises:
        WrongUse: some are missing.
    """
    from pipelines.relay.tls import TlsFiles

    if certificate is None and key is None and ca is None and crl is None:
        return None
    if certificate is None or key is None or ca is None:
        raise WrongUse(
            "TLS needs a certificate, its key and an authority", "give --certificate, --key and --ca together"
        )
    return TlsFiles(certificate, key, ca, crl)


def describe_relay(status: "RelayStatus") -> Iterator[tuple[str, str]]:
    """How a relay does, as names and texts."""
    found, totals = status.situation, status.totals
    yield "relay", found.state if status.running else "not running"
    yield "export", _count(totals, "exported") + _describe_behind(found.behind)
    if status.live is not None:
        socket = "open" if found.connected else "closed"
        opened = format_count(totals.get("connections", 0), "time")
        yield (
            "socket",
            f"{socket}, {_count(totals, 'live')}, opened {opened}, "
            f"{totals.get('healed', 0):,} missed and relayed from the export",
        )
    for name, text in (
        ("export", found.export_error), ("socket", found.live_error), ("redis", found.redis_error),
    ):  # fmt: skip
        if text:
            yield f"{name} problem", text
    if malformed := totals.get("malformed", 0):
        count = format_count(malformed, "report")
        yield "no JSON", f"{count} of the export; `kpiflow stream` puts such into quarantine"
    if lost := totals.get("lost", 0):
        count = format_count(lost, "time")
        yield "lost", f"{count} Layer 4 dropped reports, or may have, before they were read"
    if status.backfill:
        yield "too old", f"{_count(totals, 'archived')} in the archive: {status.backfill}"


def _count(totals: Mapping[str, int], name: str) -> str:
    return format_count(totals.get(name, 0), "report")


def _describe_behind(behind: int | None) -> str:
    return "" if behind is None else f", {behind:,} left"


@contextmanager
def _followed() -> "Iterator[Callable[[RelayStatus], None]]":
    """What shows the progress: a table that stays in place on a terminal, a line now and then elsewhere."""
    if err.is_terminal and not is_json():
        with Live(console=err, refresh_per_second=4, transient=True) as view:
            yield lambda status: view.update(make_relay_table(status))
        return
    shown: list[tuple[float, str]] = []

    def line(status: "RelayStatus") -> None:
        now = time.monotonic()
        if not shown or now - shown[-1][0] >= _LINE_SECONDS or status.situation.state != shown[-1][1]:
            shown[:] = [(now, status.situation.state)]
            announce(RELAY_PROGRESS, **_list_fields(status))

    yield line


def _list_fields(status: "RelayStatus") -> dict[str, Any]:
    found, totals = status.situation, status.totals
    problem = next(iter(found.problems), "no problem")
    names = ("exported", "live", "archived", "lost")
    return {"state": found.state, "problem": problem, **{name: totals.get(name, 0) for name in names}}


def make_relay_table(status: "RelayStatus") -> Table:
    """How a relay does, as a table."""
    table = Table(box=None, show_header=False)
    for name, text in describe_relay(status):
        table.add_row(Text(name, "bold"), text)
    return table
