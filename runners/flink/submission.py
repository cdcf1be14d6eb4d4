"""Hand a graph to Beam's job server, and hear from it what became of the job."""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.portability.api import beam_job_api_pb2, beam_runner_api_pb2
from apache_beam.runners.portability.portable_runner import TERMINAL_STATES, JobServiceHandle, PortableRunner
from google.protobuf import struct_pb2

from runners.flink.rest import find_root_cause
from runners.pipeline import make_pipeline


class Submission:
    """A job that was handed over. What the job server says of it is heard on a thread of its own."""

    def __init__(self, messages: Iterable[beam_job_api_pb2.JobMessagesResponse]) -> None:
        self._texts: list[str] = []
        self._over = threading.Event()
        threading.Thread(target=self._hear, args=(messages,), name="job messages", daemon=True).start()

    @property
    def over(self) -> bool:
        """Whether the job has ended, or its job server has."""
        return self._over.is_set()

    @property
    def said(self) -> str:
        """All that was said of the job's end: Java's stack trace."""
        return "\n".join(self._texts)

    @property
    def cause(self) -> str:
        """Why it ended, in a line."""
        return find_root_cause(self.said)

    def _hear(self, messages: Iterable[beam_job_api_pb2.JobMessagesResponse]) -> None:
        try:
            for message in messages:
                if message.HasField("message_response"):
                    self._texts.append(message.message_response.message_text)
                elif message.state_response.state in TERMINAL_STATES:
                    break
        except Exception as error:  # the job server is gone, and with it whatever it could have said
            self._texts.append(f"the job server hung up: {type(error).__name__}")
        self._over.set()


class _Handle(JobServiceHandle):
    """Sends the options that differ from their defaults: Flink writes all that it gets beside every piece of state."""

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
    """A PortableRunner that keeps what the job server says, instead of logging it at the end."""

    submission: Submission

    def create_job_service_handle(self, job_service: Any, options: PipelineOptions) -> JobServiceHandle:
        return _Handle(job_service, options)

    def run_portable_pipeline(self, pipeline: beam_runner_api_pb2.Pipeline, options: PipelineOptions) -> Any:
        options.view_as(
            StandardOptions
        ).runner = None  # the job server would look for a Java class of that name
        handle: Any = self.create_job_service(
            options
        )  # Beam's annotation names the two streams the wrong way round
        _, messages, _ = handle.submit(pipeline)
        self.submission = Submission(messages)
        return None


def submit(build: Callable[[beam.Pipeline], None], options: Sequence[str]) -> Submission:
    """Build a pipeline and hand it to the job server that the options name."""
    submitter = _Submitter()
    pipeline = make_pipeline(submitter, PipelineOptions(list(options)))
    build(pipeline)
    pipeline.run()
    return submitter.submission
