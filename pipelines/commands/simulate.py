"""`kpiflow simulate`: a Layer 4 to test against."""

import asyncio
import signal
import ssl
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pyarrow as pa
import typer

from pipelines.console import err, out
from pipelines.failures import RunFailed, WrongUse
from pipelines.inputs import find_archives, parse_time
from pipelines.simulator.clock import Clock
from pipelines.simulator.offers import Offers
from pipelines.simulator.reports import ArchivedReports, GeneratedReports, Reports, Schedule
from pipelines.synthetic import KpiTestGenerator
from pipelines.synthetic.messages import check_share

if TYPE_CHECKING:
    from pipelines.simulator.server import Layer4


def simulate(
    listen: Annotated[str, typer.Option(help="Where to listen; port 0 is a free one.", metavar="HOST:PORT")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", help="Offer the reports of these archives, not generated ones.", metavar="GLOB"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds and options give equal reports.")] = 0,
    agents: Annotated[int, typer.Option(help="Number of agents.")] = 50,
    rate: Annotated[
        float, typer.Option(help="Reports to offer a minute of the simulator's clock. 0 offers no new ones.")
    ] = 1000.0,
    reports: Annotated[
        int | None, typer.Option(help="Offer so many reports in all.", show_default="no end")
    ] = None,
    history: Annotated[int, typer.Option(help="Reports that were offered before the start.")] = 0,
    ties: Annotated[
        float, typer.Option(help="Share of reports with the recorded_at of the report before.")
    ] = 0.0,
    speed: Annotated[float, typer.Option(help="Speed of the simulator's clock.")] = 1.0,
    start: Annotated[
        str | None,
        typer.Option(
            help="First time of the simulator's clock, RFC 3339.", show_default="now", metavar="TIME"
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(help="Reports that the export keeps; older ones are dropped.", show_default="all"),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(help="File for every report that is offered, one a line.", metavar="FILE"),
    ] = None,
) -> None:
    """Serve Layer 4's export, stream and metrics over generated or archived reports, until stopped."""
    host, port = _parse_address(listen)
    moment = parse_time("--start", start)
    schedule = Schedule(_to_micros(moment), rate, history)
    offers_of = _read_archives(inputs) if inputs else _generate(seed, agents, ties, reports, schedule)
    try:
        from pipelines.simulator.server import Layer4
    except ImportError as error:
        raise WrongUse(
            f"simulate needs {error.name}, which is not installed", "pip install 'kpiflow[relay]'"
        ) from error
    try:
        offers = Offers(offers_of, schedule, Clock(schedule.start, speed), keep, record)
    except OSError as error:
        raise WrongUse(
            f"{record} cannot be written: {error.strerror}", "give --record another file"
        ) from error
    layer4 = Layer4(offers)
    try:
        asyncio.run(_serve(layer4, host, port, None))
    finally:
        offers.close()
        sockets = layer4.sockets
        answers = ", ".join(f"{count:,} of {status}" for status, count in sorted(layer4.answers.items()))
        out.print(
            f"offered {offers.end:,} reports; answers: {answers or 'none'}; "
            f"{sockets.opened:,} sockets, {sockets.dropped:,} dropped"
        )


async def _serve(layer4: "Layer4", host: str, port: int, tls: ssl.SSLContext | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, layer4.sockets.drop)
    try:
        runner, port = await layer4.serve(host, port, tls)
    except OSError as error:
        raise WrongUse(
            f"cannot listen on {host}:{port}: {error.strerror}", "give another --listen"
        ) from error
    err.print(f"Layer 4 listens on {'https' if tls else 'http'}://{host}:{port}")
    offering = asyncio.create_task(layer4.offer())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({offering, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if offering.done():
            offering.result()
    except OSError as error:
        raise RunFailed(
            f"the record cannot be written: {error.strerror}", "make room and start again"
        ) from error
    finally:
        offering.cancel()
        await runner.cleanup()


def _generate(seed: int, agents: int, ties: float, count: int | None, schedule: Schedule) -> Reports:
    try:
        check_share("ties", ties)
        return GeneratedReports(KpiTestGenerator(agents=agents, seed=seed), schedule, ties, count)
    except ValueError as error:
        raise WrongUse(str(error), "`kpiflow simulate --help` lists the options") from error


def _read_archives(patterns: list[str]) -> Reports:
    from transforms.sources.archives.archive_reader import Unreadable, read_files

    def read() -> Iterator[pa.Array]:
        for chunk in read_files(find_archives(patterns)):
            if isinstance(chunk, Unreadable):
                raise RunFailed(f"{chunk.file}: {chunk.reason}", "leave the file out")
            yield chunk.messages.column("payload")

    return ArchivedReports(read())


def _parse_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise WrongUse(f"{text} is no address to listen on", "give HOST:PORT, as 127.0.0.1:9090")
    return host.strip("[]") or "127.0.0.1", int(port)


def _to_micros(moment: datetime | None) -> int:
    return time.time_ns() // 1000 if moment is None else round(moment.timestamp() * 1_000_000)
