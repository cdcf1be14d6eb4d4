"""Submit a graph to Beam's job server and collect what it reports about the job: its end, and its metrics."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.metrics.metric import MetricResults
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.portability.api import beam_job_api_pb2, beam_runner_api_pb2
from apache_beam.runners.portability.portable_runner import (
    TERMINAL_STATES,
    JobServiceHandle,
    PortableMetrics,
    PortableRunner,
)
from google.protobuf import struct_pb2

from runners.flink.rest import find_root_cause
from runners.pipeline import make_pipeline

_METRICS_SECONDS = 60.0


class Submission:
    """A submitted job. A thread of its own collects the job server's messages about it."""

    def __init__(self, handle: Any, job: str, messages: Any, states: Any) -> None:
        self._handle, self._job = handle, job
        self._texts: list[str] = []
        self._state = beam_job_api_pb2.JobState.UNSPECIFIED
        self._over = threading.Event()
        # Java reports to both streams in turn. If this one were closed, the other would miss the job's end.
        self._states = states
        threading.Thread(target=self._collect, args=(messages,), name="job messages", daemon=True).start()

    @property
    def is_over(self) -> bool:
        """Whether the job has ended, or its job server has."""
        return self._over.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait at most so long for its end; whether it is over."""
        return self._over.wait(seconds)

    @property
    def is_done(self) -> bool:
        """Whether the job has ended with success."""
        return self.is_over and self._state == beam_job_api_pb2.JobState.DONE

    @property
    def has_hung_up(self) -> bool:
        """Whether the job server has ended, and not the job."""
        return self.is_over and self._state == beam_job_api_pb2.JobState.UNSPECIFIED

    @property
    def text(self) -> str:
        """All messages about the job's end: Java's stack trace."""
        return "\n".join(self._texts)

    @property
    def cause(self) -> str:
        """Why it ended, in one line."""
        return find_root_cause(self.text)

    def ask_metrics(self) -> MetricResults:
        """The metrics of a job that is done; its job server must still run."""
        request = beam_job_api_pb2.GetJobMetricsRequest(job_id=self._job)
        return PortableMetrics(self._handle.job_service.GetJobMetrics(request, timeout=_METRICS_SECONDS))

    def _collect(self, messages: Any) -> None:
        try:
            for message in messages:
                if message.HasField("message_response"):
                    self._texts.append(message.message_response.message_text)
                elif message.state_response.state in TERMINAL_STATES:
                    self._state = message.state_response.state
                    break
        except Exception as error:  # the job server is gone, and its messages with it
            self._texts.append(f"the job server hung up: {type(error).__name__}")
        self._over.set()


class _Handle(JobServiceHandle):
    """Sends only options that are not the defaults: Flink stores options beside every piece of state."""

    @staticmethod
    def encode_pipeline_options(all_options: dict[str, Any]) -> struct_pb2.Struct:
        defaults = PipelineOptions([]).get_all_options()
        needed = {
            name: value
            for name, value in all_options.items()
            if name not in defaults or defaults[name] != value
        }
        return JobServiceHandle.encode_pipeline_options(needed)


class _Submitter(PortableRunner):
    """A PortableRunner that keeps the job server's messages instead of logging them at the end."""

    submission: Submission

    def create_job_service_handle(self, job_service: Any, options: PipelineOptions) -> JobServiceHandle:
        return _Handle(job_service, options)

    def run_portable_pipeline(self, pipeline: beam_runner_api_pb2.Pipeline, options: PipelineOptions) -> Any:
        # The job server would look for a Java class of the runner's name.
        options.view_as(StandardOptions).runner = None
        # Any: Beam's annotation has the two streams in the wrong order.
        handle: Any = self.create_job_service(options)
        if not options.view_as(StandardOptions).streaming:
            pipeline = self._optimize_pipeline(pipeline, options)
        self.submission = Submission(handle, *handle.submit(pipeline))
        return None


def submit(build: Callable[[beam.Pipeline], None], options: Sequence[str]) -> Submission:
    """Build a pipeline and submit it to the job server that the options name."""
    submitter = _Submitter()
    pipeline = make_pipeline(submitter, PipelineOptions(list(options)))
    build(pipeline)
    pipeline.run()
    return submitter.submission
