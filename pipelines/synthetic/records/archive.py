"""An archive of reports and records: the messages of all schemas in order of arrival, and their truth."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from pipelines.synthetic.archive import Archive, Form, describe_fates, list_settings
from pipelines.synthetic.messages import (
    Messages,
    Mix,
    draw_arrivals,
    format_block,
    format_envelopes,
    view_bytes,
)
from pipelines.synthetic.protobuf_payloads import encode_payloads, format_encoded
from pipelines.synthetic.records.clocks import skew_clocks
from pipelines.synthetic.records.messages import RecordStream
from pipelines.synthetic.records.streams import draw_arrivals_of_records, draw_streams
from pipelines.synthetic.records.tasks import Integers
from pipelines.synthetic.records.truth import describe_records
from pipelines.synthetic.records.world import build_world
from pipelines.synthetic.reports import KpiTestGenerator, Scenario
from schemas.kinds import KINDS, REPORT_KIND, find_kind
from transforms.core.message_encodings import JSON


def prepare_with_records(
    generator: KpiTestGenerator,
    scenario: Scenario,
    mix: Mix,
    form: Form,
    inconsistent: float,
    clock_skew: float = 0.0,
) -> Archive:
    """Draw every message of an archive of reports and records; `clock_skew`: seconds, see `skew_clocks`.

    Raises:
        ValueError: the scenario is not possible with this number of reports, a share is not one, or the skew
            is too large.
    """
    seed = generator.seed
    world = skew_clocks(build_world(generator, scenario, mix, inconsistent), clock_skew, seed)
    reports = draw_arrivals(world.moments.recorded, world.fates, mix, seed)
    arrivals = draw_arrivals_of_records(world, reports, seed)
    streams = draw_streams(world, arrivals, mix, seed)

    is_json = form.encoding == JSON

    def format_reports(block: slice) -> pa.StringArray:
        return format_block(reports, block, world.columns, world.fleet, bare=not is_json)

    parts = [ArchivePart(REPORT_KIND.stream, reports, format_reports)]
    parts += [_part_of(stream, bare=not is_json) for stream in streams.values()]
    merged = Merged.of(parts if is_json else [_encode_part(part) for part in parts])
    truth = describe_fates(reports, world.fates, world.injected, mix.count(mix.outliers), world.fleet)
    truth["records"] = describe_records(world, reports, streams, arrivals)
    truth["settings"] = list_settings(generator, scenario, mix, form) | {
        "inconsistent": inconsistent,
        "clock_skew": clock_skew,
    }
    truth = form.fit_truth({"seed": seed, "scenario": scenario} | truth)
    return Archive(merged.received, merged.format_lines, form, truth)


@dataclass(frozen=True)
class ArchivePart:
    """The messages of one source, in order of arrival; `format(block)` gives their payloads, string[k], and
    `wrap` makes lines of these."""

    source: str
    messages: Messages
    format: Callable[[slice], pa.Array]
    wrap: Callable[[Messages, slice, pa.Array, str], pa.StringArray] = format_envelopes


def _encode_part(part: ArchivePart) -> ArchivePart:
    """The same messages as Protocol Buffers."""
    kind = find_kind(part.source).schema
    return replace(part, format=lambda block: encode_payloads(kind, part.format(block)), wrap=format_encoded)


def _part_of(stream: RecordStream, bare: bool) -> ArchivePart:
    messages = stream.messages

    def format_block(block: slice) -> pa.StringArray:
        return stream.format_payloads(
            messages.row[block], messages.kind[block], messages.received[block], bare=bare
        )

    return ArchivePart(KINDS[stream.schema].stream, messages, format_block)


@dataclass(frozen=True)
class Merged:
    """The messages of several sources in order of arrival.

    `received` int64[m]: microseconds since 1970; `places`, of each part: where its messages are among all.
    """

    parts: list[ArchivePart]
    received: Integers
    places: list[Integers]

    @classmethod
    def of(cls, parts: list[ArchivePart]) -> "Merged":
        """Merge the parts; of equal times, the first part comes first."""
        received = np.concatenate([part.messages.received for part in parts])
        order = np.argsort(received, kind="stable")
        part_of = np.repeat(np.arange(len(parts)), [len(part.messages.received) for part in parts])[order]
        return cls(parts, received[order], [np.flatnonzero(part_of == at) for at in range(len(parts))])

    def format_lines(self, block: slice) -> memoryview:
        """The lines of consecutive messages."""
        lines, at = [], []
        for part, places in zip(self.parts, self.places):
            first, last = np.searchsorted(places, [block.start, block.stop]).tolist()
            if first < last:
                span = slice(first, last)
                lines.append(part.wrap(part.messages, span, part.format(span), part.source))
                at.append(places[span])
        order = np.argsort(np.concatenate(at))
        return view_bytes(pa.concat_arrays(lines).take(pa.array(order)))
