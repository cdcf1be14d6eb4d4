"""Metrics of Prometheus as families, and pages of them: what a job's and a relay's metrics have in common."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import version
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.registry import Collector

from transforms.core.process_stats import LATENCY_BOUNDS, ProcessStats

PREFIX = "kpiflow_"
Samples = Iterable[tuple[tuple[str, ...], float | None]]


class _Collected(Collector):
    """Metrics that a function makes at each scrape."""

    def __init__(self, make: Callable[[], Iterator[Metric]]) -> None:
        self._make = make

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        return self._make()

    def describe(self) -> list[Metric]:
        """Nothing: the registry would collect for it."""
        return []


def format_page(make: Callable[[], Iterator[Metric]]) -> bytes:
    """The metrics that a function makes, as OpenMetrics text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(make))
    page: bytes = generate_latest(registry)
    return page


def make_counter(name: str, text: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    """A counter by its name without prefix and `_total`; unknown values are left out."""
    return _fill(CounterMetricFamily(PREFIX + name, text, labels=labels), samples)


def make_gauge(name: str, text: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    """A gauge by its name without prefix; unknown values are left out."""
    return _fill(GaugeMetricFamily(PREFIX + name, text, labels=labels), samples)


def _fill(family: CounterMetricFamily | GaugeMetricFamily, samples: Samples) -> Metric:
    for labels, value in samples:
        if value is not None:
            family.add_metric(labels, float(value))
    return family


def describe_build() -> Metric:
    """The version of kpiflow."""
    return InfoMetricFamily(f"{PREFIX}build", "The version of kpiflow.", {"version": _find_version()})


@cache
def _find_version() -> str:
    return version("kpiflow")


def describe_uses(stats: ProcessStats, peers: str) -> Iterator[Metric]:
    """The uses of peers that processes have counted, and those that failed. `peers`: which ones, in words."""
    for name, text, counts in (
        ("attempts", f"Uses of {peers}.", stats.attempts),
        ("errors", "Uses that failed.", stats.errors),
    ):
        yield make_counter(name, text, ("peer",), (((peer,), counts[peer]) for peer in stats.attempts))


def describe_processes(
    cpu: Mapping[str, float], memory: Mapping[str, float], more: str = ""
) -> Iterator[Metric]:
    """CPU seconds and resident bytes by role. `more` is added to the text of CPU."""
    roles = ("role",)
    text = f"CPU time, by what processes are for{more}."
    yield make_counter("cpu_seconds", text, roles, (((role,), seconds) for role, seconds in cpu.items()))
    text = "Resident memory, by what processes are for."
    yield make_gauge("memory_bytes", text, roles, (((role,), octets) for role, octets in memory.items()))


def describe_latency(stats: ProcessStats) -> Metric:
    """The latencies that processes have measured, by stage."""
    text = "From the time at which a message was received until it is validated, published or written."
    family = HistogramMetricFamily(f"{PREFIX}stage_latency_seconds", text, labels=("stage",))
    for stage, latency in sorted(stats.latency.items()):
        bounds = [*(str(float(bound)) for bound in LATENCY_BOUNDS), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(latency.counts))))
        family.add_metric((stage,), buckets, latency.seconds)
    return family
