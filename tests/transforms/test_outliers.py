import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from schemas.tables import FLAGS, METRIC_COLUMNS, METRICS
from transforms.core.histogram_scales import SCALES
from transforms.outliers import FlagOutliers, flag_outliers

QUARTILES = {"latency": (100.0, 120.0), "accuracy": (0.9, 0.92), "cpu": (0.4, 0.5), "memory": (500.0, 600.0)}
INSIDE = {"latency": 110.0, "accuracy": 0.91, "cpu": 0.45, "memory": 550.0}
OUTLIERS = [f"is_{metric}_outlier" for metric in METRICS]
ANOMALIES = ["is_latency_anomaly", "is_accuracy_anomaly", "is_resource_anomaly"]


def report(quartiles: dict | None = None, **values: float) -> pa.RecordBatch:
    """One report inside its fences, but for the given `values` and `quartiles`."""
    row = {METRIC_COLUMNS[metric]: value for metric, value in (INSIDE | values).items()}
    for metric, (q1, q3) in (QUARTILES | (quartiles or {})).items():
        row |= {f"{metric}_q1": q1, f"{metric}_q3": q3}
    schema = pa.schema([(name, pa.float64()) for name in row])
    return pa.RecordBatch.from_pylist([row], schema)


def raised(batch: pa.RecordBatch, factor: float = 2.0, margin: float = 0.1) -> set[str]:
    row = flag_outliers(batch, factor, margin).to_pylist()[0]
    return {name for name in OUTLIERS + ANOMALIES if row[name]}


def test_the_fences_lie_some_ranges_outside_the_quartiles():
    flagged = flag_outliers(report(), 2.0, 0.1)
    fences = {"latency": (60, 160), "accuracy": (0.86, 0.96), "cpu": (0.2, 0.7), "memory": (300, 800)}
    expected = dict.fromkeys(OUTLIERS + ANOMALIES, False)
    for metric, (low, high) in fences.items():
        expected |= {f"{metric}_low_fence": low, f"{metric}_high_fence": high}
    assert flagged.select(FLAGS.names).to_pylist()[0] == pytest.approx(expected)
    assert flagged.schema == pa.schema([*report().schema, *FLAGS])


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        ({"latency": 161}, {"is_latency_outlier", "is_latency_anomaly"}),
        ({"latency": 59}, {"is_latency_outlier"}),
        ({"accuracy": 0.85}, {"is_accuracy_outlier", "is_accuracy_anomaly"}),
        ({"accuracy": 0.97}, {"is_accuracy_outlier"}),
        ({"cpu": 0.71}, {"is_cpu_outlier", "is_resource_anomaly"}),
        ({"cpu": 0.19}, {"is_cpu_outlier"}),
        ({"memory": 801}, {"is_memory_outlier", "is_resource_anomaly"}),
        ({"memory": 299}, {"is_memory_outlier"}),
        ({"latency": 160, "memory": 300}, set()),
    ],
)
def test_an_outlier_is_an_anomaly_on_the_bad_side(value, flags):
    assert raised(report(**value)) == flags


def test_warm_up_has_no_fences_and_false_flags():
    unknown = report(dict.fromkeys(METRICS, (None, None)), latency=300_000.0)
    flagged = flag_outliers(unknown, 3.0, 0.1).select(FLAGS.names).to_pylist()[0]
    assert flagged == dict.fromkeys(FLAGS.names) | dict.fromkeys(OUTLIERS + ANOMALIES, False)


@pytest.mark.parametrize(
    ("metric", "quartile", "low", "high"),
    [
        ("latency", 100.0, 90.0, 110.0),
        ("accuracy", 0.9, 0.8, 1.0),
        ("cpu", 0.05, -0.05, 0.15),
        ("memory", 500.0, 450.0, 550.0),
    ],
)
def test_the_fences_of_a_flat_baseline_lie_a_margin_from_its_value(metric, quartile, low, high):
    row = flag_outliers(report({metric: (quartile, quartile)}), 3.0, 0.1).to_pylist()[0]
    assert (row[f"{metric}_low_fence"], row[f"{metric}_high_fence"]) == pytest.approx((low, high))


def test_a_flat_baseline_flags_a_jump():
    flat = {metric: (value, value) for metric, value in INSIDE.items()}
    assert raised(report(flat)) == set()
    assert raised(report(flat, latency=122.0, accuracy=0.8)) == {
        "is_latency_outlier",
        "is_accuracy_outlier",
        *ANOMALIES[:2],
    }


@pytest.mark.parametrize("value", [0.0, 0.0004, 0.00099])
def test_a_flat_baseline_never_flags_a_value_of_its_own_bucket(value):
    smallest = {"latency": (0.0005, 0.0005), "memory": (0.0005, 0.0005), "cpu": (0.00025, 0.00025)}
    assert raised(report(smallest, latency=value, memory=value, cpu=value / 2), margin=1e-6) == set()


@pytest.mark.parametrize("metric", METRICS)
def test_the_fences_of_a_flat_baseline_lie_at_least_the_width_of_its_bucket_away(metric):
    scale, bucket = SCALES[metric], 700
    low, high = scale.edges[bucket : bucket + 2]
    middle = (low + high) / 2
    row = flag_outliers(report({metric: (middle, middle)}), 3.0, 1e-9).to_pylist()[0]
    expected = (middle - (high - low), middle + (high - low))
    assert (row[f"{metric}_low_fence"], row[f"{metric}_high_fence"]) == pytest.approx(expected, rel=1e-12)


def test_no_rows_stay_no_rows():
    assert flag_outliers(report().slice(0, 0), 3.0, 0.1).num_rows == 0


def test_the_transform_flags_every_batch():
    with beam.Pipeline(FnApiRunner()) as pipeline:
        typed = beam.Create([(3, report()), (3, report(latency=500.0))]).with_output_types(
            tuple[int, pa.RecordBatch]
        )
        flagged = (pipeline | typed | FlagOutliers(iqr_factor=2.0, flat_margin=0.1)).reports
        outliers = flagged | beam.FlatMapTuple(
            lambda shard, rows: [(shard, each) for each in rows["is_latency_outlier"].to_pylist()]
        )
        assert_that(outliers, equal_to([(3, False), (3, True)]))
        assert flagged.element_type == beam.typehints.Tuple[int, pa.RecordBatch]
