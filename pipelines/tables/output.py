"""An output folder's own description, `_kpiflow.json`: layout and schema versions, and the settings that shape its rows.

Rows written under other settings would mean something else, so a run whose settings differ is refused before it writes.
"""

import json
from pathlib import Path
from typing import Any

from pipelines.failures import WrongUse
from pipelines.settings import Settings
from schemas.registry import versions
from schemas.tables import LAYOUT_VERSION
from transforms.sinks.files import locked, replace

DESCRIPTION = "_kpiflow.json"
SCHEMAS = ("kpi_report",)
"""The schemas whose version decides what a stored row holds."""


def open_output(path: Path, settings: Settings, create: bool, file_minutes: int = 30) -> Settings:
    """Make the folder `path` ready to be written; it is made, and described, when it is new and `create` is set.

    Returns the settings to write it with. `file_minutes`, unless the settings were given it, is as the output has it, and in a new
    output what the argument says.

    Raises:
        WrongUse: no output is there and `create` is not set; the folder holds something else; a newer kpiflow wrote it; or it was
            written with other settings, each of which is named.
        OutputFull: no space is left to describe it.
    """
    if path.exists() and not path.is_dir():
        raise WrongUse(f"{path} is a file", "name a folder as the output")
    settings = _fitted(path, settings, file_minutes)
    if not create:
        _check(path, _described(path), settings)
        return settings
    try:
        with locked(path):
            _describe(path, settings)
    except PermissionError as error:
        raise WrongUse(f"{path} cannot be written: {error.strerror}", "name another output, or change its permissions") from error
    return settings


def _fitted(path: Path, settings: Settings, file_minutes: int) -> Settings:
    if "file_minutes" in settings.model_fields_set:
        return settings
    if (path / DESCRIPTION).is_file():
        file_minutes = _shaping(_described(path))["file_minutes"]
    return settings.model_copy(update={"file_minutes": file_minutes})


def existing_output(path: Path) -> Path:
    """The folder `path`, to be read by this version.

    Raises:
        WrongUse: it is no output, or a newer kpiflow wrote it.
    """
    _check_versions(path, _described(path))
    return path


def stored_settings(path: Path) -> dict[str, Any]:
    """The settings that shaped the rows of an existing output, by name.

    Raises:
        WrongUse: it is no output, or a newer kpiflow wrote it.
    """
    return _shaping(_described(existing_output(path)))


def _describe(path: Path, settings: Settings) -> None:
    """Check the description, or write it into an empty folder."""
    file = path / DESCRIPTION
    if file.exists():
        _check(path, _described(path), settings)
        return
    foreign = sorted(entry.name for entry in path.iterdir() if entry.name != "lost+found")
    if foreign:
        raise WrongUse(
            f"{path} is no output of kpiflow: it holds {', '.join(foreign[:3])} but no {DESCRIPTION}",
            "name an empty or a new folder as the output",
        )
    description = {"layout": LAYOUT_VERSION, "schemas": _current_schemas(), "settings": settings.shaping()}
    replace(file, (json.dumps(description, indent=2) + "\n").encode())


def _described(path: Path) -> dict[str, Any]:
    file = path / DESCRIPTION
    if not file.is_file():
        what = "there is no folder" if not path.exists() else "there is no output in"
        raise WrongUse(f"{what} {path}", f"`kpiflow backfill --input FILES --output {path}` makes one")
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        if not all(isinstance(description[name], kind) for name, kind in (("layout", int), ("schemas", dict), ("settings", dict))):
            raise TypeError("a part has another type")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WrongUse(f"{file} is damaged: {error!r}", "put it back from a copy, or name another output") from error
    return description


def _check(path: Path, description: dict[str, Any], settings: Settings) -> None:
    """That rows under `settings` may join the rows of the output."""
    _check_versions(path, description)
    before = _shaping(description)
    differing = {name: (value, before[name]) for name, value in settings.shaping().items() if value != before[name]}
    if differing:
        named = "; ".join(f"{name} is {now!r} now and was {was!r}" for name, (now, was) in differing.items())
        flags = " ".join(f"--{name.replace('_', '-')} {was}" for name, (_, was) in differing.items())
        raise WrongUse(
            f"the rows of {path} were shaped by other settings: {named}",
            f"run with the settings of that output ({flags}), or name another output",
        )


def _shaping(description: dict[str, Any]) -> dict[str, Any]:
    """The shaping settings of an output; one that is younger than the output has the default, which is how it was before."""
    return Settings.model_construct().shaping() | description["settings"]


def _check_versions(path: Path, description: dict[str, Any]) -> None:
    newer = [f"layout {description['layout']}"] if description["layout"] > LAYOUT_VERSION else []
    current = _current_schemas()
    newer += [f"{name} v{version}" for name, version in description["schemas"].items() if version > current.get(name, 0)]
    newer += [f"setting {name}" for name in description["settings"] if name not in Settings.model_fields]
    if newer:
        raise WrongUse(f"{path} was written by a newer kpiflow ({', '.join(newer)})", "upgrade: `pip install --upgrade kpiflow`")


def _current_schemas() -> dict[str, int]:
    return {name: max(versions()[name]) for name in SCHEMAS}
