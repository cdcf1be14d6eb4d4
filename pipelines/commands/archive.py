"""`kpiflow archive`: what Redis streams contain now, as an archive."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import redis
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pipelines.commands.engines import Encodings
from pipelines.connections import connect_redis
from pipelines.console import err, print_result
from pipelines.failures import RunFailed, WrongUse
from pipelines.settings import Settings
from pipelines.sources import parse_encodings
from pipelines.verify.output_description import translate_sink_errors
from pipelines.verify.output_keys import choose_archive_keys
from schemas.readers.verdicts import MessageLimits
from transforms.core.counts import format_count
from transforms.core.errors import DamagedFile, OutputFull
from transforms.core.message_encodings import give_encodings
from transforms.redis.entry_ids import ZERO, parse_id
from transforms.redis.errors import RedisUnavailable
from transforms.sinks.archive.archive_files import REFUSED
from transforms.sinks.archive.archive_writer import ArchiveWriter
from transforms.sinks.archive.stream_archive import ArchiveSync
from transforms.sources.redis.entries import split_entries
from transforms.sources.redis.positions import Stream
from transforms.sources.redis.snapshot import lacks_entry, read_entries
from transforms.sources.redis.stream_state import read_stream
from transforms.validation.quarantine_rows import quarantine_misfits

_AGAIN = "run the same command again: it continues where the archive ends"


def archive(
    ctx: typer.Context,
    url: Annotated[
        str,
        typer.Option(
            "--redis", help="redis://HOST:PORT/DB, rediss:// for TLS, or unix:///PATH.", metavar="URL"
        ),
    ],
    streams: Annotated[
        list[str], typer.Option("--stream", help="Keys of the streams; several may follow.", metavar="KEY...")
    ],
    output: Annotated[
        Path, typer.Option("--output", help="Folder of the archive; it is made if needed.", metavar="DIR")
    ],
    encoding: Encodings = None,
) -> None:
    """Archive what Redis streams contain now: envelopes, in a file for each hour, for `kpiflow backfill` to
    read.

    Run it again to add what has come since. Nothing is removed from Redis. A streaming job may write the same
    archive (--archive). With --encrypt a new archive is encrypted; one that is stays so.
    """
    if output.exists() and not output.is_dir():
        raise WrongUse(f"{output} is a file", "give --output a folder")
    encodings = parse_encodings(encoding or (), streams)
    settings: Settings = ctx.obj.settings()
    with translate_sink_errors():
        keys = choose_archive_keys(output, settings, settings.encrypt)
    connection = connect_redis(url, settings)
    try:
        connection.check(streams)
        if keys is not None:
            keys.begin()
        with connection.client() as client:
            for stream in dict.fromkeys(streams):
                _archive_stream(client, stream, ArchiveWriter(output, keys), output, encodings)
    except RedisUnavailable as error:
        raise WrongUse(str(error)) from error
    except redis.RedisError as error:
        raise RunFailed(f"Redis at {connection.public} failed: {error}", _AGAIN) from error
    except OutputFull as error:
        raise RunFailed(str(error)) from error
    except (DamagedFile, OSError) as error:
        raise RunFailed(f"cannot write {output}: {error}", _AGAIN) from error


def _archive_stream(
    client: redis.Redis, key: str, writer: ArchiveWriter, output: Path, encodings: Mapping[str, str]
) -> None:
    """Archive one stream up to its end as of now."""
    stream = read_stream(client, key)
    if stream is None:
        raise WrongUse(
            f"there is no stream {key}",
            "correct --stream, or --redis: a URL ends in the number of its database",
        )
    began = time.perf_counter()
    added = rejected = 0
    after = writer.find_last(key) or ZERO
    if lacks_entry(client, key, stream, after):
        err.print(
            f"{key} no longer has the entry {after}, the last in the archive: it is read from its beginning"
        )
        after = ZERO
    with Progress(*_columns(key), console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(key, total=_count_left(stream, after))
        for entries in read_entries(client, key, stream.last, after):
            messages, bad = split_entries(key, entries)
            # Rejected entries first: the next run continues after the last message.
            rejected += writer.append(quarantine_misfits(bad, MessageLimits()), REFUSED)
            added += writer.append(give_encodings(messages, encodings))
            bar.advance(task, len(entries))
    ArchiveSync(output).sync([key])
    without = f", {rejected:,} of them without data" if rejected else ""
    seconds = time.perf_counter() - began
    print_result(
        f"{format_count(added + rejected, 'new entry')} of {key}{without} -> {output} in {seconds:.1f} s"
    )


def _columns(key: str) -> tuple[TextColumn, BarColumn, MofNCompleteColumn]:
    return TextColumn(key, markup=False), BarColumn(), MofNCompleteColumn()


def _count_left(stream: Stream, after: str) -> int | None:
    """How many entries there are after an id, where that is known."""
    if stream.first is None or parse_id(stream.last) <= parse_id(after):
        return 0
    return stream.length if parse_id(after) < parse_id(stream.first) else None
