"""What can be told from a report alone: scores, efficiencies and the local hour, as columns of `schemas.tables.ENRICHMENT`."""

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
"""Less use of resources than this is none: what is divided by it says nothing, and would be without bounds."""


@dataclass(frozen=True)
class EnrichOptions:
    """What `enrich` depends on beside the report."""

    reference_latency_ms: float
    """Latency, ms (> 0), at which performance_score is half the accuracy."""
    time_zone: str
    """IANA name of the zone of hour_of_day, day_of_week and is_peak_hour."""
    peak_start_hour: int
    """First local hour of the peak, 0 to 23."""
    peak_end_hour: int
    """First local hour after the peak, 1 to 24; below the start, the peak runs over midnight."""


class Enrich(beam.PTransform):
    """Batches of reports -> `reports`, the same with the columns of ENRICHMENT at their end, and `quarantine`.

    The fields are EnrichOptions'.
    """

    def __init__(
        self, reference_latency_ms: float, time_zone: str, peak_start_hour: int, peak_end_hour: int
    ) -> None:
        super().__init__()
        self.options = EnrichOptions(reference_latency_ms, time_zone, peak_start_hour, peak_end_hour)

    def expand(self, reports: beam.PCollection) -> Any:  # Beam warns of any other type for tagged outputs
        return reports | RowWise("enrich", enrich, self.options)


def enrich(batch: pa.RecordBatch, options: EnrichOptions) -> pa.RecordBatch:
    """The batch with the columns of ENRICHMENT at its end; docs/columns.md gives each formula.

    Reads latency_ms, accuracy, cpu_usage, memory_mb, network_bytes, execution_context and recorded_at.

    Raises:
        ZoneInfoNotFoundError: `options.time_zone` names no zone that this machine knows.
    """
    columns = (
        _scores(batch, options.reference_latency_ms)
        | _efficiencies(batch)
        | _calendar(batch["recorded_at"], options)
    )
    return append_columns(batch, [(field, columns[field.name]) for field in ENRICHMENT])


def _scores(batch: pa.RecordBatch, reference_latency_ms: float) -> dict[str, pa.Array]:
    """What was achieved, and what for: accuracy against latency, CPU and memory."""
    accuracy = _values(batch["accuracy"])
    available = _values(pc.struct_field(batch["execution_context"], "available_memory_mb"))
    memory_share = np.minimum(1.0, _values(batch["memory_mb"]) / available)
    resource_use = (_values(batch["cpu_usage"]) + memory_share) / 2
    score = accuracy * reference_latency_ms / (reference_latency_ms + _values(batch["latency_ms"]))
    unused = resource_use < LEAST_USE
    ratio = np.divide(score, resource_use, out=np.zeros_like(score), where=~unused)
    return {
        "performance_score": pa.array(score),
        "efficiency_ratio": pa.array(ratio, mask=unused),
        "resource_efficiency": pa.array(accuracy * (1 - resource_use)),
    }


def _efficiencies(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """1 / (1 + cost) in (0, 1]; the costs are share-seconds of CPU, GB-seconds of memory and MB moved."""
    seconds = _values(batch["latency_ms"]) / MS_PER_SECOND
    moved = batch["network_bytes"]
    megabytes = _values(pc.fill_null(moved, 0)) / BYTES_PER_MB
    return {
        "cpu_efficiency": pa.array(1 / (1 + _values(batch["cpu_usage"]) * seconds)),
        "memory_efficiency": pa.array(1 / (1 + _values(batch["memory_mb"]) / MB_PER_GB * seconds)),
        "network_efficiency": pa.array(1 / (1 + megabytes), mask=_values(moved.is_null())),
    }


def _calendar(recorded_at: pa.Array, options: EnrichOptions) -> dict[str, pa.Array]:
    """The local hour and day, Monday = 1 (ISO 8601), and whether that hour is a weekday's peak."""
    local = convert_to_local(_values(recorded_at.cast(pa.int64())), options.time_zone)
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


def _values(column: pa.Array) -> NDArray:
    return column.to_numpy(zero_copy_only=False)
