"""Two of kpiflow's transforms in a pipeline of your own: count rejected messages by reason."""

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from transforms.sources.archives.archive_files import find_files
from transforms.sources.archives.archive_reader import ReadArchives
from transforms.validation.validate import Validate

with beam.Pipeline(runner=FnApiRunner()) as pipeline:
    archives = pipeline | ReadArchives(find_files(["tour/archive"]))
    validated = archives.messages | Validate()
    reasons = validated.quarantine | beam.FlatMap(lambda rows: rows["reason"].to_pylist())
    _ = reasons | beam.combiners.Count.PerElement() | beam.Map(print)
