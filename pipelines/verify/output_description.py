"""An output's own description: layout and schema versions, and the settings that shape its rows.

Rows written under other settings have another meaning, so a run with different settings is refused before it
writes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from pipelines.failures import WrongUse
from pipelines.settings import Settings, SettingsError, check_values
from pipelines.verify.output_keys import choose_keys
from schemas.kinds import KINDS
from schemas.registry import list_versions
from schemas.tables import LAYOUT_VERSION, Table
from transforms.core.errors import OutputFull, Refused, Unavailable
from transforms.core.typed_json import convert
from transforms.encryption.key_ring import add_source
from transforms.encryption.master_key import KeyRefused
from transforms.sinks.parquet.output_files import OutputFiles
from transforms.sinks.parquet.parquet_store import ENCRYPT, ParquetStore, is_described_encrypted
from transforms.sinks.sink import Store
from transforms.storage.local_folder import LocalFolder

SCHEMAS = tuple(KINDS)
"""The schemas whose version decides the content of a stored row."""


class _Description(TypedDict):
    layout: int
    schemas: dict[str, int]
    settings: dict[str, Any]


def open_store(
    store: Store, settings: Settings, create: bool, file_minutes: int = 30
) -> tuple[Store, Settings]:
    """Prepare a store for writing. A new store is created and described if `create` is set.

    Returns the store, and the settings to write it with. If `file_minutes` is not set in the settings, a
    store keeps its own value, and a new store gets the argument.

    Raises:
        WrongUse: there is no output and `create` is not set; the store holds something else or cannot be
            used; a newer kpiflow wrote it; it has an older layout; or it was written with other settings.
        OutputFull: there is no space for the description.
    """
    with translate_sink_errors():
        found = store.read_description()
        settings = _fit_file_minutes(store.name, found, settings, file_minutes)
        if found is None and not create:
            raise _make_missing_error(store.name)
        if isinstance(store, ParquetStore):
            keys = choose_keys(store, found, settings)
            store = replace(store, file_minutes=settings.file_minutes, keys=keys)
        if found is not None:
            _check_compatible(store, _check_parts(store.name, found), settings)
        if create:
            new = {
                "layout": LAYOUT_VERSION,
                "schemas": _list_schema_versions(),
                "settings": _select_row_settings(store, settings) | _mark_encrypted(store),
            }
            if isinstance(store, ParquetStore) and store.keys:
                store.keys.begin()
            store.prepare(found or new)
    return store, settings


def check_description(store: Store, settings: Settings) -> None:
    """Check that a job with these settings may write a store: it is new, or has this layout and the same row
    settings.

    Raises:
        WrongUse: it may not.
    """
    with translate_sink_errors():
        found = store.read_description()
        if isinstance(store, ParquetStore):
            choose_keys(store, found, settings)
    if found is not None:
        _check_compatible(
            store,
            _check_parts(store.name, found),
            _fit_file_minutes(store.name, found, settings, settings.file_minutes),
        )


@contextmanager
def translate_sink_errors() -> Iterator[None]:
    """Turn errors of a sink before a job has started into WrongUse: the user has to fix them."""
    try:
        yield
    except OutputFull:
        raise
    except KeyRefused as error:
        problem, _, fix = str(error).partition("; ")
        raise WrongUse(problem, fix) from error
    except (Refused, Unavailable) as error:
        raise WrongUse(
            str(error), "`kpiflow doctor --output OUT` checks everything that a job needs there"
        ) from error


def require_local(output: str) -> Path:
    """The folder that an output is: derived tables are only in folders of this machine.

    Raises:
        WrongUse: the output is no folder.
    """
    if "://" in output:
        raise WrongUse("derived tables are made only in folders of this machine", "name a folder")
    return Path(output)


def make_underived_error(output: str | Path, table: Table) -> WrongUse:
    """The error to raise for an output without a derived table."""
    return WrongUse(f"{output} has no table {table.name}", f"`kpiflow derive {output}` makes it")


def require_derived(output: Path, *tables: Table) -> None:
    """Check that derived tables are in an output: even without rows they have a folder or a file.

    Raises:
        WrongUse: one was not derived: nothing was, or by a version of kpiflow that did not have it yet.
    """
    for table in tables:
        if not (output / table.name).is_dir() and next(OutputFiles.of(output).iterate(table), None) is None:
            raise make_underived_error(output, table)


def require_output(path: Path) -> Path:
    """Check that the folder `path` is an output that this version can read, and return it.

    Raises:
        WrongUse: it is not an output, or a newer kpiflow wrote it.
    """
    _check_versions(str(path), _read_description(path))
    return path


def read_row_settings(path: Path, use: str = "reconciled") -> dict[str, Any]:
    """The settings that shaped the rows of an output of the current layout, by name.

    `use`: what is done with the output, for the message about an older layout.

    Raises:
        WrongUse: it is not an output, or a newer or an older kpiflow wrote it.
    """
    description = _read_description(require_output(path))
    _check_layout(str(path), description, use)
    return _list_row_settings(description)


def _fit_file_minutes(
    name: str, found: dict[str, Any] | None, settings: Settings, file_minutes: int
) -> Settings:
    if "file_minutes" in settings.model_fields_set:
        return settings
    if found is not None:
        file_minutes = _list_row_settings(_check_parts(name, found))["file_minutes"]
    return settings.model_copy(update={"file_minutes": file_minutes})


def _read_description(path: Path) -> dict[str, Any]:
    with translate_sink_errors():
        store = ParquetStore(LocalFolder(path))
        found = store.read_description()
        if found is not None and is_described_encrypted(found):
            add_source(store.storage).check()
    if found is None:
        raise _make_missing_error(str(path))
    return _check_parts(str(path), found)


def _make_missing_error(name: str) -> WrongUse:
    what = "there is no output in" if "://" in name or Path(name).exists() else "there is no folder"
    return WrongUse(f"{what} {name}", f"`kpiflow backfill --input FILES --output {name}` makes one")


def _check_parts(name: str, description: dict[str, Any]) -> dict[str, Any]:
    """The description, if it has all its parts."""
    try:
        convert(description, _Description)
    except ValueError as error:
        raise _make_damaged_error(name, error) from error
    return description


def _make_damaged_error(name: str, error: ValueError) -> WrongUse:
    problem = f"the description of {name} is damaged: {error}"
    return WrongUse(problem, "restore it from a copy, or name another output")


def _check_compatible(store: Store, description: dict[str, Any], settings: Settings) -> None:
    """Check that rows under `settings` may be added to a store."""
    _check_versions(store.name, description)
    _check_layout(store.name, description, "written to")
    before = _list_row_settings(description)
    differing = {
        name: (value, before[name])
        for name, value in _select_row_settings(store, settings).items()
        if value != before[name]
    }
    if differing:
        named = "; ".join(f"{name} is {now!r} now and was {was!r}" for name, (now, was) in differing.items())
        flags = " ".join(f"--{name.replace('_', '-')} {was}" for name, (_, was) in differing.items())
        raise WrongUse(
            f"the rows of {store.name} were shaped by other settings: {named}",
            f"run with the settings of that output ({flags}), or name another output",
        )


def _select_row_settings(store: Store, settings: Settings) -> dict[str, Any]:
    """The settings that shape the rows of a store. `file_minutes` counts only for files."""
    values = settings.row_settings()
    if not isinstance(store, ParquetStore):
        del values["file_minutes"]
    return values


def _mark_encrypted(store: Store) -> dict[str, Any]:
    return {ENCRYPT: True} if isinstance(store, ParquetStore) and store.keys else {}


def _list_row_settings(description: dict[str, Any]) -> dict[str, Any]:
    """The row settings of an output. A setting that did not exist when it was written has its default."""
    defaults, stored = Settings.model_construct().row_settings(), description["settings"]
    return {name: stored.get(name, value) for name, value in defaults.items()}


def _check_versions(name: str, description: dict[str, Any]) -> None:
    newer = [f"layout {description['layout']}"] if description["layout"] > LAYOUT_VERSION else []
    current = _list_schema_versions()
    newer += [
        f"{schema} v{version}"
        for schema, version in description["schemas"].items()
        if version > current.get(schema, 0)
    ]
    newer += [
        f"setting {setting}" for setting in description["settings"] if setting not in Settings.model_fields
    ]
    if newer:
        raise WrongUse(
            f"{name} was written by a newer kpiflow ({', '.join(newer)})",
            "upgrade: `pip install --upgrade kpiflow`",
        )
    try:
        check_values(description["settings"])
    except SettingsError as error:
        raise _make_damaged_error(name, error) from error


def _check_layout(name: str, description: dict[str, Any], use: str) -> None:
    """Check that an output has the current layout: an older one can be read, but not `use`."""
    if description["layout"] < LAYOUT_VERSION:
        raise WrongUse(
            f"{name} has layout {description['layout']} and can only be read: layout {LAYOUT_VERSION} can be "
            f"{use}",
            "`kpiflow show` and `kpiflow parity` can read it, `reconcile` only knows the paths of the "
            "current layout; "
            "make a new output of the same messages: `kpiflow backfill --input ARCHIVE --output NEW`",
        )


def _list_schema_versions() -> dict[str, int]:
    return {name: max(list_versions()[name]) for name in SCHEMAS}
