"""What Flink's checkpoints hold of the streaming job, as lines: those of checkpoint_state.txt.

Flink finds state by the names of steps and of states, and reads it with their coders. After GRAPH_VERSION was
raised, `python -m tests.pipelines.jobs.checkpoint_state` writes the file anew.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import apache_beam as beam
from apache_beam.coders import Coder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2 as protos
from apache_beam.runners.pipeline_context import PipelineContext
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from google.protobuf.json_format import MessageToDict

from pipelines.jobs.stream import StreamGraph
from pipelines.jobs.stream_job import GRAPH_VERSION, StreamRequest, fit_settings
from pipelines.outputs import open_outputs, parse_live_streams
from pipelines.settings import Settings
from pipelines.sources import parse_live_source
from runners.pipeline import make_pipeline
from schemas.tables import FLEET, TABLES, TRIMMED
from transforms.aggregation.statistics import PARTIAL
from transforms.history import state_codec
from transforms.sinks.archive.stream_archive import StreamArchive
from transforms.sources.redis.positions import Position

RECORDED = Path(__file__).with_name("checkpoint_state.txt")
FIX = """What checkpoints hold has changed: Flink would refuse older ones, or misread them. Undo it, or
1. raise GRAPH_VERSION in pipelines/jobs/stream_job.py: with older checkpoints a job then asks for --fresh;
2. run `python -m tests.pipelines.jobs.checkpoint_state`;
3. note in CHANGELOG.md that a running stream must be started with --fresh."""


def record(file: Path, version: int, lines: list[str]) -> None:
    """Write the lines under a version. Other lines are never written under the version that the file has."""
    text = "\n".join([f"version {version}", *lines, ""])
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    if before.startswith(f"version {version}\n") and before != text:
        sys.exit(FIX)
    file.write_text(text, encoding="utf-8")


def translate_stream(home: Path) -> protos.Pipeline:
    """The graph of a streaming job with everything that one can have."""
    texts = (str(home / "out"), "victoriametrics+http://localhost:8428")
    job = StreamRequest("redis://h", ("a", "b"), "g", texts, home, archive=home / "archive", live=True)
    outputs, settings = open_outputs(job.outputs, Settings(parallelism=2), file_minutes=1)
    settings = fit_settings(settings)
    source = parse_live_source(job.url, job.streams, job.group, settings)
    live = parse_live_streams(job.url, settings)
    pipeline = make_pipeline(FnApiRunner(), PipelineOptions(["--streaming"]))
    StreamGraph(job, outputs, source, live, StreamArchive(home / "archive"), settings, "owner").wire(pipeline)
    return pipeline.to_runner_api()


def describe_state(graph: protos.Pipeline) -> Iterator[str]:
    """A line for each thing that checkpoints depend on."""
    yield f"Beam {beam.__version__}"
    yield from describe_graph(graph)
    yield from describe_layouts()


def describe_graph(graph: protos.Pipeline) -> Iterator[str]:
    """The steps; the coder and windows of each collection; each state with its coder, each timer."""
    parts, context = graph.components, PipelineContext(graph.components)
    windows = {key: _describe_windows(each) for key, each in parts.windowing_strategies.items()}
    short = {text: f"windows {hashlib.sha256(text.encode()).hexdigest()[:6]}" for text in windows.values()}

    def name(coder: str) -> str:
        return _describe_coder(context.coders.get_by_id(coder))

    for step in sorted(parts.transforms.values(), key=lambda step: step.unique_name):
        if step.subtransforms or not step.spec.urn:
            continue
        yield f"step {step.unique_name}: {step.spec.urn}"
        for tag, output in sorted(step.outputs.items()):
            of = parts.pcollections[output]
            windowing = short[windows[of.windowing_strategy_id]]
            yield f"output {step.unique_name} {tag}: {name(of.coder_id)}, {windowing}"
        if step.spec.urn == common_urns.primitives.PAR_DO.urn:
            dofn = protos.ParDoPayload.FromString(step.spec.payload)
            yield from (f"state {step.unique_name} {line}" for line in _describe_dofn(dofn, name))
    yield from sorted(f"{name}: {text}" for text, name in short.items())


def describe_layouts() -> Iterator[str]:
    """What is inside the bytes: a reader's position, the deltas of history, the columns of batches."""
    yield f"layout position: {', '.join(f'{field.name}' for field in fields(Position))}"
    codec = state_codec
    yield f"layout history {codec.VERSION}: {codec.HEADER.format} {codec.AGENT} {codec.SEEN} {codec.FEEDING}"
    tables = [*TABLES.values(), FLEET, TRIMMED]
    for name, schema in [("partial", PARTIAL), *((table.name, table.schema) for table in tables)]:
        yield f"layout {name}: {', '.join(f'{field.name} {field.type}' for field in schema)}"


def _describe_dofn(dofn: protos.ParDoPayload, name: Callable[[str], str]) -> Iterator[str]:
    if dofn.restriction_coder_id:
        yield f"(restriction): {name(dofn.restriction_coder_id)}"
    for state, spec in sorted(dofn.state_specs.items()):
        kind = spec.WhichOneof("spec") or ""
        coders = [
            value for field, value in getattr(spec, kind).ListFields() if field.name.endswith("coder_id")
        ]
        yield f"{state}: {kind.removesuffix('_spec')} of {', '.join(map(name, coders))}"
    for timer, family in sorted(dofn.timer_family_specs.items()):
        yield f"{timer}: timer in {protos.TimeDomain.Enum.Name(family.time_domain).lower()}"


def _describe_coder(coder: Coder) -> str:
    """A coder and those in it. A pickled one is found again by the module and the name of its class."""
    kind = type(coder)
    own = not kind.__module__.startswith("apache_beam.")
    name = f"{kind.__module__}.{kind.__name__}" if own else kind.__name__.removesuffix("Coder")
    parts = ", ".join(map(_describe_coder, coder._get_component_coders()))
    return f"{name}({parts})" if parts else name


def _describe_windows(windowing: protos.WindowingStrategy) -> str:
    """Windows, trigger and lateness, by which Flink keeps the elements of a group."""
    kept = MessageToDict(windowing)
    for other in ("environmentId", "windowCoderId"):
        kept.pop(other, None)
    return json.dumps(kept, sort_keys=True, separators=(",", ":")).replace('"', "")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        record(RECORDED, GRAPH_VERSION, list(describe_state(translate_stream(Path(folder)))))
