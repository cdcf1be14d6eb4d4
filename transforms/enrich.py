"""Columns that depend on a report alone: scores, efficiencies and the local hour."""

from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.tables import ENRICHMENT
from transforms.core import arrow_coder  # noqa: F401 (carries what leaves here)
from transforms.core.local_time import convert_to_local
from transforms.core.record_batches import append_columns
from transforms.validation.quarantine_rows import RowWise

MS_PER_SECOND = 1000.0
MB_PER_GB = 1000.0
BYTES_PER_MB = 1e6
SATURDAY = 6
EPOCH_DAY = 4
"""1970-01-01 was a Thursday."""
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
LEAST_USE = 1e-9
"""A smaller use of resources counts as none: a quotient by it says nothing and has no bounds."""


@dataclass(frozen=True)
class EnrichOptions:
    """What `enrich` depends on beside the report.

    Attributes:
        reference_latency_ms: latency, ms (> 0), at which performance_score is half the accuracy.
        time_zone: IANA name of the zone of hour_of_day, day_of_week and is_peak_hour.
        peak_start_hour: first local hour of the peak, 0 to 23.
        peak_end_hour: first local hour after the peak, 1 to 24; below the start, the peak includes midnight.
    """

    reference_latency_ms: float
    time_zone: str
    peak_start_hour: int
    peak_end_hour: int


class Enrich(beam.PTransform):
    """(shard, batch of reports) -> `reports`, the same with the columns of ENRICHMENT, and `quarantine`."""

    def __init__(self, options: EnrichOptions) -> None:
        super().__init__()
        self.options = options

    def expand(self, reports: beam.PCollection) -> Any:  # Beam warns of any other type for tagged outputs
        return reports | RowWise("enrich", enrich, self.options)


def enrich(batch: pa.RecordBatch, options: EnrichOptions) -> pa.RecordBatch:
    """The batch with the columns of ENRICHMENT at its end; docs/columns.md has each formula.

    Reads latency_ms, accuracy, cpu_usage, memory_mb, network_bytes, execution_context and recorded_at.

    Raises:
        ZoneInfoNotFoundError: this machine knows no zone `options.time_zone`.
    """
    columns = (
        _compute_scores(batch, options.reference_latency_ms)
        | _compute_efficiencies(batch)
        | _compute_calendar(batch["recorded_at"], options)
    )
    return append_columns(batch, [(field, columns[field.name]) for field in ENRICHMENT])


def _compute_scores(batch: pa.RecordBatch, reference_latency_ms: float) -> dict[str, pa.Array]:
    """Accuracy in relation to latency, CPU and memory."""
    accuracy = _read_values(batch["accuracy"])
    available = _read_values(pc.struct_field(batch["execution_context"], "available_memory_mb"))
    memory = _read_values(batch["memory_mb"])
    # min(1, memory / available), without the overflow of a division by next to nothing
    memory_share = np.divide(memory, available, out=np.ones_like(memory), where=~(memory >= available))
    resource_use = (_read_values(batch["cpu_usage"]) + memory_share) / 2
    score = accuracy * reference_latency_ms / (reference_latency_ms + _read_values(batch["latency_ms"]))
    unused = resource_use < LEAST_USE
    ratio = np.divide(score, resource_use, out=np.zeros_like(score), where=~unused)
    return {
        "performance_score": pa.array(score),
        "efficiency_ratio": pa.array(ratio, mask=unused),
        "resource_efficiency": pa.array(accuracy * (1 - resource_use)),
    }


def _compute_efficiencies(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """1 / (1 + cost) in (0, 1]; the costs are share-seconds of CPU, GB-seconds of memory and MB moved."""
    seconds = _read_values(batch["latency_ms"]) / MS_PER_SECOND
    moved = batch["network_bytes"]
    megabytes = _read_values(pc.fill_null(moved, 0)) / BYTES_PER_MB
    return {
        "cpu_efficiency": pa.array(1 / (1 + _read_values(batch["cpu_usage"]) * seconds)),
        "memory_efficiency": pa.array(1 / (1 + _read_values(batch["memory_mb"]) / MB_PER_GB * seconds)),
        "network_efficiency": pa.array(1 / (1 + megabytes), mask=_read_values(moved.is_null())),
    }


def _compute_calendar(recorded_at: pa.Array, options: EnrichOptions) -> dict[str, pa.Array]:
    """The local hour and day, Monday = 1 (ISO 8601), and whether that hour is a weekday's peak."""
    local = convert_to_local(_read_values(recorded_at.cast(pa.int64())), options.time_zone)
    hour, day = local // HOUR_US % 24, (local // DAY_US + EPOCH_DAY - 1) % 7 + 1
    after_start = hour >= options.peak_start_hour
    before_end = hour < options.peak_end_hour
    over_midnight = options.peak_start_hour > options.peak_end_hour
    in_peak = after_start | before_end if over_midnight else after_start & before_end
    return {
        "hour_of_day": pa.array(hour.astype(np.int32)),
        "day_of_week": pa.array(day.astype(np.int32)),
        "is_peak_hour": pa.array(in_peak & (day < SATURDAY)),
    }


def _read_values(column: pa.Array) -> NDArray:
    return column.to_numpy(zero_copy_only=False)
