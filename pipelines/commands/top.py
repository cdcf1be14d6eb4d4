"""`kpiflow top`: a live view of a streaming job in the terminal."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.commands.status import (
    describe_count,
    describe_outcomes,
    describe_runs,
    describe_sink,
    describe_size,
)
from pipelines.console import out
from pipelines.jobs.job_status import read_health
from pipelines.metrics.numbers import Numbers, SourceWatch, read_numbers
from pipelines.metrics.readiness import find_reasons
from pipelines.metrics.rejected import RejectedMessage, read_rejected
from pipelines.sources import parse_live_source
from transforms.core.counts import format_count
from transforms.core.process_stats import LATENCY_BOUNDS, Latency

_REJECTED = 5
_WINDOW_SECONDS = 30.0


def top(
    ctx: typer.Context,
    home: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Output folder of a streaming job, or its --state folder."),
    ],
    seconds: Annotated[
        float, typer.Option("--every", min=0.2, max=60, help="Seconds from one view to the next.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one view and end.")] = False,
) -> None:
    """Watch a streaming job: rates, lag, latency, quality, restarts, outputs, the last rejected messages."""
    found = read_health(home)
    watch = SourceWatch(parse_live_source(found.source, found.keys, found.group, ctx.obj.settings()))
    with watch.keep_asking():
        past = [read_numbers(home, watch)]
        if once:
            out.print(make_view(past))
            return
        with Live(console=out, auto_refresh=False, screen=out.is_terminal) as live:
            while True:
                past.append(read_numbers(home, watch))
                while past[-1].at - past[0].at > _WINDOW_SECONDS:
                    del past[0]
                live.update(make_view(past), refresh=True)
                time.sleep(seconds)


def make_view(past: list[Numbers]) -> Group:
    """The view of the newest of some numbers; rates are over all of them, oldest first."""
    now = past[-1]
    facts = Table(box=None, show_header=False)
    for name, text in _describe(past[0], now):
        facts.add_row(Text(name, "bold"), text)
    rejected = read_rejected([sink.name for sink in now.health.sinks], now.at, _REJECTED)
    return Group(facts, _list_rejected(rejected)) if rejected else Group(facts)


def _describe(before: Numbers, now: Numbers) -> Iterator[tuple[str, str]]:
    health, run = now.health, now.run
    reasons = list(find_reasons(now))
    yield "state", f"{run.state if health.running else 'not running'}, {'not ready' if reasons else 'ready'}"
    for reason in reasons:
        yield "", reason
    yield "runs", describe_runs(run)
    yield "arriving", _describe_rate(before, now, before.arrived, now.arrived)
    yield "read", _describe_rate(before, now, before.read, now.read)
    yield "lag", describe_count(health.lag)
    yield "stored", describe_outcomes(now)
    for stage, latency in sorted(run.stats.latency.items()):
        known = before.run.stats.latency.get(stage, Latency())
        yield stage, _describe_latency(known, latency)
    for score in now.quality:
        verdict = "" if score.value >= score.threshold else f", below {score.threshold:.1%}"
        yield "quality", f"{score.source} {score.score} {score.value:.2%}{verdict}"
    if health.checkpoint:
        age = max(0.0, now.at - health.checkpoint.at.timestamp())
        yield "checkpoint", f"{describe_size(health.checkpoint.bytes)}, {age:,.0f} s old"
    for sink in health.sinks:
        yield "output", f"{sink.name}: {describe_sink(sink, health, datetime.fromtimestamp(now.at, UTC))}"
    for role, octets in now.usage.memory.items():
        yield role, describe_size(octets)


def _describe_rate(before: Numbers, now: Numbers, old: dict[str, int], new: dict[str, int]) -> str:
    if not new:
        return "unknown"
    seconds, total = now.at - before.at, sum(new.values())
    grown = sum(count - old.get(key, count) for key, count in new.items())
    return format_count(total, "message") + (f", {grown / seconds:,.1f}/s" if seconds > 0 else "")


def _describe_latency(before: Latency, now: Latency) -> str:
    """The 99th percentile of what came between two moments, or of everything, as the bound of its bucket."""
    new = [count - old for count, old in zip(now.counts, before.counts)]
    counts = new if sum(new) > 0 else now.counts
    left = 0.99 * sum(counts)
    for count, bound in zip(counts, LATENCY_BOUNDS):
        left -= count
        if left <= 0:
            return f"99 % within {bound:g} s"
    return f"99 % take longer than {LATENCY_BOUNDS[-1]:g} s"


def _list_rejected(messages: list[RejectedMessage]) -> Table:
    table = Table("rejected", "source", "message", "reason", "why", box=None)
    for each in messages:
        where = f"{each.field}: " if each.field else ""
        table.add_row(
            f"{each.received_at:%H:%M:%S}", each.source, each.message_id, each.reason, where + each.message
        )
    return table
