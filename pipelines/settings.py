"""Every setting, where it is declared, with its default: flags, `KPIFLOW_...` and a TOML file fill this one object."""

import os
from datetime import tzinfo
from pathlib import Path
from typing import Annotated, Any, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, FilePath, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

PREFIX = "KPIFLOW_"


def _divides_the_hour(minutes: int) -> int:
    if 60 % minutes:
        raise ValueError("must divide 60 (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30 or 60)")
    return minutes


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError("is no IANA time zone; try UTC or Europe/Berlin") from error
    return name


class Settings(BaseSettings):
    """What shapes the rows and, from `shards` on, what shapes the work. A field's description is its documentation."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    max_payload_bytes: int = Field(
        1 << 20, ge=1024, description="A longer payload is quarantined as `oversize`."
    )
    max_depth: int = Field(
        32, ge=4, le=512, description="Deeper nesting than this is quarantined as `depth`."
    )
    custom_metric_limit: float = Field(
        1e15,
        gt=0,
        lt=2.0**53,
        description="Largest absolute value of a custom metric; below 2^53, up to which numbers are exact.",
    )
    stale_seconds: int = Field(
        3600, ge=60, description="recorded_at may be this much older than received_at."
    )
    future_seconds: int = Field(60, ge=0, description="recorded_at may be this much newer than received_at.")
    iqr_factor: float = Field(
        3.0, gt=0, le=1e6, description="Tukey's k: a fence lies k interquartile ranges outside a quartile."
    )
    min_samples: int = Field(
        30, ge=4, description="A baseline of fewer reports is in warm-up and flags nothing."
    )
    flat_margin: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Fence of a baseline whose quartiles are equal: relative for "
        "latency and memory, absolute for fractions.",
    )
    reference_latency_ms: float = Field(
        1000.0,
        gt=0,
        allow_inf_nan=False,
        description="Latency at which performance_score is half the accuracy.",
    )
    time_zone: Annotated[str, AfterValidator(_known_zone)] = Field(
        "UTC", description="IANA zone of hour_of_day, day_of_week and is_peak_hour."
    )
    peak_start_hour: int = Field(9, ge=0, le=23, description="First local hour of the peak.")
    peak_end_hour: int = Field(17, ge=1, le=24, description="First local hour after the peak.")
    file_minutes: Annotated[int, AfterValidator(_divides_the_hour)] = Field(
        30,
        ge=1,
        le=60,
        description="Minutes of one <HHMM>.parquet; divides 60. Unless given: as the output has it; a new one "
        "has 30, and 1 if a stream makes it.",
    )

    shards: int = Field(
        8, ge=1, le=1024, description="Parts the agents are spread over; the grain of parallel work."
    )
    block_mb: int = Field(16, ge=1, le=256, description="MB of archive read, and parsed, at a time.")
    slice_reports: int = Field(
        1_000_000, ge=1000, description="Reports of one time slice of a larger backfill."
    )

    redis_user: str | None = Field(None, description="User of Redis, if the URL names none.")
    redis_password: SecretStr | None = Field(None, description="Password of Redis; not a flag.")
    redis_ca: FilePath | None = Field(None, description="Certificate authority of a rediss:// server (PEM).")
    redis_certificate: FilePath | None = Field(
        None, description="Certificate of this client (PEM), where the server asks for one."
    )
    redis_key: FilePath | None = Field(None, description="Key of that certificate (PEM).")
    read_ms: int = Field(
        100,
        ge=10,
        le=10_000,
        description="Milliseconds of a read session once entries come: latency against overhead.",
    )
    idle_ms: int = Field(
        1000, ge=10, le=10_000, description="Milliseconds that a read session waits for a first entry."
    )
    read_count: int = Field(
        10_000, ge=1, le=1_000_000, description="Entries that are read of a stream at a time."
    )
    reread_seconds: int = Field(
        7500, ge=0, description="A stream without a checkpoint begins this long before its group's place."
    )
    flush_seconds: int = Field(
        5, ge=1, le=600, description="How long a stream gathers rows before they are written."
    )
    warehouse_seconds: int = Field(
        60, ge=1, le=3600, description="The same for BigQuery, where each write costs a job."
    )
    patience_seconds: int = Field(
        3600, ge=0, le=604_800, description="How long a write is tried again while its output is away."
    )
    victoriametrics_user: str | None = Field(
        None, description="User of VictoriaMetrics, where it asks for one."
    )
    victoriametrics_password: SecretStr | None = Field(None, description="Password of that user; not a flag.")
    victoriametrics_token: SecretStr | None = Field(
        None, description="Bearer token of VictoriaMetrics; not a flag."
    )
    influxdb_token: SecretStr | None = Field(None, description="Token of InfluxDB; not a flag.")
    checkpoint_seconds: float = Field(
        10.0, ge=0.5, le=3600, description="Seconds from one checkpoint of a stream to the next."
    )
    parallelism: int = Field(
        1, ge=1, le=1024, description="Flink's parallelism of a stream; keep it, or give --fresh."
    )
    workers: int = Field(3, ge=1, le=64, description="Python processes of a stream on this machine.")
    renew_seconds: int = Field(
        1800, ge=10, description="Seconds after which the embedded Flink is started anew from a checkpoint."
    )
    heap_mb: int = Field(2048, ge=256, description="MB of heap of the embedded Flink.")
    live_maxlen: int = Field(100_000, ge=1, description="About how many entries the live streams keep.")

    @classmethod
    def secrets(cls) -> list[str]:
        """The settings that no flag may hold: a command line can be read by everybody on the machine, and is kept in histories."""
        return [
            name
            for name, field in cls.model_fields.items()
            if SecretStr in (field.annotation, *get_args(field.annotation))
        ]

    @property
    def zone(self) -> tzinfo:
        """`time_zone` as a tzinfo."""
        return ZoneInfo(self.time_zone)

    def shaping(self) -> dict[str, Any]:
        """The settings that decide what a row holds or where it lies: kept with an output, refused when they differ."""
        names = list(Settings.model_fields)
        return self.model_dump(include=set(names[: names.index("shards")]))


class SettingsError(ValueError):
    """A setting has a value it cannot have; the message names the setting, the value and what would do."""


def load(flags: dict[str, Any] | None = None, config: Path | None = None) -> tuple[Settings, dict[str, str]]:
    """The settings from flags, then the environment, then a TOML file, then defaults; and where each came from.

    Raises:
        SettingsError: an unknown name in the file, or a value out of range.
    """
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    if unknown := sorted(
        name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known
    ):
        raise SettingsError(
            f"the environment has {', '.join(unknown)}, which is no setting; unset or correct it"
        )
    given = {name: value for name, value in (flags or {}).items() if value is not None}

    origins: dict[str, str] = {}
    values: dict[str, Any] = {}
    try:
        for label, source in _sources(given, config):
            for name, value in source().items():
                values.setdefault(name, value)
                origins.setdefault(name, label if label != "environment" else f"{PREFIX}{name.upper()}")
        settings = Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        plain = (
            name in Settings.model_fields and name not in Settings.secrets()
        )  # what is not known may be a misspelt secret
        said = f" = {first['input']!r}" if plain else ""
        raise SettingsError(f"setting {'.'.join(map(str, first['loc']))}{said}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read the settings from {config}: {error}") from error
    return settings, {name: origins.get(name, "default") for name in Settings.model_fields}


def _sources(flags: dict[str, Any], config: Path | None) -> list[tuple[str, PydanticBaseSettingsSource]]:
    sources: list[tuple[str, PydanticBaseSettingsSource]] = [
        ("flag", InitSettingsSource(Settings, flags)),
        ("environment", EnvSettingsSource(Settings)),
    ]
    if config is not None:
        if not config.is_file():
            raise SettingsError(f"no file {config}; give --config an existing TOML file")
        sources.append((str(config), TomlConfigSettingsSource(Settings, config)))
    return sources
