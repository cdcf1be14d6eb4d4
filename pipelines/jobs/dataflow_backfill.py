"""The batch job on Dataflow (`pipelines.jobs.dataflow`)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from pipelines.inputs import find_archives, verify_urls
from pipelines.jobs.backfill import open_fitting_outputs, wire_batch
from pipelines.jobs.engines import Wire
from pipelines.outputs import parse_outputs
from pipelines.settings import Settings
from runners.dataflow import BATCH, Mode, read_option
from transforms.core.time_range import Span
from transforms.sources.archives.archive_files import ArchiveFiles, FileRange

_SOME_ARCHIVE = ArchiveFiles((FileRange("gs://BUCKET/ARCHIVE.ndjson"),))


@dataclass(frozen=True)
class CloudBackfill:
    """A job from archives, which ends with them. `inputs` are patterns of objects in buckets."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: tuple[str, ...]
    span: Span = field(default_factory=Span)
    mode: ClassVar[Mode] = BATCH

    def list_places(self) -> list[str]:
        return [*self.inputs, *self.outputs]

    def plan(self, settings: Settings, flags: Sequence[str]) -> Wire:
        """The graph over one archive that stands for all, for an output that may have reports already.

        What the patterns match is only known with a connection.
        """
        verify_urls(self.inputs)
        outputs = parse_outputs(self.outputs, settings)
        return wire_batch(_SOME_ARCHIVE, outputs, settings, self.span, recall=True)

    def open(self, settings: Settings, flags: Sequence[str]) -> Wire:
        """The graph over the files that are there now; a look into them decides the size of blocks."""
        files = find_archives(list(self.inputs))
        # Dataflow scales by itself, so there must be enough blocks for as many workers as it may start.
        settings = settings.model_copy(update={"workers": read_option(flags, "max_num_workers")})
        outputs, settings = open_fitting_outputs(files, self.outputs, settings)
        recall, expiry = outputs.main.has_reports(), outputs.read_expiry()
        return wire_batch(files, outputs, settings, self.span, recall, expiry)
