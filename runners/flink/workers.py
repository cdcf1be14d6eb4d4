"""A pool of Python workers, the processes in which Beam's Python steps run. Flink asks the pool for them.

Beam's own pool either shares one process among all workers, or leaves them running when it dies. Here each
worker is a process that dies with the pool. As a program this module is a pool (`python -m
runners.flink.workers --pool PORT`) or one worker.
"""

import argparse
import base64
import logging
import os
import pickle
import re
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import grpc
from apache_beam.portability.api import (
    beam_fn_api_pb2,
    beam_fn_api_pb2_grpc,
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
    endpoints_pb2,
)
from google.protobuf import json_format, text_format

from runners.flink.processes import LOOPBACK, Child, Log, start

_THREADS = 16
_READY = "worker is connected"
_READY_LINE = re.compile(f"^(?P<ready>{_READY})$".encode())
_START_SECONDS = 120.0
_TICK = 0.02
_ALONE = [("grpc.so_reuseport", 0)]
"""By default the kernel may divide the connections to a port between two servers."""
_WITHIN = "KPIFLOW_WORKER_WITHIN"
"""The environment variable with the pickled `within` of a worker."""

Within = Callable[[], AbstractContextManager[object]]


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Starts and stops workers as Flink asks for them. Its methods are called on threads of the server.

    `within` makes a context in which each worker works; it is pickled.
    """

    def __init__(self, log: Log, keep_open: Sequence[int] = (), within: Within | None = None) -> None:
        self._log, self._keep_open = log, tuple(keep_open)
        self._within = {} if within is None else {_WITHIN: base64.b64encode(pickle.dumps(within)).decode()}
        self._lock = threading.Lock()
        self._workers: dict[str, list[Child]] = defaultdict(list)
        self._death: str | None = None

    def StartWorker(  # noqa: N802 (the protocol's name)
        self, request: beam_fn_api_pb2.StartWorkerRequest, context: grpc.ServicerContext
    ) -> beam_fn_api_pb2.StartWorkerResponse:
        """Start a process and wait until it is connected: the caller has no time limit of its own."""
        asked = (request.worker_id, request.control_endpoint.url, request.provision_endpoint.url)
        command = [sys.executable, "-m", "runners.flink.workers", "--worker", *asked]
        environment = {
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "MALLOC_ARENA_MAX": "2",  # with an arena per thread, freed memory would stay with the process
            **self._within,
        }
        try:
            worker = start(
                command,
                self._log,
                label=request.worker_id,
                pattern=_READY_LINE,
                keep_open=self._keep_open,
                environment=environment,
            )
        except OSError as error:
            return beam_fn_api_pb2.StartWorkerResponse(error=f"a Python worker cannot be started: {error}")
        with self._lock:
            self._workers[request.worker_id].append(worker)
        return beam_fn_api_pb2.StartWorkerResponse(error=_wait_until_ready(worker))

    def StopWorker(  # noqa: N802 (the protocol's name)
        self, request: beam_fn_api_pb2.StopWorkerRequest, context: grpc.ServicerContext
    ) -> beam_fn_api_pb2.StopWorkerResponse:
        """End the process; it is no error if it has ended.

        Each TaskManager numbers its workers by itself, so several can have one name, and the request does not
        say which of them is meant. So of several none is stopped: each ends when its TaskManager hangs up.
        """
        with self._lock:
            named = self._workers[request.worker_id]
            meant = next((worker for worker in named if worker.exit_code is not None), None)
            if meant is None and len(named) == 1:
                meant = named[0]
            if meant is not None:
                named.remove(meant)
        if meant is not None:
            self._note_death(request.worker_id, meant)
            meant.stop()
        return beam_fn_api_pb2.StopWorkerResponse()

    def find_death(self) -> str | None:
        """How the newest worker died that was not stopped, with its last line if it exited, or None."""
        with self._lock:
            workers = [(name, worker) for name, named in self._workers.items() for worker in named]
        for worker_id, worker in workers:
            self._note_death(worker_id, worker)
        return self._death

    def _note_death(self, worker_id: str, worker: Child) -> None:
        if code := worker.exit_code:
            how = (
                f"was killed by signal {-code}"
                if code < 0
                else f"ended with exit code {code}: {worker.last_line}"
            )
            self._death = f"Python worker {worker_id} {how}"

    def list_pids(self) -> list[int]:
        """The ids of the processes that run."""
        with self._lock:
            workers = [worker for named in self._workers.values() for worker in named]
        return [worker.pid for worker in workers if worker.exit_code is None]

    def close(self) -> None:
        """End all workers."""
        with self._lock:
            workers = [worker for named in self._workers.values() for worker in named]
            self._workers.clear()
        for worker in workers:
            worker.stop(patience=1.0)


def _wait_until_ready(worker: Child) -> str:
    """Wait until a worker is connected; the error text if it does not get there, else an empty one."""
    end = time.monotonic() + _START_SECONDS
    while "ready" not in worker.matches:
        if worker.exit_code is not None:
            return f"a Python worker ended before it was connected: {worker.last_line}"
        if time.monotonic() > end:
            worker.stop()
            return f"a Python worker did not connect within {_START_SECONDS:.0f} s: {worker.last_line}"
        time.sleep(_TICK)
    return ""


@contextmanager
def serve_pool(
    log: Log,
    keep_open: Sequence[int] = (),
    within: Within | None = None,
    port: int = 0,
    host: str = LOOPBACK,
) -> Iterator[tuple[WorkerPool, int]]:
    """Serve a pool; yield it with the port it listens on (a free one by default). Its workers end with it.

    Raises:
        OSError: it cannot listen there.
    """
    pool = WorkerPool(log, keep_open, within)
    server = grpc.server(ThreadPoolExecutor(_THREADS, "worker-pool"), options=_ALONE)
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise OSError(f"a pool of workers cannot listen on {host}:{port}") from error
    server.start()
    try:
        yield pool, bound
    finally:
        server.stop(None)
        pool.close()


def work(worker_id: str, control: str, provision: str) -> None:
    """Work until the runner closes the connection."""
    from apache_beam.runners.worker.sdk_worker_main import create_harness

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    environment = {
        "WORKER_ID": worker_id,
        "PIPELINE_OPTIONS": _ask_options(worker_id, provision),
        "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(
            endpoints_pb2.ApiServiceDescriptor(url=control)
        ),
    }
    _, harness, _ = create_harness(environment)
    print(_READY, flush=True)
    with _make_within():
        harness.run()


def _make_within() -> AbstractContextManager[object]:
    """The context that the pool wants this worker to work in."""
    pickled = os.environ.get(_WITHIN)
    within: Within = pickle.loads(base64.b64decode(pickled)) if pickled else nullcontext
    return within()


def _ask_options(worker_id: str, provision: str) -> str:
    """The pipeline's options as JSON, from the runner's provision endpoint."""
    with grpc.insecure_channel(provision) as channel:
        stub = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        reply = stub.GetProvisionInfo(request, metadata=[("worker_id", worker_id)], timeout=_START_SECONDS)
    return json_format.MessageToJson(reply.info.pipeline_options)


def main(argv: Sequence[str] | None = None) -> None:
    """The program: a pool, or a worker of one."""
    parser = argparse.ArgumentParser(description="Python workers for a Flink cluster")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--pool", type=int, metavar="PORT", help="listen here and start a worker whenever Flink asks for one"
    )
    what.add_argument(
        "--worker",
        nargs=3,
        metavar=("ID", "CONTROL", "PROVISION"),
        help="run one worker (the pool starts these)",
    )
    parser.add_argument("--host", default=LOOPBACK, help="the address a pool listens on")
    parser.add_argument("--log", type=Path, default=Path("workers.log"), help="log file of the workers")
    arguments = parser.parse_args(argv)
    if arguments.worker:
        work(*arguments.worker)
        return
    log = Log(arguments.log)
    try:
        with serve_pool(log, port=arguments.pool, host=arguments.host) as (_, port):
            print(f"worker pool listens on {arguments.host}:{port}", flush=True)
            threading.Event().wait()
    except OSError as error:
        parser.error(f"{error}; give a --pool and a --host that no other program listens on")


if __name__ == "__main__":
    main()
