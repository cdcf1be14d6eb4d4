"""`kpiflow keys`: master keys, and the keys of encrypted outputs."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from pipelines.console import out, print_json, print_result
from pipelines.failures import WrongUse, make_missing_error
from pipelines.outputs import parse_sink
from pipelines.settings import Settings
from pipelines.text_tables import make_table, print_table
from pipelines.verify.output_description import translate_sink_errors
from transforms.encryption.key_list import drop_old
from transforms.encryption.key_ring import KeySource, has_keys
from transforms.encryption.master_key import KeyFile
from transforms.encryption.rotation import find_due, rotate_keys
from transforms.sinks.parquet.parquet_store import ParquetStore

keys = typer.Typer(
    help="Make master keys; rotate and list the keys of an encrypted output.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
Output = Annotated[str, typer.Argument(help="An encrypted output.", metavar="OUT")]


@keys.command()
def new(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(help="The file to make, outside of outputs.", metavar="FILE")],
) -> None:
    """Make a master key: a file of mode 0600 that encrypts no output yet. Keep a copy of it elsewhere.

    Who has the file can read the outputs that are encrypted with it; without it nobody can.
    """
    with translate_sink_errors():
        version = KeyFile(path).create(datetime.now(UTC))
    print_result(f"master key {version} -> {path}; keep a copy of it elsewhere")


@keys.command()
def rotate(
    ctx: typer.Context,
    output: Output,
    only_drop: Annotated[
        bool,
        typer.Option(
            "--drop-old",
            help="Rotate nothing: let only the current version of the master key open the output. First copy "
            "the key file to each machine that reads it.",
        ),
    ] = False,
) -> None:
    """Rotate now: the master key (--master-key) gets a new version, which wraps the output's keys again.

    Only `_keys.json` is rewritten; jobs go on. The version before can open the output too, until the next
    rotation or --drop-old.
    """
    settings: Settings = ctx.obj.settings()
    source = _find_source(output, settings)
    with translate_sink_errors():
        master = source.open_master()
        try:
            if only_drop:
                found = source.change_list(lambda keys: drop_old(keys, master))
            else:
                found = rotate_keys(source, datetime.now(UTC))
        except ImportError as error:
            raise make_missing_error("encryption", error, "encryption") from error
        version = master.find_current()
    count, only = len(found.keys), "only " if only_drop else ""
    keys_are = "key is" if count == 1 else "keys are"
    print_result(f"{count} {keys_are} now {only}under {version} of {master.name} -> {output}")


@keys.command("list")
def list_keys(
    ctx: typer.Context,
    output: Output,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List an output's keys, the versions of the master key that open them, and when rotation is due.

    It needs no master key, and shows no key.
    """
    settings: Settings = ctx.obj.settings()
    with translate_sink_errors():
        found = _find_source(output, settings).read_list()
    due = find_due(found, settings.rotate_days)
    if as_json:
        listed = [
            {"id": key.id, "created": key.created.isoformat(), "under": list(key.wrapped)}
            for key in found.keys
        ]
        print_json({"rotated": found.rotated.isoformat(), "due": due.isoformat(), "keys": listed})
        return
    table = make_table(("key", "created", "under"), ())
    for key in found.keys:
        table.add_row(key.id, f"{key.created:%Y-%m-%d %H:%M}", ", ".join(key.wrapped))
    print_table(table)
    out.print(f"rotated {found.rotated:%Y-%m-%d}, due {due:%Y-%m-%d}")


def _find_source(output: str, settings: Settings) -> KeySource:
    """The keys of an output.

    Raises:
        WrongUse: it is no place of files, or is not encrypted.
    """
    sink = parse_sink(output, settings)
    with translate_sink_errors():
        if not isinstance(sink, ParquetStore) or not has_keys(sink.storage):
            fix = "`kpiflow backfill --encrypt --master-key FILE` makes a new one that is"
            raise WrongUse(f"{output} is not encrypted", fix)
    return KeySource(sink.storage, settings.master_key)
