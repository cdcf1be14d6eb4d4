"""`kpiflow simulate`: a Layer 4 to test against."""

import asyncio
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from pipelines.console import announce, print_result
from pipelines.durations import parse_duration
from pipelines.failures import RunFailed, WrongUse, make_missing_error
from pipelines.inputs import find_archives
from pipelines.listening import is_loopback, parse_address
from pipelines.simulator.clock import SimulatedClock
from pipelines.simulator.faults import OF_REQUESTS, OF_SOCKETS, Faults
from pipelines.simulator.offers import MOST_BEHIND, Offers
from pipelines.simulator.outages import Outages
from pipelines.simulator.reports import ArchivedReports, GeneratedReports, Reports, Schedule
from pipelines.simulator.tls import make_context
from pipelines.synthetic import KpiTestGenerator
from pipelines.synthetic.messages import check_share
from pipelines.time_flags import parse_time
from transforms.core.counts import format_count
from transforms.core.events import NOTICE

_HELP = "`kpiflow simulate --help` lists the options"
_OFFERED, _FAULTS, _TLS = "What is offered", "Faults", "TLS"


def simulate(
    listen: Annotated[str, typer.Option(help="Where to listen; port 0 is a free one.", metavar="HOST:PORT")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="Offer the reports of these archives in their order, instead of generated ones.",
            metavar="GLOB",
            rich_help_panel=_OFFERED,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Equal seeds and options give equal reports.", rich_help_panel=_OFFERED)
    ] = 0,
    agents: Annotated[int, typer.Option(help="Number of agents.", rich_help_panel=_OFFERED)] = 50,
    ties: Annotated[
        float,
        typer.Option(
            help="Share of reports with the recorded_at of the report before.", rich_help_panel=_OFFERED
        ),
    ] = 0.0,
    rate: Annotated[
        float,
        typer.Option(help="Reports to offer a minute of the simulator's clock.", rich_help_panel=_OFFERED),
    ] = 1000.0,
    history: Annotated[
        int, typer.Option(help="Reports that were offered before the start.", rich_help_panel=_OFFERED)
    ] = 0,
    reports: Annotated[
        int | None,
        typer.Option(help="Offer so many reports in all.", show_default="no end", rich_help_panel=_OFFERED),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            help="Reports that the export keeps. Older ones are dropped, which moves every page.",
            show_default="all",
            rich_help_panel=_OFFERED,
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="First time of the simulator's clock, RFC 3339.",
            show_default="now",
            metavar="TIME",
            rich_help_panel=_OFFERED,
        ),
    ] = None,
    speed: Annotated[
        float, typer.Option(help="Speed of the simulator's clock.", rich_help_panel=_OFFERED)
    ] = 1.0,
    record: Annotated[
        Path | None,
        typer.Option(
            help="File for every report that is offered, one a line, written before anybody can get it.",
            metavar="FILE",
            rich_help_panel=_OFFERED,
        ),
    ] = None,
    faults: Annotated[
        str,
        typer.Option(
            help="Probability of each fault: of a request of the export "
            f"({', '.join(OF_REQUESTS)}), of all sockets at a report ({', '.join(OF_SOCKETS)}).",
            metavar="NAME=PROBABILITY,...",
            rich_help_panel=_FAULTS,
        ),
    ] = "",
    fault_seed: Annotated[
        int, typer.Option(help="Equal seeds give equal requests a fault.", rich_help_panel=_FAULTS)
    ] = 0,
    drop_every: Annotated[
        str,
        typer.Option(
            help="Drop all sockets each so often by the simulator's clock, such as 23s; 0s is never. "
            "SIGUSR1 drops them at once.",
            metavar="SPAN",
            rich_help_panel=_FAULTS,
        ),
    ] = "0s",
    stream_down_after: Annotated[
        str,
        typer.Option(
            help="Begin of a time in which the stream is down but the export works, after the start by the "
            "simulator's clock.",
            metavar="SPAN",
            rich_help_panel=_FAULTS,
        ),
    ] = "0s",
    stream_down_for: Annotated[
        str,
        typer.Option(
            help="How long the stream is down, such as 65m by the simulator's clock.",
            metavar="SPAN",
            rich_help_panel=_FAULTS,
        ),
    ] = "0s",
    slow_after: Annotated[
        int,
        typer.Option(
            help="Reports by which a consumer may be behind before its socket is dropped.",
            rich_help_panel=_FAULTS,
        ),
    ] = MOST_BEHIND,
    certificate: Annotated[
        Path | None,
        typer.Option(
            "--tls-certificate", help="PEM file of the server.", metavar="FILE", rich_help_panel=_TLS
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--tls-key", help="PEM file of its key.", metavar="FILE", rich_help_panel=_TLS),
    ] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(
            help="PEM file of who signs the certificates of consumers, which then need one.",
            metavar="FILE",
            rich_help_panel=_TLS,
        ),
    ] = None,
    tls12: Annotated[
        bool,
        typer.Option(
            "--tls12",
            help="Speak only TLS 1.2, which a consumer must refuse. Without it only 1.3 is spoken.",
            rich_help_panel=_TLS,
        ),
    ] = False,
) -> None:
    """Serve Layer 4's /kpi/export, /kpi/stream and /metrics over generated or archived reports, until
    stopped.

    At most 1,000 requests of the export are answered per consumer and minute.
    """
    server = _load_server()
    host, port = parse_address(listen, 9090)
    tls = _make_context(host, certificate, key, client_ca, tls12)
    numbers = {"rate": rate, "history": history, "speed": speed, "slow-after": slow_after}
    _check_numbers(numbers | {"keep": keep or 0, "reports": reports or 0})
    schedule = Schedule(_to_micros(parse_time("--start", start)), rate, history)
    try:
        check_share("ties", ties)
        chosen = Faults.parse(faults, fault_seed)
        outages = Outages(
            every=parse_duration("drop-every", drop_every).total_seconds(),
            begin=parse_duration("stream-down-after", stream_down_after).total_seconds(),
            duration=parse_duration("stream-down-for", stream_down_for).total_seconds(),
        )
        generator = KpiTestGenerator(agents=agents, seed=seed)
    except ValueError as error:
        raise WrongUse(str(error), _HELP) from error
    every = _read_archives(inputs) if inputs else GeneratedReports(generator, schedule, ties)
    with _explain_record(record):
        offers = Offers(every, schedule, SimulatedClock(schedule.start, speed), reports, keep, record)
    layer4 = server.Layer4(offers, chosen, outages, slow_after)
    try:
        with _explain_record(record):
            asyncio.run(server.serve(layer4, host, port, tls, _show_address))
    finally:
        offers.close()
        print_result(layer4.describe())


def _show_address(address: str) -> None:
    announce(NOTICE, message=f"Layer 4 listens on {address}")


def _check_numbers(numbers: dict[str, float]) -> None:
    for name, number in numbers.items():
        if not 0 <= number < float("inf"):
            raise WrongUse(f"--{name} {number} is not possible", "give a positive number, or 0")


def _load_server() -> ModuleType:
    try:
        from pipelines.simulator import server
    except ImportError as error:
        raise make_missing_error("simulate", error, "relay") from error
    return server


def _make_context(
    host: str, certificate: Path | None, key: Path | None, client_ca: Path | None, tls12: bool
) -> ssl.SSLContext | None:
    if not (certificate and key):
        if certificate or key or client_ca or tls12:
            raise WrongUse("TLS needs a certificate and a key", "give --tls-certificate and --tls-key")
        if not is_loopback(host):
            raise WrongUse(
                f"{host} is not the loopback, so it needs TLS", "give --tls-certificate and --tls-key"
            )
        return None
    try:
        return make_context(certificate, key, client_ca, tls12)
    except OSError as error:
        raise WrongUse(f"TLS cannot be used: {error}", "name PEM files that belong together") from error


def _to_micros(moment: datetime | None) -> int:
    return time.time_ns() // 1000 if moment is None else round(moment.timestamp() * 1_000_000)


def _read_archives(patterns: list[str]) -> Reports:
    """The reports of archives.

    Raises:
        WrongUse: no file matches, or there is no report in them.
        RunFailed: a file cannot be read, or the disk is full.
    """
    from pipelines.simulator.archives import UnreadableError, read_payloads

    try:
        every = ArchivedReports(read_payloads(find_archives(patterns)))
    except UnreadableError as error:
        raise RunFailed(str(error), "leave the file out") from error
    except OSError as error:
        raise RunFailed(f"no copy of the reports can be written: {error}", "make room for it") from error
    if every.skipped:
        skipped = format_count(every.skipped, "message")
        announce(NOTICE, message=f"{skipped} without a JSON object left out")
    if not every.count:
        raise WrongUse("there is no report in these archives", "give --input archives with reports")
    return every


@contextmanager
def _explain_record(record: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"{record} cannot be written: {error.strerror}", "give --record a file on a disk with room"
        ) from error
