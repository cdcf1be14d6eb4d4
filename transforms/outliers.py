"""Outliers: fences around an agent's baseline, and which values are outside them.

The fences are Tukey's (Exploratory Data Analysis, 1977): `iqr_factor` interquartile ranges outside the
quartiles. A flat baseline has no range to measure by. Its fences are `flat_margin` from its value: as a share
of the value for latency and memory, as an absolute distance for fractions, and never less than the histogram
bucket that the value is known by. A baseline in warm-up has no fences.
"""

from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.tables import FLAGS, METRIC_COLUMNS, METRICS, OUTLIER_FLAGS
from transforms.core import arrow_coder  # noqa: F401 (carries what leaves here)
from transforms.core.histogram_scales import SCALES, LogScale, Scale
from transforms.core.record_batches import append_columns
from transforms.validation.quarantine_rows import RowWise

Floats = NDArray[np.float64]


class FlagOutliers(beam.PTransform):
    """(shard, BASELINED) -> `reports`, the same with the columns of FLAGS at their end, and `quarantine`."""

    def __init__(self, iqr_factor: float, flat_margin: float) -> None:
        super().__init__()
        self.iqr_factor = iqr_factor
        self.flat_margin = flat_margin

    def expand(self, reports: beam.PCollection) -> Any:  # Beam warns of any other type for tagged outputs
        return reports | RowWise("flag outliers", flag_outliers, self.iqr_factor, self.flat_margin)


def flag_outliers(batch: pa.RecordBatch, iqr_factor: float, flat_margin: float) -> pa.RecordBatch:
    """The batch with the columns of FLAGS at its end; it needs the metrics and their `_q1` and `_q3`.

    An outlier is outside either fence. An anomaly is an outlier on the bad side: latency, cpu or memory above
    its high fence, accuracy below its low one. Where the quartiles are null the fences are null and the flags
    false.
    """
    columns: dict[str, pa.Array] = {}
    below, above = {}, {}
    for metric in METRICS:
        values = batch[METRIC_COLUMNS[metric]].to_numpy()
        q1, q3 = (batch[f"{metric}_{name}"].to_numpy(zero_copy_only=False) for name in ("q1", "q3"))
        low, high = compute_fences(SCALES[metric], q1, q3, iqr_factor, flat_margin)
        below[metric], above[metric] = values < low, values > high
        columns[f"{metric}_low_fence"] = pa.array(low, from_pandas=True)
        columns[f"{metric}_high_fence"] = pa.array(high, from_pandas=True)
        columns[OUTLIER_FLAGS[metric]] = pa.array(below[metric] | above[metric])
    columns["is_latency_anomaly"] = pa.array(above["latency"])
    columns["is_accuracy_anomaly"] = pa.array(below["accuracy"])
    columns["is_resource_anomaly"] = pa.array(above["cpu"] | above["memory"])
    return append_columns(batch, ((field, columns[field.name]) for field in FLAGS))


def compute_fences(
    scale: Scale, q1: Floats, q3: Floats, iqr_factor: float, flat_margin: float
) -> tuple[Floats, Floats]:
    """float64[n] low and high fence, in the metric's unit, from quartiles (float64[n]).

    NaN where these are NaN.
    """
    reach = iqr_factor * (q3 - q1)
    flat = np.flatnonzero(q1 == q3)
    value = q1[flat]
    bucket = scale.index(value)
    margin = flat_margin * value if isinstance(scale, LogScale) else flat_margin
    reach[flat] = np.maximum(margin, scale.edges[bucket + 1] - scale.edges[bucket])
    return q1 - reach, q3 + reach
