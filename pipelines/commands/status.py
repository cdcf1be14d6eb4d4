"""`kpiflow status`: how far a streaming job is, running or stopped."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pipelines.commands.relay import make_relay_table
from pipelines.console import out, print_json
from pipelines.jobs.job_status import DerivedHealth, Health, SinkHealth, StreamHealth, read_health
from pipelines.jobs.run_record import RunRecord
from pipelines.metrics.numbers import Numbers, SourceWatch, read_numbers
from pipelines.metrics.readiness import find_reasons
from pipelines.relay.home import is_relay, read_relay_status
from pipelines.sources import parse_live_source
from transforms.core.counts import format_count
from transforms.sources.source import AHEAD_SECONDS


def status(
    ctx: typer.Context,
    home: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Output folder of a streaming job, or its --state folder."),
    ],
    url: Annotated[
        str | None,
        typer.Option("--redis", "--source", help="Source, if it is not the one of the job.", metavar="URL"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show lag, watermark, last checkpoint and outputs of a streaming job, running or stopped.

    Of a relay, whose folder is that of its --archive: what it has relayed, and what is wrong.
    """
    if is_relay(home):
        relayed = read_relay_status(home)
        print_json(relayed.as_json()) if as_json else out.print(make_relay_table(relayed))
        return
    found = read_health(home)
    source = parse_live_source(url or found.source, found.keys, found.group, ctx.obj.settings())
    watch = SourceWatch(source)
    watch.ask()
    numbers = read_numbers(home, watch)
    if as_json:
        print_json(numbers.health.as_json() | {"unreachable": watch.error} | _list_numbers(numbers))
    else:
        out.print(_make_table(numbers, watch.error))


def _list_numbers(numbers: Numbers) -> dict[str, Any]:
    """What metrics have beside the health of a job."""
    run, reasons = numbers.run, list(find_reasons(numbers))
    outcomes = None
    if numbers.outcomes is not None:
        counted = sorted(numbers.outcomes.items())
        outcomes = [{"outcome": name, "reason": reason, "messages": n} for (name, reason), n in counted]
    return {
        "ready": not reasons,
        "reasons": reasons,
        "run": {"state": run.state, "failure": run.failure}
        | {"starts": run.starts, "restarts": run.restarts, "renewals": run.renewals},
        "totals": {"read": numbers.read, "outcomes": outcomes}
        | {"expired": numbers.run.stats.expired.total(), "trimmed": numbers.trimmed},
    }


def _make_table(numbers: Numbers, unreachable: str | None) -> Table:
    now, found, run = datetime.now(UTC), numbers.health, numbers.run
    table = Table(box=None, show_header=False)
    state = "running" if found.running else "not running"
    table.add_row("job", f"{state}, group {found.group} at {found.source}")
    table.add_row("runs", describe_runs(run))
    if found.running:
        for reason in find_reasons(numbers):
            table.add_row("not ready", reason)
    table.add_row("stored", describe_outcomes(numbers))
    for stream in found.streams:
        place = f"read to {stream.position}" if stream.position else "not read yet"
        table.add_row(stream.stream, f"{place}, {describe_count(stream.lag)} behind")
        for warning in describe_warnings(stream):
            table.add_row("", warning)
    for warning in found.warnings:
        table.add_row("source", warning)
    when = f" at the last report; the source is unavailable: {unreachable}" if unreachable else ""
    table.add_row("lag", describe_count(found.lag) + when)
    table.add_row("watermark", describe_time(found.watermark, now))
    if checkpoint := found.checkpoint:
        parts = (describe_time(checkpoint.at, now), describe_size(checkpoint.bytes), str(checkpoint.path))
        table.add_row("checkpoint", ", ".join(parts))
    else:
        table.add_row("checkpoint", "none yet")
    for sink in found.sinks:
        table.add_row("output", f"{sink.name}: {describe_sink(sink, found, now)}")
    for derived in found.derived:
        table.add_row("derived", f"{derived.output}: {describe_derived(derived, now)}")
    table.add_row("last report", describe_time(found.reported, now))
    return table


def describe_outcomes(numbers: Numbers) -> str:
    """The messages that the main output has, in words."""
    if (outcomes := numbers.outcomes) is None:
        return "not available: the main output keeps no files"
    rejected = sum(n for (outcome, _), n in outcomes.items() if outcome == "quarantined")
    lost = f", {numbers.trimmed:,} lost unread" if numbers.trimmed else ""
    expired = numbers.run.stats.expired.total()
    late = f", {expired:,} expired" if expired else ""
    return f"{format_count(outcomes.total(), 'message')}, {rejected:,} of them rejected{late}{lost}"


def describe_warnings(stream: StreamHealth) -> Iterator[str]:
    """What is wrong with a stream, in words, each with what to do."""
    if stream.lost:
        yield f"{stream.lost:,} lost before they were read: see the table `trimmed`"
    if stream.went_back:
        yield (
            f"went back to an older state {format_count(stream.went_back, 'time')} (a failover?): it was "
            "read again from the committed offset"
        )
    if stream.moved:
        yield (
            f"another client moved the group {format_count(stream.moved, 'time')}: it was moved back; give "
            "that client a group of its own"
        )
    if stream.ahead_seconds > AHEAD_SECONDS or stream.ahead:
        count = f"{format_count(stream.ahead, 'entry')} so far"
        yield (
            f"ids are {stream.ahead_seconds:,.0f} s ahead of the clock of the source ({count}): "
            "reports may be rejected as stale; see `A clock that jumped ahead` in docs/operations.md"
        )


def describe_sink(sink: SinkHealth, found: Health, now: datetime) -> str:
    """How far an output is, in words."""
    if sink.waiting_since:
        seconds = (now - sink.waiting_since).total_seconds()
        return f"unavailable for {seconds:,.0f} s, the write is tried again: {sink.error}"
    if sink.written is None:
        return "nothing was written yet"
    behind = sink.behind(found.newest)
    delay = f", {behind:,.1f} s behind" if behind is not None else ""
    return f"{format_count(sink.rows, 'row')}{delay}, last {describe_time(sink.written, now)}"


def describe_derived(derived: DerivedHealth, now: datetime) -> str:
    """How far the derived tables of an output are, in words."""
    upto = "everything" if derived.until is None else f"up to {derived.until:%Y-%m-%d %H:%M:%S} UTC"
    failed = f"; the last pass failed: {derived.error}" if derived.error else ""
    return f"{upto}, last {describe_time(derived.at, now)}{failed}"


def describe_count(entries: int | None) -> str:
    """A number of entries in words; a source cannot always tell it."""
    return "an unknown number of entries" if entries is None else format_count(entries, "entry")


def describe_runs(run: RunRecord) -> str:
    """How often a job was started, in words."""
    counts = {"start": run.starts, "restart": run.restarts, "renewal": run.renewals}
    return ", ".join(format_count(count, noun) for noun, count in counts.items())


def describe_time(moment: datetime | None, now: datetime) -> str:
    """A moment, and how long ago it was."""
    if moment is None:
        return "none yet"
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC, {max(0.0, (now - moment).total_seconds()):,.0f} s ago"


def describe_size(octets: int) -> str:
    """A number of bytes, in a unit that suits it."""
    return f"{octets / 1e6:,.1f} MB" if octets >= 1e6 else f"{octets / 1e3:,.1f} kB"
