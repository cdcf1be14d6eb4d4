"""`kpiflow status`: of a running or stopped streaming job, how far it is."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pipelines.assembly import connect_redis
from pipelines.console import out, print_json
from pipelines.jobs.job_status import Health, Place, Sink, health
from transforms.redis.connection import MAKE_ROOM, RedisUnavailable
from transforms.sources.redis.reader import AHEAD_SECONDS


def status(
    ctx: typer.Context,
    home: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="Output folder of a streaming job, or what it was given as --state."
        ),
    ],
    url: Annotated[
        str | None,
        typer.Option("--redis", help="Redis, where it is not the one that the job was given.", metavar="URL"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """How a streaming job does, or did when it ended: lag, watermark, last checkpoint, and how far each output is."""
    found = health(home)
    connection = connect_redis(url or found.redis, ctx.obj.settings())
    try:
        connection.check()
        with connection.client() as client:
            found = health(home, client)
        unreachable = ""
    except RedisUnavailable as error:
        unreachable = str(error)
    if as_json:
        print_json(found.as_json() | {"unreachable": unreachable or None})
        return
    _print(found, unreachable)


def _print(found: Health, unreachable: str) -> None:
    now = datetime.now(UTC)
    table = Table(box=None, show_header=False)
    table.add_row(
        "job", f"{'running' if found.running else 'not running'}, group {found.group} at {found.redis}"
    )
    for place in found.places:
        table.add_row(place.stream, f"read to {place.position}, {count(place.lag)} behind")
        for notice in notices(place):
            table.add_row("", notice)
    if found.memory and found.memory.is_full:
        used, most = size(found.memory.used), size(found.memory.most)
        table.add_row("redis", f"full, producers are refused: {used} used of {most} (maxmemory); {MAKE_ROOM}")
    table.add_row("lag", f"{count(found.lag)}" + (f" when last told: {unreachable}" if unreachable else ""))
    table.add_row("watermark", ago(found.watermark, now))
    if found.checkpoint:
        table.add_row(
            "checkpoint",
            f"{ago(found.checkpoint.at, now)}, {size(found.checkpoint.bytes)}, {found.checkpoint.path}",
        )
    else:
        table.add_row("checkpoint", "none yet")
    for sink in found.sinks:
        table.add_row("output", f"{sink.name}: {written(sink, found, now)}")
    table.add_row("last word", ago(found.reported, now))
    out.print(table)


def notices(place: Place) -> Iterator[str]:
    """What is wrong with a stream, in words, each with what to do."""
    if place.lost:
        yield f"{place.lost:,} lost before they were read: see the table `trimmed`"
    if place.went_back:
        yield f"went back to an older state {place.went_back} times (a failover?): it was read again from what was committed"
    if place.moved:
        yield f"another client moved the group {place.moved} times: it was moved back; give that client a group of its own"
    if place.ahead_seconds > AHEAD_SECONDS or place.ahead:
        yield (
            f"ids are {place.ahead_seconds:,.0f} s ahead of the clock of Redis ({place.ahead:,} entries so far): reports may be "
            "refused as stale; see `A clock that jumped ahead` in docs/operations.md"
        )


def written(sink: Sink, found: Health, now: datetime) -> str:
    """How far an output is, in words."""
    if sink.waiting_since:
        return f"away for {(now - sink.waiting_since).total_seconds():,.0f} s, is tried again: {sink.error}"
    if sink.written is None:
        return "nothing was written yet"
    behind = sink.behind(found.newest)
    return (
        f"{sink.rows:,} rows"
        + (f", {behind:,.1f} s behind" if behind is not None else "")
        + f", last {ago(sink.written, now)}"
    )


def count(entries: int | None) -> str:
    """A number of entries in words; Redis cannot always tell it."""
    return (
        "an unknown number of entries"
        if entries is None
        else f"{entries:,} entr{'y' if entries == 1 else 'ies'}"
    )


def ago(moment: datetime | None, now: datetime) -> str:
    """A moment, and how long ago it was."""
    if moment is None:
        return "none yet"
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC, {max(0.0, (now - moment).total_seconds()):,.0f} s ago"


def size(octets: int) -> str:
    """A number of bytes, in a unit that suits it."""
    return f"{octets / 1e6:,.1f} MB" if octets >= 1e6 else f"{octets / 1e3:,.1f} kB"
