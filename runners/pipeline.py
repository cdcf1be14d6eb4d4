"""Beam pipelines that leave no files in the system's temporary folder."""

import shutil
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions


def make_pipeline(runner: Any, options: PipelineOptions) -> beam.Pipeline:
    """An empty pipeline.

    Beam makes a folder for each, for the files of transforms in other languages, and removes it only at the
    end of a run. A graph that cannot be wired or a killed process would leave it. No graph here has such
    transforms.
    """
    pipeline = beam.Pipeline(runner=runner, options=options)
    shutil.rmtree(pipeline.local_tempdir, ignore_errors=True)
    return pipeline
