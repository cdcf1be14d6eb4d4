"""`kpiflow generate`: synthetic reports as an archive, or live into a Redis stream, and the truth about each message."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.console import err, out
from pipelines.failures import RunFailed, WrongUse
from pipelines.synthetic import START, KpiTestGenerator
from pipelines.synthetic.archive import TRUTH, Archive, Compression, Form, prepare, write
from pipelines.synthetic.messages import Mix
from pipelines.synthetic.reports import Scenario

_OF_ARCHIVES = frozenset({"output", "bare", "start", "span", "compress"})
_OF_STREAMS = frozenset({"streams", "rate", "truth", "warm"})
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def generate(
    ctx: typer.Context,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write; an earlier generation there is replaced.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--redis", help="Instead of a folder: send to this server, as things happen.", metavar="URL"
        ),
    ] = None,
    streams: Annotated[
        list[str] | None, typer.Option("--stream", help="Key of the stream to send to.", metavar="KEY")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Messages to send a minute; 0 is as fast as possible.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="With --redis: a file for the truth about what was sent.", metavar="FILE"),
    ] = None,
    warm: Annotated[
        bool,
        typer.Option(
            "--warm",
            help="With --redis: the agents of this --seed have an hour of history, so outliers are sent from the first minute.",
        ),
    ] = False,
    reports: Annotated[int, typer.Option(help="Messages to write, or send, in all.")] = 200_000,
    agents: Annotated[int, typer.Option(help="Agents that report.")] = 50,
    seed: Annotated[int, typer.Option(help="Equal seeds and options give equal bytes.")] = 0,
    dirty: Annotated[float, typer.Option(help="Share of messages that must be quarantined.")] = 0.05,
    duplicates: Annotated[
        float, typer.Option(help="Share that repeats an earlier report under another message id.")
    ] = 0.02,
    late: Annotated[
        float, typer.Option(help="Share of good reports that arrive 61 s to 50 min late.")
    ] = 0.01,
    outliers: Annotated[
        float, typer.Option(help="Share pushed far outside the agent's usual values.")
    ] = 0.01,
    scenario: Annotated[
        Scenario,
        typer.Option(
            help="normal, anomaly (dense, outliers from the first hour on), performance (named patterns)."
        ),
    ] = "normal",
    bare: Annotated[
        bool, typer.Option("--bare", help="Write the reports themselves, not envelopes.")
    ] = False,
    start: Annotated[str, typer.Option(help="First moment, RFC 3339.")] = START.isoformat().replace(
        "+00:00", "Z"
    ),
    span: Annotated[
        str,
        typer.Option(
            help="Time covered, such as 90m, 48h or 7d.",
            show_default="48h; anomaly: 30s a report of an agent",
        ),
    ] = "",
    compress: Annotated[Compression, typer.Option(help="none, gz or zst.")] = "none",
) -> None:
    """Synthetic reports as an archive, a file an hour, and truth.json: what must become of each message.

    With --redis they are sent to a stream at a steady rate instead, recorded when they are sent. A restart of Redis is waited for.
    """
    began = time.perf_counter()
    _refuse_mixtures(ctx, live=url is not None)
    try:
        mix = Mix(reports, dirty, duplicates, late, outliers)
        generator = KpiTestGenerator(agents=agents, seed=seed, start=_moment(start), span=_span(span))
        if url is None:
            generator.span_of(mix.rows, scenario)
    except ValueError as error:
        raise WrongUse(str(error), "`kpiflow generate --help` lists what can be asked for") from error
    if url is not None:
        from pipelines.commands.send import send  # loads what an archive does not need, Beam among it

        send(url, ctx.obj.settings(), streams or [], rate or 0.0, generator, scenario, mix, truth, warm)
        return
    assert output is not None
    try:
        archive = prepare(generator, scenario, mix, Form(bare, compress))
    except MemoryError as error:
        raise RunFailed(
            f"{reports:,} messages do not fit into memory", "write several archives, each with its --start"
        ) from error
    with _progress(mix.messages) as advance:
        size = write(archive, output, advance)
    for line in _closing(archive, output, size, time.perf_counter() - began):
        out.print(line)


def _refuse_mixtures(ctx: typer.Context, live: bool) -> None:
    """That what was typed goes together: options of an archive, or those of a stream."""
    typed = {
        name for name in ctx.params if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    if not live and "output" not in typed:
        raise WrongUse(
            "nothing says where the reports should go",
            "give --output FOLDER, or --redis URL with --stream and --rate",
        )
    foreign = typed & (_OF_ARCHIVES if live else _OF_STREAMS)
    if foreign:
        names = " and ".join(
            f"--{name.removesuffix('s') if name == 'streams' else name}" for name in sorted(foreign)
        )
        raise WrongUse(
            f"{names} {'does' if len(foreign) == 1 else 'do'} not go with {'--redis' if live else '--output'}",
            "send to a stream (--redis, --stream, --rate, --truth) or write an archive (--output and the others)",
        )
    if live and not {"streams", "rate"} <= typed:
        raise WrongUse(
            "--redis needs --stream and --rate",
            "name the stream's key, and how many messages to send a minute",
        )


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"start {text!r} is no date-time; write it like 2025-10-20T00:00:00Z") from error
    if moment.tzinfo is None:
        raise ValueError(f"start {text!r} has no time zone; write it like 2025-10-20T00:00:00Z")
    return moment.astimezone(UTC)


def _span(text: str) -> timedelta | None:
    if not text:
        return None
    parts = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([smhd])", text)
    if not parts:
        raise ValueError(f"span {text!r} is no time; write a number and s, m, h or d, such as 48h")
    return timedelta(**{_UNITS[parts[2]]: float(parts[1])})


@contextmanager
def _progress(messages: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    columns = (TextColumn("writing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("writing", total=messages)
        yield lambda count: bar.advance(task, count)


def _closing(archive: Archive, output: Path, size: int, seconds: float) -> Iterator[str]:
    truth = archive.truth
    fates = f"{truth['reports']:,} reports, {truth['outliers']:,} of them outliers; "
    fates += f"{truth['duplicates']:,} duplicates, {truth['quarantined']:,} to quarantine"
    yield (
        f"wrote {truth['messages']:,} messages ({fates}) to {output} in {seconds:.1f} s: "
        f"{truth['messages'] / seconds:,.0f}/s, {size / 1e6:,.1f} MB; {TRUTH} says what must become of each"
    )
    asked = truth["outliers_asked"]
    if truth["outliers"] < asked:
        yield (
            f"{asked - truth['outliers']:,} of {asked:,} outliers left out: only one in five reports that have enough history "
            "of their agent before them is pushed out; ask for more reports, fewer agents or a shorter span"
        )
