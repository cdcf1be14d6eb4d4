"""The groups of settings: every setting with its default and its description.

The description of a field is what `--help` and `kpiflow settings` print. A new setting is one field in one
group; the order of fields and groups changes only what is printed.
"""

import os
from typing import Annotated, ClassVar, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, Field, FilePath, SecretStr


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


def _make_absolute(place: str) -> str:
    """A path as it is seen from any folder: workers run in others. A URL stays."""
    return place if "://" in place else os.path.abspath(place)


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
        1 << 20,
        ge=1024,
        description="A longer payload is quarantined as `oversize`; an agent may have 32 MiB.",
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


class EncryptionSettings(SettingsGroup):
    """Whether files are encrypted, and under which master key."""

    title: ClassVar[str] = "Encryption"

    encrypt: bool = Field(
        False,
        description="Encrypt the files of a new output, or archive; needs master_key. It stays as it began.",
    )
    master_key: Annotated[str, Field(min_length=1), AfterValidator(_make_absolute)] | None = Field(
        None,
        description="Master key of encrypted outputs: a file (`kpiflow keys new` makes one), or a URL of a "
        "kind that a package brings. Needed to write and to read them.",
    )
    rotate_days: int = Field(
        90, ge=1, le=3650, description="Days after which the keys of an output are due for rotation."
    )


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


class DerivedSettings(SettingsGroup):
    """Tables that are made of tables. They shape no stored message: a change makes derived files stale."""

    title: ClassVar[str] = "Derived tables"

    context_wait_seconds: int = Field(
        60,
        ge=0,
        le=3600,
        description="A record counts for a report if it came at most this many seconds after it.",
    )
    context_hours: int = Field(
        24,
        ge=1,
        le=168,
        description="A task or a result counts for a report if it is at most this many hours older.",
    )
    clock_tolerance_seconds: float = Field(
        5.0,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="A report may be recorded this many seconds before its task was created or after it "
        "was completed: what clocks differ, and the interval in which metrics are collected.",
    )
    quota_tolerance: float = Field(
        0.01, ge=0, le=10, description="Share of a quota by which its use may be over it."
    )
    false_alarm_rate: float = Field(
        1e-5,
        gt=0,
        lt=1,
        description="Share of an agent's hours in which a rule about distributions may raise a false alarm.",
    )
    trend_false_alarms: float = Field(
        1.0,
        ge=0.001,
        le=1000,
        description="Changes of level that may be reported falsely in a day, over all agents and metrics.",
    )
    timely_seconds: float = Field(
        10.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="A report is timely if it is received at most this many seconds after it was recorded.",
    )
    experience_days: int = Field(
        7, ge=1, le=90, description="Days of an agent's past that are its experience."
    )
    experience_step: int = Field(
        10, ge=2, le=1000, description="Factor of tasks from one level of experience to the next."
    )
    workload_low: float = Field(
        0.5, gt=0, lt=1, description="Workload below this is low; 1 is an agent's usual one."
    )
    workload_high: float = Field(2.0, gt=1, le=100, description="Workload above this is high.")
    correlation_reports: int = Field(
        10, ge=3, description="Least number of an agent's reports in an hour that are correlated."
    )
    fit_reports: int = Field(
        100, ge=20, description="Least number of reports that the expected latency of tasks is fitted to."
    )
    agent_type_categories: str = Field(
        "training=train,tuning,learn;inference=infer,predict,classif,generat,chat,llm;"
        "retrieval=retriev,search,index,embed;planning=plan,schedul,orchestrat,coordinat,route;"
        "processing=process,data,etl,transform,extract,pars;monitoring=monitor,watch,health,alert",
        pattern=r"^[^=,;]+=[^=,;]+(,[^=,;]+)*(;[^=,;]+=[^=,;]+(,[^=,;]+)*)*$",
        description="Categories of agent types, as NAME=WORD,WORD;NAME=WORD. The first one with a word that "
        "the type contains counts; without one it is `other`.",
    )
    completeness_threshold: float = Field(
        0.98, ge=0, le=1, description="Least share of complete messages; below it the quality is not met."
    )
    accuracy_threshold: float = Field(
        0.95, ge=0, le=1, description="Least share of accurate messages among the complete ones."
    )
    timeliness_threshold: float = Field(
        0.99, ge=0, le=1, description="Least share of reports that are received in time."
    )
    consistency_threshold: float = Field(
        0.99, ge=0, le=1, description="Least share of reports without an inconsistency."
    )
    derive: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Whether batches and streams derive tables. auto: if the output has records, or derived "
        "tables already.",
    )
    derive_seconds: int = Field(
        30, ge=1, le=3600, description="Seconds from one pass of deriving beside a stream to the next."
    )
    derive_memory_mb: int = Field(
        600, ge=100, description="MB that DuckDB may use to derive tables; it writes the rest to the disk."
    )


class RetentionSettings(SettingsGroup):
    """How long rows are kept. Rows expire by whole days (UTC), and only when `kpiflow maintain` runs."""

    title: ClassVar[str] = "Retention"

    keep_reports_days: int = Field(
        365,
        ge=1,
        le=36_500,
        description="Days that reports are kept, by recorded_at; duplicates and quarantine by received_at.",
    )
    keep_records_days: int = Field(
        365,
        ge=1,
        le=36_500,
        description="Days that tasks, results and system health are kept, by the time that decides their "
        "file. Agents do not expire.",
    )
    keep_windows_1h_days: int = Field(365, ge=1, le=36_500, description="Days that windows of 1 h are kept.")
    keep_windows_1m_days: int = Field(90, ge=1, le=36_500, description="Days that windows of 1 min are kept.")
    keep_windows_5s_days: int = Field(30, ge=1, le=36_500, description="Days that windows of 5 s are kept.")
    keep_derived_days: int = Field(
        365, ge=1, le=36_500, description="Days that features and the other derived tables are kept."
    )


class MaintenanceSettings(SettingsGroup):
    """When `kpiflow maintain` changes which files a day has, and where they are."""

    title: ClassVar[str] = "Maintenance"

    warm_days: int = Field(
        7, ge=0, le=36_500, description="Days after which a sealed day moves to --warm, if that is given."
    )
    cold_days: int = Field(
        30, ge=0, le=36_500, description="Days after which a sealed day moves to --cold, if that is given."
    )
    grace_seconds: int = Field(
        3600,
        ge=0,
        le=604_800,
        description="Seconds for which files that were replaced or have expired stay, because queries may "
        "still read them: more than the longest query takes.",
    )


class MetricsSettings(SettingsGroup):
    """TLS of the metrics, which addresses other than the loopback need, and the form of logs."""

    title: ClassVar[str] = "Metrics and logs"

    log_format: str = Field(
        "text",
        pattern="^(text|json)$",
        description="What commands and their workers log: text, or events as json.",
    )

    metrics_certificate: FilePath | None = Field(None, description="Certificate of the metrics (PEM).")
    metrics_key: FilePath | None = Field(None, description="Private key of that certificate (PEM).")
    metrics_ca: FilePath | None = Field(
        None, description="Certificate authority of clients that may read the metrics (PEM)."
    )
