"""`kpiflow generate`: synthetic reports as an archive, or live into a Redis stream, with their expected
fates.
"""

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pipelines.console import print_result
from pipelines.durations import parse_duration
from pipelines.failures import RunFailed, WrongUse
from pipelines.progress import show_count
from pipelines.synthetic import START, KpiTestGenerator
from pipelines.synthetic.archive import TRUTH, Archive, Compression, Form, prepare_archive, write_archive
from pipelines.synthetic.injected_outliers import CROWD, HISTORY
from pipelines.synthetic.messages import Mix, check_share
from pipelines.synthetic.records.archive import prepare_with_records
from pipelines.synthetic.records.clocks import check_skew
from pipelines.synthetic.reports import Scenario
from transforms.core.counts import format_count

_OF_ARCHIVES = frozenset({"output", "bare", "start", "span", "compress", "clock_skew"})
_OF_STREAMS = frozenset({"streams", "rate", "truth", "warm"})
_OPTIONS = {"streams": "stream", "clock_skew": "clock-skew"}
"""Options that have another name than their parameter."""
_START = START.isoformat().replace("+00:00", "Z")


def generate(
    ctx: typer.Context,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write. An earlier generation in it is replaced.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--redis", help="Send to this server, live, instead of writing a folder.", metavar="URL"
        ),
    ] = None,
    streams: Annotated[
        list[str] | None, typer.Option("--stream", help="Key of the stream to send to.", metavar="KEY")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Messages of reports to send a minute; records come on top. 0: as fast as possible."
        ),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="With --redis: file for the expected fates of sent messages.", metavar="FILE"),
    ] = None,
    warm: Annotated[
        bool,
        typer.Option(
            "--warm",
            help="With --redis: assume that the agents of this --seed have an hour of history, and send "
            "outliers from the first minute.",
        ),
    ] = False,
    reports: Annotated[
        int,
        typer.Option(help="Messages of reports, including invalid and repeated ones; records come on top."),
    ] = 200_000,
    agents: Annotated[int, typer.Option(help="Number of agents.")] = 50,
    seed: Annotated[int, typer.Option(help="Equal seeds and options give equal bytes.")] = 0,
    dirty: Annotated[float, typer.Option(help="Share of invalid messages.")] = 0.05,
    duplicates: Annotated[
        float, typer.Option(help="Share of messages that repeat an earlier report under another message id.")
    ] = 0.02,
    late: Annotated[
        float, typer.Option(help="Share of valid reports that arrive 61 s to 50 min late.")
    ] = 0.01,
    outliers: Annotated[
        float,
        typer.Option(
            help="Share of reports with a value far outside the agent's usual values. Only agents with "
            f"{HISTORY} reports an hour have usual values."
        ),
    ] = 0.01,
    scenario: Annotated[
        Scenario,
        typer.Option(
            help="normal, anomaly (frequent reports, outliers from the first hour on), performance (named "
            "patterns)."
        ),
    ] = "normal",
    records: Annotated[
        bool,
        typer.Option(
            "--records",
            help="Also make the tasks, results, agents and system health to which the reports belong.",
        ),
    ] = False,
    inconsistent: Annotated[
        float,
        typer.Option(
            help="With --records: share of reports that break a rule, or whose records come late or never."
        ),
    ] = 0.01,
    clock_skew: Annotated[
        float,
        typer.Option(help="With --records: up to so many seconds by which the clocks of hosts are wrong."),
    ] = 0.0,
    bare: Annotated[bool, typer.Option("--bare", help="Write bare reports instead of envelopes.")] = False,
    start: Annotated[str, typer.Option(help="Time of the first report, RFC 3339.")] = _START,
    span: Annotated[
        str,
        typer.Option(
            help="Time that the reports cover, such as 90m, 48h or 7d.",
            show_default="48h; anomaly: 30s a report of an agent",
        ),
    ] = "",
    encoding: Annotated[
        Literal["json", "protobuf"], typer.Option(help="Encoding of the payloads: json, or protobuf.")
    ] = "json",
    compress: Annotated[Compression, typer.Option(help="none, gz or zst.")] = "none",
) -> None:
    """Generate synthetic reports as an archive, one file an hour, and truth.json with the expected fate of
    each message.

    With --redis they are sent to a stream at a steady rate instead, and recorded_at is the time of sending.
    If Redis is unavailable, sending waits for it.
    """
    began = time.perf_counter()
    _check_options(ctx, live=url is not None)
    if records and bare:
        raise WrongUse("bare reports cannot have records beside them", "leave out --bare or --records")
    if bare and encoding != "json":
        raise WrongUse("bare reports are JSON", "leave out --bare or --encoding")
    try:
        mix = Mix(reports, dirty, duplicates, late, outliers)
        generator = KpiTestGenerator(
            agents=agents,
            seed=seed,
            start=_parse_time(start),
            span=parse_duration("span", span) if span else None,
        )
        check_share("inconsistent", inconsistent)
        check_skew(clock_skew)
        if url is None:
            generator.compute_span(mix.rows, scenario)
    except ValueError as error:
        raise WrongUse(str(error), "`kpiflow generate --help` lists the options") from error
    if url is not None:
        # Loads Beam and other modules that an archive does not need.
        from pipelines.commands.generate_live import send

        where = url, ctx.obj.settings(), streams or [], rate or 0.0
        send(*where, generator, scenario, mix, truth, warm, inconsistent if records else None, encoding)
        return
    assert output is not None
    wrong = (inconsistent, clock_skew) if records else None
    archive = _prepare(generator, scenario, mix, Form(bare, compress, encoding), wrong)
    with show_count("writing", len(archive.received)) as advance:
        size = write_archive(archive, output, advance)
    for line in _describe_result(archive, output, size, time.perf_counter() - began):
        print_result(line)


def _prepare(
    generator: KpiTestGenerator,
    scenario: Scenario,
    mix: Mix,
    form: Form,
    records: tuple[float, float] | None,
) -> Archive:
    """The archive to write. `records`: the share of inconsistent reports and the skew of clocks, if it has
    records."""
    try:
        if records is not None:
            return prepare_with_records(generator, scenario, mix, form, *records)
        return prepare_archive(generator, scenario, mix, form)
    except MemoryError as error:
        raise RunFailed(
            f"there is no memory for {format_count(mix.messages, 'message')}",
            "write several archives, each with its --start",
        ) from error


def _check_options(ctx: typer.Context, live: bool) -> None:
    """Check that options of archives and options of streams are not mixed."""
    typed = {
        name for name in ctx.params if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    if not live and "output" not in typed:
        raise WrongUse(
            "no destination is given",
            "give --output FOLDER, or --redis URL with --stream and --rate",
        )
    if "records" not in typed and (alone := typed & {"inconsistent", "clock_skew"}):
        names = " and ".join(f"--{_OPTIONS.get(name, name)}" for name in sorted(alone))
        raise WrongUse(f"{names} is about reports that have records", "add --records")
    foreign = typed & (_OF_ARCHIVES if live else _OF_STREAMS)
    if foreign:
        names = " and ".join(f"--{_OPTIONS.get(name, name)}" for name in sorted(foreign))
        raise WrongUse(
            f"{names} cannot be used with {'--redis' if live else '--output'}",
            "either send to a stream (--redis, --stream, --rate, --truth) or write an archive (--output and "
            "others)",
        )
    if live and not {"streams", "rate"} <= typed:
        raise WrongUse(
            "--redis needs --stream and --rate",
            "give the stream's key, and the number of messages of reports to send a minute",
        )


def _parse_time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"start {text!r} is not a date-time; write it like 2025-10-20T00:00:00Z") from error
    if moment.tzinfo is None:
        raise ValueError(f"start {text!r} has no time zone; write it like 2025-10-20T00:00:00Z")
    return moment.astimezone(UTC)


def describe_fates(truth: Mapping[str, Any], messages: int) -> str:
    """What becomes of generated messages, in words; `messages`: their number with those of records."""
    fates = f"{format_count(truth['reports'], 'report')}, {truth['outliers']:,} of them outliers; "
    fates += f"{format_count(truth['duplicates'], 'duplicate')}, {truth['quarantined']:,} to quarantine"
    records = messages - truth["messages"]
    return fates + (f"; {format_count(records, 'message')} of records" if records else "")


def _describe_result(archive: Archive, output: Path, size: int, seconds: float) -> Iterator[str]:
    truth = archive.truth
    messages = len(archive.received)
    fates = describe_fates(truth, messages)
    yield (
        f"wrote {format_count(messages, 'message')} ({fates}) to {output} in {seconds:.1f} s: "
        f"{messages / seconds:,.0f}/s, {size / 1e6:,.1f} MB; {TRUTH} has the expected fates"
    )
    asked = truth["outliers_asked"]
    if truth["outliers"] < asked:
        yield (
            f"--outliers asks for {format_count(asked, 'outlier')}, {truth['outliers'] or 'none'} could be "
            f"made: only reports whose agent sent {HISTORY} others in the hour before can be one, and at "
            f"most one in {CROWD} of these is. Generate more --reports, fewer --agents or a shorter --span"
        )
    planted = [f"--{name}" for name in ("dirty", "late", "inconsistent") if truth["settings"].get(name)]
    if planted and "records" in truth:
        yield (
            f"some messages are wrong on purpose ({', '.join(planted)}), so `kpiflow quality` may find the "
            "scores too low; with 0 for each of these options it does not"
        )
