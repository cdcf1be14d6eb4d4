"""Every setting with its default, declared in the group that it belongs to.

A group is a class: `ValidationSettings`, `OutlierSettings`, ... A field of it is a flag (`--iqr-factor`), a
variable of the environment (`KPIFLOW_IQR_FACTOR`) and a line of the TOML file (`iqr_factor = 2.5`). The
description of a field is what `--help` and `kpiflow settings` print. A new setting is one field in one group;
the order of fields and groups changes only what is printed.
"""

import os
from datetime import tzinfo
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, Field, FilePath, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

PREFIX = "KPIFLOW_"


def _check_divides_hour(minutes: int) -> int:
    if 60 % minutes:
        raise ValueError("must divide 60 (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30 or 60)")
    return minutes


def _check_divides_day(hours: int) -> int:
    if hours and 24 % hours:
        raise ValueError("must divide 24 (1, 2, 3, 4, 6, 8, 12 or 24)")
    return hours


def _check_time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError("is not an IANA time zone; try UTC or Europe/Berlin") from error
    return name


class SettingsGroup(BaseModel):
    """Settings that belong together.

    `title` is the heading in `--help`. `shapes_rows` says that the settings of this group decide what a row
    holds or which file it is in: they are stored with an output, and a run whose values differ from the
    stored ones is refused.
    """

    title: ClassVar[str]
    shapes_rows: ClassVar[bool] = False


class ValidationSettings(SettingsGroup):
    """Limits that a valid message must keep."""

    title: ClassVar[str] = "Validation"
    shapes_rows: ClassVar[bool] = True

    max_payload_bytes: int = Field(
        1 << 20, ge=1024, description="A longer payload is quarantined as `oversize`."
    )
    max_depth: int = Field(
        32, ge=4, le=512, description="A more deeply nested payload is quarantined as `depth`."
    )
    custom_metric_limit: float = Field(
        1e15,
        gt=0,
        lt=2.0**53,
        description="Largest absolute value of a custom metric. Below 2^53 all integers are exact.",
    )
    stale_seconds: int = Field(
        3600, ge=60, description="recorded_at may be this many seconds older than received_at."
    )
    future_seconds: int = Field(
        60, ge=0, description="recorded_at may be this many seconds newer than received_at."
    )


class OutlierSettings(SettingsGroup):
    """When a value is an outlier against its agent's past hour."""

    title: ClassVar[str] = "History and outliers"
    shapes_rows: ClassVar[bool] = True

    iqr_factor: float = Field(
        3.0, gt=0, le=1e6, description="Tukey's k: a fence is k interquartile ranges outside a quartile."
    )
    min_samples: int = Field(
        30, ge=4, description="A baseline of fewer reports is in warm-up and flags nothing."
    )
    flat_margin: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Distance of a fence where both quartiles are equal: relative for latency and memory, "
        "absolute for fractions.",
    )


class EnrichmentSettings(SettingsGroup):
    """Columns that are computed for each report."""

    title: ClassVar[str] = "Enrichment"
    shapes_rows: ClassVar[bool] = True

    reference_latency_ms: float = Field(
        1000.0,
        gt=0,
        allow_inf_nan=False,
        description="Latency at which performance_score is half the accuracy.",
    )
    time_zone: Annotated[str, AfterValidator(_check_time_zone)] = Field(
        "UTC", description="IANA time zone of hour_of_day, day_of_week and is_peak_hour."
    )
    peak_start_hour: int = Field(9, ge=0, le=23, description="First local hour of the peak.")
    peak_end_hour: int = Field(17, ge=1, le=24, description="First local hour after the peak.")


class TableFileSettings(SettingsGroup):
    """How tables are cut into files."""

    title: ClassVar[str] = "Table files"
    shapes_rows: ClassVar[bool] = True

    file_minutes: Annotated[int, AfterValidator(_check_divides_hour)] = Field(
        30,
        ge=1,
        le=60,
        description="Minutes of one <HHMM>.parquet; divides 60. If not given, an existing output keeps its "
        "own value; a new one gets 30, or 1 if a stream creates it.",
    )


class SourceSettings(SettingsGroup):
    """How archives and Redis streams are read."""

    title: ClassVar[str] = "Sources"

    read_mb: int = Field(16, ge=1, le=256, description="MB of an archive that are read and parsed at a time.")
    redis_user: str | None = Field(None, description="User of Redis, if the URL names none.")
    redis_password: SecretStr | None = Field(None, description="Password of Redis.")
    redis_ca: FilePath | None = Field(None, description="Certificate authority of a rediss:// server (PEM).")
    redis_certificate: FilePath | None = Field(
        None, description="Certificate of this client (PEM), if the server asks for one."
    )
    redis_key: FilePath | None = Field(None, description="Private key of that certificate (PEM).")
    read_ms: int = Field(
        1000,
        ge=10,
        le=10_000,
        description="Milliseconds that a read session lasts at most while the reader is behind. It ends with "
        "the first entries if the reader keeps up.",
    )
    idle_ms: int = Field(
        1000, ge=10, le=10_000, description="Milliseconds that a read session waits for a first entry."
    )
    read_count: int = Field(
        50_000, ge=1, le=1_000_000, description="Entries of a stream that are read at a time, at most."
    )
    reread_seconds: int = Field(
        7500, ge=0, description="A stream without a checkpoint starts this long before its group's offset."
    )


class SinkSettings(SettingsGroup):
    """How rows are written, and the credentials of sinks."""

    title: ClassVar[str] = "Sinks"

    flush_seconds: int = Field(
        5, ge=1, le=600, description="Seconds for which a stream collects rows before it writes them."
    )
    warehouse_seconds: int = Field(
        60, ge=1, le=3600, description="The same for BigQuery, where each write costs a job."
    )
    patience_seconds: int = Field(
        3600,
        ge=0,
        le=604_800,
        description="Seconds for which a write is retried while its sink is unavailable.",
    )
    live_maxlen: int = Field(
        100_000, ge=1, description="Approximate number of entries that the live streams keep."
    )
    victoriametrics_user: str | None = Field(None, description="User of VictoriaMetrics, if it asks for one.")
    victoriametrics_password: SecretStr | None = Field(None, description="Password of that user.")
    victoriametrics_token: SecretStr | None = Field(None, description="Bearer token of VictoriaMetrics.")
    influxdb_token: SecretStr | None = Field(None, description="Token of InfluxDB.")


class EngineSettings(SettingsGroup):
    """How the work is divided, and how Flink runs it."""

    title: ClassVar[str] = "Engine"

    workers: int = Field(
        0, ge=0, le=1024, description="Processes of a batch on this machine. 0: as many as there are cores."
    )
    block_reports: int = Field(
        500_000,
        ge=1000,
        description="Reports of a block of a batch, about and at most: the unit of its work.",
    )
    block_hours: Annotated[int, AfterValidator(_check_divides_day)] = Field(
        0,
        ge=0,
        le=24,
        description="Hours of a block; divides 24. 0: as many as have `block_reports`, as a look into the "
        "input estimates.",
    )
    shards: int = Field(
        1,
        ge=1,
        le=1024,
        description="Shards that agents are divided into. If not given, 4 for each parallel task of a "
        "stream, and in a batch as many as an hour of more than `block_reports` needs.",
    )
    checkpoint_seconds: float = Field(
        10.0, ge=0.5, le=3600, description="Seconds from one checkpoint of a stream to the next."
    )
    parallelism: int = Field(
        1,
        ge=1,
        le=1024,
        description="Flink's parallelism of a stream. To change it for an existing job, give --fresh.",
    )
    stream_workers: int = Field(3, ge=1, le=64, description="Python processes of a stream on this machine.")
    renew_seconds: int = Field(
        1800,
        ge=10,
        description="Seconds after which the Flink job is stopped with a checkpoint, and a new job "
        "is started from it.",
    )
    heap_mb: int = Field(2048, ge=256, description="MB of heap of the embedded Flink.")


class Settings(
    BaseSettings,
    ValidationSettings,
    OutlierSettings,
    EnrichmentSettings,
    TableFileSettings,
    SourceSettings,
    SinkSettings,
    EngineSettings,
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
        SettingsError: an unknown name in the file or the environment, or a value out of range.
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
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read the settings from {config}: {error}") from error
    return settings, {name: origins.get(name, "default") for name in Settings.model_fields}


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
