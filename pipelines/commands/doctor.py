"""`kpiflow doctor`: whether everything that a job needs is there, before it starts."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.commands.relay import (
    Authority,
    Certificate,
    Key,
    Revoked,
    explain_missing_extra,
    make_tls_files,
)
from pipelines.console import out, print_json, style_head
from pipelines.failures import CheckFailed, WrongUse
from pipelines.jobs.lock import is_locked
from pipelines.jobs.stream import check_readiness
from pipelines.outputs import local_folder, parse_live_streams, parse_sink
from pipelines.settings import Settings
from pipelines.sources import SourceRequest, parse_live_source, parse_source, parse_streams
from pipelines.verify.at_rest import find_encryption
from pipelines.verify.output_description import check_description
from pipelines.verify.output_keys import choose_keys
from transforms.core.counts import format_count
from transforms.core.errors import Finding, Refused, Unavailable
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.sinks.sink import Store
from transforms.sources.source import LiveSource

if TYPE_CHECKING:
    from pipelines.relay.tls import TlsFiles


def doctor(
    ctx: typer.Context,
    outputs: Annotated[
        list[str] | None,
        typer.Option("--output", help="An output of the job; may be given several times.", metavar="OUT"),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="Archives that the job reads: files, folders or globs.",
            metavar="GLOB[=SCHEMA]...",
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--redis", "--source", help="The source of the job's streams.", metavar="URL"),
    ] = None,
    streams: Annotated[
        list[str] | None,
        typer.Option(
            "--stream", help="Keys of these streams; several may follow.", metavar="KEY[=SCHEMA]..."
        ),
    ] = None,
    group: Annotated[str, typer.Option("--group", help="The consumer group of the job.")] = "kpiflow",
    live: Annotated[
        bool, typer.Option("--live", help="The job publishes to the streams kpi_enriched and kpi_outliers.")
    ] = False,
    export: Annotated[
        str | None, typer.Option("--export", help="The export that a relay reads.", metavar="URL")
    ] = None,
    socket: Annotated[
        str | None,
        typer.Option("--socket", help="The socket (--live) of a relay, besides --export.", metavar="URL"),
    ] = None,
    certificate: Certificate = None,
    key: Key = None,
    ca: Authority = None,
    crl: Revoked = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Check everything that a job needs at its source and its outputs: reachable, permitted, with a schema
    that fits.

    It uses what the job uses: with --redis, each command that a stream needs is tried as the given user, and
    a lease is taken and given back. Nothing else is changed, except a probe that is removed again where only
    that shows a permission. Exit code 1 if something is wrong.
    """
    settings: Settings = ctx.obj.settings()
    if not (outputs or inputs or url or export):
        fix = "give the --output, and the --redis or --input, of the job, or the --export of a relay"
        raise WrongUse("there is nothing to check", fix)
    found = {text: list(_check_output(text, settings)) for text in dict.fromkeys(outputs or [])}
    if inputs:
        archives = parse_source(SourceRequest(tuple(inputs)), settings)
        found[archives.name] = list(archives.check())
    if url:
        source = parse_live_source(url, parse_streams(streams or []).keys, group, settings)
        found[source.name] = list(_check_live_source(source, url, live, settings))
    if export:
        files = make_tls_files(certificate, key, ca, crl)
        found[export] = list(_check_layer4(export, socket, files, settings))
    if as_json:
        print_json({place: [_as_json(each) for each in findings] for place, findings in found.items()})
    else:
        for place, findings in found.items():
            _print(place, findings)
    problems = sum(bool(each.problem) for findings in found.values() for each in findings)
    if problems:
        raise CheckFailed(f"{format_count(problems, 'problem')} would keep a job from working")


def _check_output(text: str, settings: Settings) -> Iterator[Finding]:
    """What an output finds itself and, if all is well, whether this version and these settings fit what it
    contains."""
    well, what = True, "its URL and its requirements"
    try:
        sink = parse_sink(text, settings)
        for finding in sink.check():
            well = well and not finding.problem
            yield finding
        folder = local_folder(sink)
        if folder is not None and is_locked(folder):
            fix = "wait for it, or name another output"
            yield Finding("no job writes to it now", f"another job is writing to {folder}", fix)
        if well and isinstance(sink, Store):
            what = "the version and the settings of what it contains"
            check_description(sink, settings)
            yield Finding(what)
        if well and isinstance(sink, ParquetStore):
            what = "its keys"
            yield from find_encryption(sink, choose_keys(sink, sink.read_description(), settings))
    except (Refused, Unavailable) as error:
        yield Finding("the output", str(error))
    except WrongUse as error:
        yield Finding(what, str(error), error.fix)


def _check_live_source(source: LiveSource, url: str, live: bool, settings: Settings) -> Iterator[Finding]:
    """What a stream needs besides its outputs: settings that suit it, Java and Flink on this machine, and its
    source."""
    what = "the settings of a stream, Java and Flink"
    try:
        yield Finding(f"the settings suit a stream; {check_readiness(settings)}")
    except WrongUse as error:
        yield Finding(what, str(error), error.fix)
    yield from source.check()
    if live:
        yield from parse_live_streams(url, settings).check()


def _check_layer4(
    export: str, socket: str | None, files: "TlsFiles | None", settings: Settings
) -> Iterator[Finding]:
    with explain_missing_extra():
        from pipelines.relay.check import check_layer4
    yield from check_layer4(export, socket, files, settings.clock_tolerance_seconds)


def _as_json(finding: Finding) -> dict[str, Any]:
    return {
        "checked": finding.what,
        "ok": not finding.problem,
        "problem": finding.problem or None,
        "fix": finding.fix or None,
    }


def _print(place: str, findings: list[Finding]) -> None:
    out.print(style_head("bold", place, ""))
    for each in findings:
        style, mark = _mark(each)
        problem = f": {each.problem}" if each.problem else ""
        out.print(style_head(style, f"  {mark:4}", f" {each.what}{problem}"))
        if each.fix:
            out.print(f"       {each.fix}")


def _mark(finding: Finding) -> tuple[str, str]:
    """The style and the mark of a line. What keeps no job from working but has a fix is a note."""
    if finding.problem:
        return "red", "no"
    return ("yellow", "note") if finding.fix else ("green", "ok")
