"""Beam's FnApiRunner over worker processes: the stages of a batch graph, each in many bundles at a time.

FnApiRunner fuses the graph into stages, groups by key and merges metrics, all in this process. This module
only has bundles run elsewhere: the input of a stage is cut into parts, and each worker takes the next part,
the largest first, until none is left. What passes through this process should therefore be small: references
to batches, see `transforms.core.arrow_coder`.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from apache_beam.metrics import monitoring_infos
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.pipeline import Pipeline
from apache_beam.portability.api import beam_fn_api_pb2 as protos
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, worker_handlers
from apache_beam.runners.portability.fn_api_runner.fn_runner import BundleManager, RunnerResult
from apache_beam.runners.portability.fn_api_runner.worker_handlers import ControlFuture, WorkerHandler
from apache_beam.runners.worker import data_plane, sdk_worker
from apache_beam.transforms.environments import Environment, python_sdk_capabilities

from runners.memory import prepare_memory
from runners.worker_processes import State, WorkerProcess

_URN = "kpiflow:env:forked:v1"
_REPORT_SECONDS = 0.5
_PARTS = 64
"""Parts of a stage's input, at most: several for each worker, so that all are busy to the end."""


def _report_nothing(*_: Any) -> None:
    pass


@dataclass(frozen=True)
class InWorker:
    """What happens in a worker beside its bundles. `within` and `report` are pickled.

    Attributes:
        within: makes a context that is entered before the first bundle.
        report: called now and then and after each bundle; its results go to `receive` in the launching
            process.
        receive: takes what `report` returned.
    """

    within: Callable[[], AbstractContextManager[None]] = nullcontext
    report: Callable[[], Any] = _report_nothing
    receive: Callable[[Any], object] = _report_nothing


class ForkedRunner(FnApiRunner):
    """Runs a batch graph on worker processes. The graph cannot have state or timers."""

    def __init__(self, workers: Sequence[WorkerProcess], job: InWorker) -> None:
        super().__init__(default_environment=_ForkedEnvironment(capabilities=python_sdk_capabilities()))
        self._workers, self._job = workers, job

    def run_pipeline(self, pipeline: Pipeline, options: PipelineOptions) -> RunnerResult:
        direct = options.view_as(DirectOptions)
        direct.direct_num_workers, direct.direct_running_mode = len(self._workers), "forked"
        free = iter(self._workers)
        WorkerHandler.register_environment(_URN, None)(
            lambda _, state, provision, server: _ForkedWorker(next(free), self._job, state, provision, server)
        )
        return super().run_pipeline(pipeline, options)

    def _deal_bundles(self, stage: Any) -> BundleManager:
        if stage.stage.is_stateful():
            raise NotImplementedError(f"{stage.stage.name} has state, which worker processes do not share")
        return _DealtBundles(stage)

    _get_bundle_manager: Any = _deal_bundles  # the name by which FnApiRunner calls it


class _ForkedEnvironment(Environment):
    def to_runner_api_parameter(self, context: Any) -> tuple[str, bytes]:
        return _URN, b""


class _ForkedWorker(WorkerHandler):
    """A worker process as FnApiRunner sees it: `push` runs a bundle whose input is in `data_conn`."""

    def __init__(self, worker: WorkerProcess, job: InWorker, state: Any, provision: Any, server: Any) -> None:
        channel: Any = data_plane.InMemoryDataChannel()
        super().__init__(self, channel, state, provision)
        self.control_conn: Any = self
        self.data_conn: Any = channel
        self._worker, self._job, self._server = worker, job, server
        self._known: set[str] = set()

    def start_worker(self) -> None:
        self._worker.call(_begin_run, self._job.within, self._job.report)

    def stop_worker(self) -> None:
        if self._worker.is_idle:
            self._worker.call(_end_run)
        else:
            self._worker.kill()  # the run failed or was interrupted: nobody waits for its bundles

    def data_api_service_descriptor(self) -> None:
        return None

    state_api_service_descriptor = logging_api_service_descriptor = data_api_service_descriptor

    def push(self, request: protos.InstructionRequest) -> ControlFuture:
        name = request.process_bundle.process_bundle_descriptor_id
        descriptor = b"" if name in self._known else self._find_descriptor(name)
        sent = _take(self.data_conn.inverse(), request.instruction_id)
        arguments = descriptor, request.SerializeToString(), sent
        response, given = self._worker.call(_run_bundle, *arguments, on_news=self._job.receive)
        self._known.add(name)
        _put(self.data_conn.inverse(), given)
        return ControlFuture(request.instruction_id, protos.InstructionResponse.FromString(response))

    def _find_descriptor(self, name: str) -> bytes:
        request = protos.GetProcessBundleDescriptorRequest(process_bundle_descriptor_id=name)
        found: bytes = self._server.control_handler.GetProcessBundleDescriptor(request).SerializeToString()
        return found


class _DealtBundles(BundleManager):
    """Runs the parts of a stage's input on all workers, each of which takes the next part when it is done."""

    def process_bundle(
        self,
        inputs: Mapping[str, Any],
        expected_outputs: Any,
        fired_timers: Any,
        expected_output_timers: Any,
        dry_run: bool = False,
    ) -> tuple[protos.InstructionResponse, list[Any]]:
        left = iter(_cut(inputs))  # an iterator of a list gives each part to one thread only

        def work(worker: WorkerHandler) -> list[protos.InstructionResponse]:
            stage: Any = _StageOnWorker(self.bundle_context_manager, worker)
            run = BundleManager(stage).process_bundle
            try:
                return [run(part, expected_outputs, {}, expected_output_timers)[0] for part in left]
            except BaseException:
                deque(left, maxlen=0)  # nobody takes another part
                raise

        workers = self.bundle_context_manager.worker_handlers
        executor = ThreadPoolExecutor(len(workers))
        try:
            running = [executor.submit(work, worker) for worker in workers]
            results = [result for each in running for result in each.result()]
        finally:
            executor.shutdown(wait=False, cancel_futures=True)  # an interrupt does not wait for the bundles
        return _merge(results), []


class _StageOnWorker:
    """A stage of FnApiRunner that has one of the workers only."""

    def __init__(self, stage: Any, worker: WorkerHandler) -> None:
        self._stage, self.worker_handlers = stage, [worker]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)


def _cut(inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Parts of the input of a stage, the largest first; at least one, so that every stage runs."""
    cut = {name: buffer.partition(_PARTS) for name, buffer in inputs.items()}
    parts = [{name: of_input[place] for name, of_input in cut.items()} for place in range(_PARTS)]
    sizes = [sum(len(data) for each in part.values() for data in each) for part in parts]
    order = sorted(range(_PARTS), key=lambda place: -sizes[place])
    return [parts[place] for place in order if sizes[place]] or parts[:1]


def _merge(results: Sequence[protos.InstructionResponse]) -> protos.InstructionResponse:
    infos = [info for result in results for info in result.process_bundle.monitoring_infos]
    merged = protos.ProcessBundleResponse(monitoring_infos=monitoring_infos.consolidate(infos))
    return protos.InstructionResponse(process_bundle=merged)


def _put(channel: data_plane.InMemoryDataChannel, elements: Sequence[bytes]) -> None:
    """Put elements, in bytes, into the channel for its other side."""
    for data in elements:
        element = protos.Elements.Data.FromString(data)
        stream = channel.output_stream(element.instruction_id, element.transform_id)
        stream.write(element.data)
        stream.close()


def _take(channel: data_plane.InMemoryDataChannel, instruction: str) -> list[bytes]:
    """The elements of an instruction, in bytes, that the other side of the channel has put."""
    return [element.SerializeToString() for element in channel.input_elements(instruction, None)]


def _begin_run(state: State, within: Callable[[], Any], report: Callable[[], Any]) -> None:
    """Get ready for the bundles of a run, in the worker."""
    prepare_memory()
    report()  # what was counted before the fork is none of this worker's
    state["within"] = within()
    state["within"].__enter__()
    channel = data_plane.InMemoryDataChannel()
    cache = sdk_worker.BundleProcessorCache(
        worker_handlers.FNAPI_RUNNER_CAPABILITIES,
        worker_handlers.SingletonStateHandlerFactory(
            sdk_worker.GlobalCachingStateHandler(
                sdk_worker.StateCache(0),
                worker_handlers.StateServicer(),  # no stage has state
            )
        ),
        data_plane.InMemoryDataChannelFactory(channel.inverse()),
        {},
    )
    state.update(report=report, channel=channel, cache=cache, worker=sdk_worker.SdkWorker(cache))


def _run_bundle(
    state: State, descriptor: bytes, request: bytes, elements: Sequence[bytes]
) -> tuple[bytes, list[bytes]]:
    """The response to the request, and the elements of output.

    Messages are in bytes: Beam's classes of messages cannot be pickled. `descriptor` is empty if it was sent
    before.
    """
    if descriptor:
        state["cache"].register(protos.ProcessBundleDescriptor.FromString(descriptor))
    asked = protos.InstructionRequest.FromString(request)
    _put(state["channel"], elements)
    with _report_often(state):
        response = state["worker"].do_instruction(asked)
    return response.SerializeToString(), _take(state["channel"], asked.instruction_id)


@contextmanager
def _report_often(state: State) -> Iterator[None]:
    """Send the worker's report as news while the block runs, and at its end."""
    done = threading.Event()

    def send_reports() -> None:
        while not done.wait(_REPORT_SECONDS):
            state["send_news"](state["report"]())

    thread = threading.Thread(target=send_reports, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        state["send_news"](state["report"]())


def _end_run(state: State) -> None:
    state["cache"].shutdown()
    state["within"].__exit__(None, None, None)
    for name in ("cache", "channel", "report", "within", "worker"):
        del state[name]
