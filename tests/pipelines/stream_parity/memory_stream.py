"""The graph of a stream in this process: reads that a test scripts, real files, and a death in the middle."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing.test_stream import TestStream as BeamStream
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.trigger import GeneralTriggerDriver
from apache_beam.transforms.window import TimestampedValue

from pipelines.assembly import SourceRows, make_stream_sinks, make_stream_timing
from pipelines.graph import Sources, build
from pipelines.outputs import open_outputs
from pipelines.settings import Settings
from transforms.core import micro_batching
from transforms.sinks import write_tables

_LONG = 100
"""Seconds of processing time in which every pane is emitted."""
_LATEST = 4 * 3600
"""Seconds after the last message at which every window is closed."""


class Step(NamedTuple):
    """One read: batches of RAW, the watermark after it (s), and how long after the read before (s)."""

    batches: Sequence[pa.RecordBatch]
    watermark: int
    seconds: int


class Killed(RuntimeError):  # noqa: N818 (it is no error)
    """The process ends."""


@dataclass(frozen=True)
class Run:
    """One run of a stream job: it reads `steps`, recalls from the output `stored`, and dies at a write."""

    output: Path
    stored: Path
    steps: Sequence[Step]
    dies_at: int | None = None

    def start(self, settings: Settings) -> None:
        """Run until all is read and written, or until it dies."""
        outputs, shaped = open_outputs((str(self.output),), settings)
        recalled, _ = open_outputs((str(self.stored),), settings)
        with _correct_runner(), _die_at(self.dies_at), _quiet():
            try:
                with beam.Pipeline(BundleBasedDirectRunner(), PipelineOptions([], streaming=True)) as root:
                    sinks = make_stream_sinks(outputs, shaped, None)
                    timing = make_stream_timing(recalled, shaped)
                    build(root, Sources(_Given(_script(self.steps))), sinks, shaped, timing)
            except RuntimeError as error:  # Beam makes one of each error, with its name
                if Killed.__name__ not in str(error):
                    raise


class _Given(beam.PTransform):
    """A source of scripted messages, without any that it refuses."""

    def __init__(self, stream: BeamStream) -> None:
        super().__init__()
        self.stream = stream

    def expand(self, root: beam.pvalue.PBegin) -> SourceRows:
        messages = root | self.stream | beam.Map(lambda each: each).with_output_types(pa.RecordBatch)
        none = messages | "None" >> beam.FlatMap(lambda each: ()).with_output_types(pa.RecordBatch)
        return SourceRows(messages, none)


def _script(steps: Sequence[Step]) -> BeamStream:
    """The reads, and then time enough for all that they make."""
    stream, watermark = BeamStream(), 0
    for step in steps:
        elements = [
            TimestampedValue(batch, batch["received_at"][0].as_py().timestamp()) for batch in step.batches
        ]
        if elements:
            stream = stream.add_elements(elements)
        if step.watermark > watermark:
            watermark = step.watermark
            stream = stream.advance_watermark_to(watermark)
        stream = stream.advance_processing_time(step.seconds)
    for _ in range(2):
        stream = stream.advance_processing_time(_LONG)
    stream = stream.advance_watermark_to(watermark + _LATEST)
    for _ in range(3):
        stream = stream.advance_processing_time(_LONG)
    return stream.advance_watermark_to_infinity()


@contextmanager
def _correct_runner() -> Iterator[None]:
    """Correct two faults of triggers in Beam's Python runner; Flink has its own.

    A timer of processing time is taken for the watermark, so a late pane holds the watermark for ever. And
    AfterAny resets none of its triggers but those of event time, so AfterProcessingTime fires once only.
    """
    process = GeneralTriggerDriver.process_timer

    def process_timer(
        driver: Any, window: Any, name: str, domain: Any, moment: Any, state: Any, watermark: Any = None
    ) -> Any:
        is_real = domain == TimeDomain.REAL_TIME and watermark is not None
        return process(driver, window, name, domain, watermark if is_real else moment, state, watermark)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GeneralTriggerDriver, "process_timer", process_timer)
        patch.setattr(micro_batching, "AfterAny", lambda first, *_: first)
        yield


@contextmanager
def _die_at(number: int | None) -> Iterator[None]:
    """Die at the write of this number: at odd ones after it, at even ones before; no write is made later."""
    write, left = write_tables.write_or_quarantine, [number or 0]

    def write_until(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] > 0:
            return write(*arguments)
        if left[0] == 0 and number and number % 2:
            write(*arguments)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        if number is not None:
            patch.setattr(write_tables, "write_or_quarantine", write_until)
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the runner's log of a death that is wanted."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
