"""The streaming job on Dataflow (`pipelines.jobs.dataflow`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import apache_beam as beam

from pipelines.assembly import ReadSource, make_stream_sinks, make_stream_timing
from pipelines.graph import Sources, build
from pipelines.jobs.engines import Wire
from pipelines.jobs.stream_job import fit_settings
from pipelines.outputs import Outputs, open_outputs, parse_live_streams, parse_outputs
from pipelines.settings import Settings
from pipelines.sources import parse_live_source
from runners.dataflow import STREAM, Mode, read_option
from transforms.core.expiry import NOTHING, Expiry
from transforms.sources.source import LiveSource, Reading


@dataclass(frozen=True)
class CloudStream:
    """A job from Redis streams, until it is drained."""

    url: str
    streams: tuple[str, ...]
    group: str
    outputs: tuple[str, ...]
    options: tuple[str, ...]
    live: bool = False
    kinds: Mapping[str, str] = field(default_factory=dict)
    encodings: Mapping[str, str] = field(default_factory=dict)
    mode: ClassVar[Mode] = STREAM

    def list_places(self) -> list[str]:
        return [self.url, *self.outputs]

    def plan(self, settings: Settings, flags: Sequence[str]) -> Wire:
        return self._wire(parse_outputs(self.outputs, settings), _spread(settings, flags), flags)

    def open(self, settings: Settings, flags: Sequence[str]) -> Wire:
        source = self._parse_source(settings)
        source.verify_access()
        outputs, settings = open_outputs(self.outputs, _spread(settings, flags), file_minutes=1)
        source.lease(read_option(flags, "job_name")).acquire()  # the job's readers renew it
        return self._wire(outputs, settings, flags, outputs.read_expiry())

    def _wire(
        self, outputs: Outputs, settings: Settings, flags: Sequence[str], expiry: Expiry = NOTHING
    ) -> Wire:
        # Dataflow finalizes a bundle as soon as it has stored the rows itself, whether or not they are
        # written. So an entry is committed only when its rows have long been written.
        hold = max(outputs.gather_seconds, settings.patience_seconds)
        reading = Reading(read_option(flags, "job_name"), hold_seconds=hold)
        live = parse_live_streams(self.url, settings) if self.live else None

        def wire(root: beam.Pipeline) -> None:
            source = self._parse_source(settings).read(reading)
            messages = ReadSource(source, settings, self.kinds, self.encodings)
            sinks = make_stream_sinks(outputs, settings, None, live)
            timing = make_stream_timing(outputs, settings)
            build(root, Sources(messages, expiry=expiry), sinks, settings, timing)

        return wire

    def _parse_source(self, settings: Settings) -> LiveSource:
        return parse_live_source(self.url, self.streams, self.group, settings)


def _spread(settings: Settings, flags: Sequence[str]) -> Settings:
    """Settings whose shards give every worker something to do."""
    if "parallelism" not in settings.model_fields_set:
        settings = settings.model_copy(update={"parallelism": read_option(flags, "max_num_workers")})
    return fit_settings(settings)
