"""The metrics of a streaming job by their names, for Prometheus: the one list of them.

All are read from state at the moment of a scrape. What is called `_total` never falls by a restart, a resume
or a replay. `kpiflow_attempts_total`, `_errors_total`, `_cpu_seconds_total` and the latencies are added up
from process counters: a process that is killed loses its last second, and a message that is read again after
a restart is measured again.
"""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import Metric

from pipelines.metrics.families import (
    describe_build,
    describe_latency,
    describe_processes,
    describe_uses,
    format_page,
    make_counter,
    make_gauge,
)
from pipelines.metrics.machine import JAVA
from pipelines.metrics.numbers import Numbers, SourceWatch, read_numbers
from pipelines.metrics.readiness import find_reasons


def make_page(home: Path, watch: SourceWatch | None = None) -> bytes:
    """The metrics of the job of a home, read now, as OpenMetrics text."""
    return format_page(lambda: make_metrics(read_numbers(home, watch)))


def make_metrics(numbers: Numbers) -> Iterator[Metric]:
    """The metrics of a job at a moment; what is unknown is left out."""
    yield describe_build()
    yield from _describe_messages(numbers)
    yield from _describe_job(numbers)
    yield from _describe_sinks(numbers)
    yield from _describe_processes(numbers)
    yield from _describe_quality(numbers)
    yield from _describe_deriving(numbers)


def _describe_messages(numbers: Numbers) -> Iterator[Metric]:
    health = numbers.health
    yield make_counter(
        "messages_arrived", "Messages ever added to a stream, as the source says.", ("source",),
        (((key,), count) for key, count in numbers.arrived.items()),
    )  # fmt: skip
    yield make_counter(
        "messages_read", "Messages of a stream that were read, each once.", ("source",),
        (((key,), count) for key, count in numbers.read.items()),
    )  # fmt: skip
    yield make_counter(
        "outcomes", "Messages stored in the main output, by what became of them.", ("outcome", "reason"),
        (numbers.outcomes or {}).items(),
    )  # fmt: skip
    yield make_counter(
        "expired", "Messages that were not written, since rows of their time have expired.", ("kind",),
        (((kind,), count) for kind, count in sorted(numbers.run.stats.expired.items())),
    )  # fmt: skip
    yield make_counter(
        "trimmed", "Messages that were gone before they were read.", (), [((), numbers.trimmed)]
    )
    yield make_gauge(
        "lag_entries", "Messages of a stream that are not read yet.", ("source",),
        (((stream.stream,), stream.lag) for stream in health.streams),
    )  # fmt: skip
    delay = None if health.watermark is None else max(0.0, numbers.at - health.watermark.timestamp())
    yield make_gauge(
        "watermark_delay_seconds", "How far the watermark is behind the clock.", (), [((), delay)]
    )
    yield describe_latency(numbers.run.stats)


def _describe_job(numbers: Numbers) -> Iterator[Metric]:
    health, run = numbers.health, numbers.run
    is_ready = not any(find_reasons(numbers))
    checkpoint = health.checkpoint
    age = max(0.0, numbers.at - checkpoint.at.timestamp()) if checkpoint else None
    facts: list[tuple[str, str, float | None]] = [
        ("running", "1 if the job runs.", health.running),
        ("ready", "1 if it reads, makes checkpoints, and its sinks take rows.", is_ready),
        ("source_up", "1 if the source answers.", numbers.is_source_up),
        ("run_age_seconds", "Time since the newest start of the command.", _age(numbers, run.started)),
        ("renewal_age_seconds", "Time since the newest start or renewal.", _age(numbers, run.renewed)),
        ("renewal_interval_seconds", "After so long the job is renewed.", run.renew_seconds or None),
        ("checkpoint_age_seconds", "Age of the newest complete checkpoint.", age),
        ("checkpoint_bytes", "Its size.", checkpoint.bytes if checkpoint else None),
        ("checkpoint_interval_seconds", "From one to the next, as set.", run.checkpoint_seconds or None),
    ]
    for name, text, value in facts:
        yield make_gauge(name, text, (), [((), value)])
    yield make_counter("starts", "Starts of the command.", (), [((), run.starts)])
    yield make_counter(
        "restarts", "Restarts of the job after a failure, within a run.", (), [((), run.restarts)]
    )
    yield make_counter("renewals", "Planned renewals of the job, within a run.", (), [((), run.renewals)])


def _describe_sinks(numbers: Numbers) -> Iterator[Metric]:
    sinks, read = numbers.health.sinks, numbers.health.newest
    yield make_gauge(
        "sink_delay_seconds", "From the newest row of an output to the newest message read.", ("sink",),
        (((sink.name,), sink.behind(read)) for sink in sinks),
    )  # fmt: skip
    waiting = ((sink.name, sink.waiting_since) for sink in sinks)
    yield make_gauge(
        "sink_waiting_seconds", "For how long a write to an output is being retried.", ("sink",),
        (((name,), max(0.0, numbers.at - since.timestamp()) if since else 0.0) for name, since in waiting),
    )  # fmt: skip
    yield from describe_uses(numbers.run.stats, "Redis and of each output")
    yield make_gauge(
        "key_age_seconds", "Since the keys of an encrypted output were rotated.", ("sink",),
        (((name,), max(0.0, numbers.at - since)) for name, since in numbers.rotated.items()),
    )  # fmt: skip


def _describe_processes(numbers: Numbers) -> Iterator[Metric]:
    cpu = dict(numbers.run.stats.cpu)
    if numbers.usage.java_cpu is not None:
        cpu[JAVA] = numbers.usage.java_cpu
    yield from describe_processes(cpu, numbers.usage.memory, "; Java's of this run")
    memory, cores = numbers.limits
    yield make_gauge("memory_limit_bytes", "Memory of the control group or the machine.", (), [((), memory)])
    yield make_gauge("cpu_limit_cores", "Cores of the control group or the machine.", (), [((), cores)])


def _describe_quality(numbers: Numbers) -> Iterator[Metric]:
    labels, scores = ("source", "score"), numbers.quality
    facts = {
        "quality_score": ("Score of the newest quarter of an hour of data_quality.", "value"),
        "quality_threshold": ("What the score should reach.", "threshold"),
        "quality_messages": ("Messages that the score is over.", "messages"),
    }
    for name, (text, field) in facts.items():
        samples = (((each.source, each.score), getattr(each, field)) for each in scores)
        yield make_gauge(name, text, labels, samples)
    ends = {each.source: each.end for each in scores}
    yield make_gauge(
        "quality_age_seconds", "Since the end of its newest minute.", ("source",),
        (((source,), max(0.0, numbers.at - end)) for source, end in ends.items()),
    )  # fmt: skip


def _describe_deriving(numbers: Numbers) -> Iterator[Metric]:
    facts = {
        "derive_rows": ("Rows that the last pass of deriving analysed, once for each table.", "rows"),
        "derive_seconds": ("How long that pass took.", "seconds"),
        "derive_delay_seconds": (
            "The longest that one of them waited from arrival until tables were written.", "delay_seconds",
        ),
    }  # fmt: skip
    for name, (text, field) in facts.items():
        samples = (((each.output,), getattr(each, field)) for each in numbers.health.derived)
        yield make_gauge(name, text, ("sink",), samples)


def _age(numbers: Numbers, since: float) -> float | None:
    return max(0.0, numbers.at - since) if since and numbers.health.running else None
