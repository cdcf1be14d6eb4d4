"""The settings of a run: all groups of `pipelines/setting_groups.py`, and where each value came from.

A field of a group is a flag (`--iqr-factor`), a variable of the environment (`KPIFLOW_IQR_FACTOR`) and a line
of the TOML file (`iqr_factor = 2.5`).
"""

import os
from collections.abc import Mapping
from datetime import tzinfo
from pathlib import Path
from typing import Any, get_args
from zoneinfo import ZoneInfo

from pydantic import SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from pipelines.setting_checks import find_conflict
from pipelines.setting_groups import (
    DerivedSettings,
    EncryptionSettings,
    EngineSettings,
    EnrichmentSettings,
    MaintenanceSettings,
    MetricsSettings,
    OutlierSettings,
    RetentionSettings,
    SettingsGroup,
    SinkSettings,
    SourceSettings,
    TableFileSettings,
    ValidationSettings,
)

PREFIX = "KPIFLOW_"


class Settings(
    BaseSettings,
    ValidationSettings,
    OutlierSettings,
    EnrichmentSettings,
    TableFileSettings,
    SourceSettings,
    SinkSettings,
    EncryptionSettings,
    EngineSettings,
    DerivedSettings,
    RetentionSettings,
    MaintenanceSettings,
    MetricsSettings,
):
    """All groups as one object: what commands and jobs pass on."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    @classmethod
    def groups(cls) -> dict[type[SettingsGroup], list[str]]:
        """The names of the settings of each group."""
        return {base: list(base.model_fields) for base in cls.__bases__ if issubclass(base, SettingsGroup)}

    @classmethod
    def secrets(cls) -> set[str]:
        """Settings that may not be flags: other users can read a command line, and shells keep it."""
        return {
            name
            for name, field in cls.model_fields.items()
            if SecretStr in (field.annotation, *get_args(field.annotation))
        }

    @property
    def zone(self) -> tzinfo:
        """`time_zone` as a tzinfo."""
        return ZoneInfo(self.time_zone)

    def derived_settings(self) -> dict[str, Any]:
        """The settings that the SQL of derived tables may use, by name."""
        values = self.model_dump()
        names = {name for group, names in self.groups().items() for name in names if group is DerivedSettings}
        return self.row_settings() | {name: values[name] for name in sorted(names)}

    def row_settings(self) -> dict[str, Any]:
        """The settings that shape rows, by name: stored with an output and compared before the next write."""
        values = self.model_dump()
        groups = self.groups().items()
        return {name: values[name] for group, names in groups if group.shapes_rows for name in names}


class SettingsError(ValueError):
    """An invalid value or an unknown name. The message names the setting, the value and what is allowed."""


def load(flags: dict[str, Any] | None = None, config: Path | None = None) -> tuple[Settings, dict[str, str]]:
    """The settings and the origin of each: flags first, then the environment, the TOML file, and defaults.

    Raises:
        SettingsError: an unknown name in the file or the environment, a value out of range, or values that
            do not fit each other.
    """
    _check_environment()
    flags = {name: value for name, value in (flags or {}).items() if value is not None}
    origins: dict[str, str] = {}
    values: dict[str, Any] = {}
    try:
        for label, source in _list_sources(flags, config):
            for name, value in source().items():
                values.setdefault(name, value)
                origins.setdefault(name, label if label != "environment" else f"{PREFIX}{name.upper()}")
        settings = Settings(**values)
    except ValidationError as error:
        raise SettingsError(_describe_invalid(error)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"cannot read the settings from {config}: {error}") from error
    if conflict := find_conflict(settings):
        raise SettingsError(conflict)
    return settings, {name: origins.get(name, "default") for name in Settings.model_fields}


def check_values(values: Mapping[str, Any]) -> None:
    """Check settings that were stored. Names that are unknown are not looked at.

    Raises:
        SettingsError: a value that its setting cannot have.
    """
    try:
        for group, names in Settings.groups().items():
            group.model_validate({name: values[name] for name in names if name in values}, strict=True)
    except ValidationError as error:
        raise SettingsError(_describe_invalid(error)) from None


def _check_environment() -> None:
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    given = {name for name in os.environ if name.upper().startswith(PREFIX)}
    if unknown := sorted(name for name in given if name.upper() not in known):
        raise SettingsError(
            f"the environment has unknown settings: {', '.join(unknown)}; unset or correct them"
        )


def _describe_invalid(error: ValidationError) -> str:
    """The first problem in one line, without the value of an unknown setting: it may be a misspelt secret."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    may_show = name in Settings.model_fields and name not in Settings.secrets()
    value = f" = {first['input']!r}" if may_show else ""
    return f"setting {'.'.join(map(str, first['loc']))}{value}: {first['msg']}"


def _list_sources(flags: dict[str, Any], config: Path | None) -> list[tuple[str, PydanticBaseSettingsSource]]:
    sources: list[tuple[str, PydanticBaseSettingsSource]] = [
        ("flag", InitSettingsSource(Settings, flags)),
        ("environment", EnvSettingsSource(Settings)),
    ]
    if config is not None:
        if not config.is_file():
            raise SettingsError(f"no file {config}; give --config an existing TOML file")
        sources.append((str(config), TomlConfigSettingsSource(Settings, config)))
    return sources
