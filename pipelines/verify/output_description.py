"""An output's own description: layout and schema versions, and the settings that shape its rows.

Rows written under other settings would mean something else, so a run whose settings differ is refused before it writes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.failures import WrongUse
from pipelines.settings import Settings
from schemas.registry import list_versions
from schemas.tables import LAYOUT_VERSION
from transforms.core.errors import OutputFull, Refused, Unavailable
from transforms.sinks.parquet.local_folder import LocalFolder
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.sinks.sink import Store

SCHEMAS = ("kpi_report",)
"""The schemas whose version decides what a stored row holds."""


def open_store(
    store: Store, settings: Settings, create: bool, file_minutes: int = 30
) -> tuple[Store, Settings]:
    """Make a store ready to be written; it is made, and described, when it is new and `create` is set.

    Returns the store, and the settings to write it with. `file_minutes`, unless the settings were given it, is as the store has it,
    and in a new one what the argument says.

    Raises:
        WrongUse: no output is there and `create` is not set; the place holds something else, or cannot be used; a newer kpiflow
            wrote it; it has an older layout; or it was written with other settings, each of which is named.
        OutputFull: no space is left to describe it.
    """
    with translate_sink_errors():
        found = store.read_description()
        settings = _fitted(store.name, found, settings, file_minutes)
        if isinstance(store, ParquetStore):
            store = replace(store, file_minutes=settings.file_minutes)
        if found is None and not create:
            raise _no_output(store.name)
        if found is not None:
            _check(store, _whole(store.name, found), settings)
        if create:
            new = {
                "layout": LAYOUT_VERSION,
                "schemas": _current_schemas(),
                "settings": _shaped(store, settings),
            }
            store.prepare(found or new)
    return store, settings


def check_description(store: Store, settings: Settings) -> None:
    """That a job with these settings may write a store: it is new, or holds rows of this version that were shaped alike.

    Raises:
        WrongUse: it may not.
    """
    with translate_sink_errors():
        found = store.read_description()
    if found is not None:
        _check(store, _whole(store.name, found), _fitted(store.name, found, settings, settings.file_minutes))


def open_output(path: Path, settings: Settings, create: bool, file_minutes: int = 30) -> Settings:
    """`open_store` of a folder of this machine: the settings to write it with."""
    return open_store(ParquetStore(LocalFolder(path), settings.file_minutes), settings, create, file_minutes)[
        1
    ]


@contextmanager
def translate_sink_errors() -> Iterator[None]:
    """What a place has against its use before a job has begun, as the user's to mend."""
    try:
        yield
    except OutputFull:
        raise
    except (Refused, Unavailable) as error:
        raise WrongUse(
            str(error), "`kpiflow doctor --output OUT` looks at everything that a job needs there"
        ) from error


def existing_output(path: Path) -> Path:
    """The folder `path`, to be read by this version.

    Raises:
        WrongUse: it is no output, or a newer kpiflow wrote it.
    """
    _check_versions(str(path), _described(path))
    return path


def stored_settings(path: Path) -> dict[str, Any]:
    """The settings that shaped the rows of an existing output of the present layout, by name.

    Raises:
        WrongUse: it is no output, or a newer or an older kpiflow wrote it.
    """
    description = _described(existing_output(path))
    _check_layout(str(path), description, "reconciled")
    return _shaping(description)


def _fitted(name: str, found: dict[str, Any] | None, settings: Settings, file_minutes: int) -> Settings:
    if "file_minutes" in settings.model_fields_set:
        return settings
    if found is not None:
        file_minutes = _shaping(_whole(name, found))["file_minutes"]
    return settings.model_copy(update={"file_minutes": file_minutes})


def _described(path: Path) -> dict[str, Any]:
    with translate_sink_errors():
        found = ParquetStore(LocalFolder(path)).read_description()
    if found is None:
        raise _no_output(str(path))
    return _whole(str(path), found)


def _no_output(name: str) -> WrongUse:
    what = "there is no output in" if "://" in name or Path(name).exists() else "there is no folder"
    return WrongUse(f"{what} {name}", f"`kpiflow backfill --input FILES --output {name}` makes one")


def _whole(name: str, description: dict[str, Any]) -> dict[str, Any]:
    """A description that has all its parts."""
    for part, kind in (("layout", int), ("schemas", dict), ("settings", dict)):
        if not isinstance(description.get(part), kind):
            problem = f"the description of {name} is damaged: it has no {part}"
            raise WrongUse(problem, "put it back from a copy, or name another output")
    return description


def _check(store: Store, description: dict[str, Any], settings: Settings) -> None:
    """That rows under `settings` may join the rows of the store."""
    _check_versions(store.name, description)
    _check_layout(store.name, description, "written to")
    before = _shaping(description)
    differing = {
        name: (value, before[name])
        for name, value in _shaped(store, settings).items()
        if value != before[name]
    }
    if differing:
        named = "; ".join(f"{name} is {now!r} now and was {was!r}" for name, (now, was) in differing.items())
        flags = " ".join(f"--{name.replace('_', '-')} {was}" for name, (_, was) in differing.items())
        raise WrongUse(
            f"the rows of {store.name} were shaped by other settings: {named}",
            f"run with the settings of that output ({flags}), or name another output",
        )


def _shaped(store: Store, settings: Settings) -> dict[str, Any]:
    """The settings that shape the rows of a store; how they are cut into files is a matter of files."""
    shaping = settings.row_settings()
    if not isinstance(store, ParquetStore):
        del shaping["file_minutes"]
    return shaping


def _shaping(description: dict[str, Any]) -> dict[str, Any]:
    """The shaping settings of an output; one that is younger than the output has the default, which is how it was before."""
    return Settings.model_construct().row_settings() | description["settings"]


def _check_versions(name: str, description: dict[str, Any]) -> None:
    newer = [f"layout {description['layout']}"] if description["layout"] > LAYOUT_VERSION else []
    current = _current_schemas()
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


def _check_layout(name: str, description: dict[str, Any], use: str) -> None:
    """That an output has the present layout: an older one can be read, but not `use`."""
    if description["layout"] < LAYOUT_VERSION:
        raise WrongUse(
            f"{name} has layout {description['layout']} and can only be read: layout {LAYOUT_VERSION} can be {use}",
            "`kpiflow show` and `kpiflow parity` read it, `reconcile` knows only the paths of the present one; make a new output "
            "of the same messages: `kpiflow backfill --input ARCHIVE --output NEW`",
        )


def _current_schemas() -> dict[str, int]:
    return {name: max(list_versions()[name]) for name in SCHEMAS}
