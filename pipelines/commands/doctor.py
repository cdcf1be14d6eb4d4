"""`kpiflow doctor`: whether everything that a job needs is there, before it starts."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from pipelines.assembly import connect_redis
from pipelines.console import out, print_json, style_head
from pipelines.failures import CheckFailed, WrongUse
from pipelines.jobs.lock import is_locked
from pipelines.jobs.stream import refuse_unready
from pipelines.outputs import local_folder, parse_sink
from pipelines.settings import Settings
from pipelines.verify.output_description import check_description
from transforms.core.errors import Finding, Refused, Unavailable
from transforms.redis.access import LIVE_STREAMS
from transforms.redis.connection import Connection
from transforms.sinks.sink import Store
from transforms.sources.redis.check import check


def doctor(
    ctx: typer.Context,
    outputs: Annotated[
        list[str] | None,
        typer.Option("--output", help="An output of the job; may be given several times.", metavar="OUT"),
    ] = None,
    url: Annotated[
        str | None, typer.Option("--redis", help="The server whose streams the job reads.", metavar="URL")
    ] = None,
    streams: Annotated[
        list[str] | None,
        typer.Option("--stream", help="Keys of these streams; several may follow.", metavar="KEY..."),
    ] = None,
    group: Annotated[str, typer.Option("--group", help="The consumer group of the job.")] = "kpiflow",
    live: Annotated[
        bool, typer.Option("--live", help="The job publishes to the streams kpi_enriched and kpi_outliers.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Check everything that a job needs at its source and its outputs: reachable, permitted, of a schema that fits.

    It uses what the job uses: with --redis, each command that a stream needs is tried as the user given, and a lease is taken.
    Nothing is changed, but for a probe that is taken back where only that shows a permission. Exit code 1 unless all is well.
    """
    settings: Settings = ctx.obj.settings()
    if not outputs and not url:
        raise WrongUse("there is nothing to look at", "give the --output and --redis that the job is to have")
    found = {text: list(_looked_at(text, settings)) for text in dict.fromkeys(outputs or [])}
    if url:
        connection = connect_redis(url, settings)
        found[connection.public] = list(_streamed(connection, streams or [], group, live, settings))
    if as_json:
        print_json({place: [_plain(each) for each in findings] for place, findings in found.items()})
    else:
        for place, findings in found.items():
            _print(place, findings)
    problems = sum(bool(each.problem) for findings in found.values() for each in findings)
    if problems:
        raise CheckFailed(f"{problems} thing{'s' * (problems > 1)} would keep a job from working")


def _looked_at(text: str, settings: Settings) -> Iterator[Finding]:
    """What a place says of itself and, if all is well, whether this version and these settings fit what it holds."""
    well, what = True, "its URL, and what it asks for"
    try:
        place = parse_sink(text, settings)
        for finding in place.check():
            well = well and not finding.problem
            yield finding
        folder = local_folder(place)
        if folder is not None and is_locked(folder):
            yield Finding(
                "no job writes to it now",
                f"another job is writing to {folder}",
                "wait for it, or name another output",
            )
        if well and isinstance(place, Store):
            what = "the version and the settings of what it holds"
            check_description(place, settings)
            yield Finding(what)
    except (Refused, Unavailable) as error:
        yield Finding("the place", str(error))
    except WrongUse as error:
        yield Finding(what, str(error), error.fix)


def _streamed(
    connection: Connection, streams: list[str], group: str, live: bool, settings: Settings
) -> Iterator[Finding]:
    """What a stream needs beside its outputs: settings that suit it, Java and Flink on this machine, and Redis."""
    what = "the settings suit a stream, and Java and Flink are here or can be fetched"
    try:
        refuse_unready(settings)
        yield Finding(what)
    except WrongUse as error:
        yield Finding(what, str(error), error.fix)
    yield from check(connection, tuple(dict.fromkeys(streams)), group, LIVE_STREAMS if live else ())


def _plain(finding: Finding) -> dict[str, Any]:
    return {
        "checked": finding.what,
        "ok": not finding.problem,
        "problem": finding.problem or None,
        "fix": finding.fix or None,
    }


def _print(place: str, findings: list[Finding]) -> None:
    out.print(style_head("bold", place, ""))
    for each in findings:
        style, mark = ("red", "no ") if each.problem else ("green", "ok ")
        out.print(
            style_head(style, f"  {mark}", f" {each.what}" + (f": {each.problem}" if each.problem else ""))
        )
        if each.fix:
            out.print(f"      {each.fix}")
