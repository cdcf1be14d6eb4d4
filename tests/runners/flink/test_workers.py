"""The pool of Python workers."""

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import grpc
import pytest
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, endpoints_pb2

from runners.flink import workers
from runners.flink.processes import LOOPBACK, Child, Log, start
from runners.flink.workers import serve_pool


def test_a_pool_has_its_port_for_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "workers.log"
    with serve_pool(Log(log)) as (_, port), pytest.raises(SystemExit) as ended:
        workers.main(["--pool", str(port), "--log", str(log)])
    assert ended.value.code == 2
    assert f"cannot listen on 127.0.0.1:{port}; give a --pool" in capsys.readouterr().err


def test_a_pool_does_not_listen_beside_another_program(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        taken = stranger.getsockname()[1]
        with (
            pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{taken}"),
            serve_pool(Log(tmp_path / "workers.log"), port=taken),
        ):
            pass


def test_a_worker_that_cannot_connect_is_an_answer_and_not_a_wait_for_ever(tmp_path: Path) -> None:
    nowhere = endpoints_pb2.ApiServiceDescriptor(url="localhost:1")
    request = beam_fn_api_pb2.StartWorkerRequest(
        worker_id="1-1", control_endpoint=nowhere, provision_endpoint=nowhere
    )
    with (
        serve_pool(Log(tmp_path / "workers.log")) as (pool, port),
        grpc.insecure_channel(f"{LOOPBACK}:{port}") as channel,
    ):
        stub = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel)
        reply = stub.StartWorker(request)
        assert "ended before it was connected" in reply.error
        stub.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id="1-1"))
        assert "Python worker 1-1 ended with exit code 1" in (pool.find_death() or "")
        assert pool.list_pids() == []


def test_stopping_a_worker_ends_no_worker_of_the_same_name_of_another_taskmanager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(tmp_path / "workers.log")
    started: list[Child] = []

    def start_sleeping(*_: Any, **__: Any) -> Child:
        started.append(start(["sleep", "60"], log))
        return started[-1]

    monkeypatch.setattr(workers, "start", start_sleeping)
    monkeypatch.setattr(workers, "_wait_until_ready", lambda worker: "")
    pool = workers.WorkerPool(log)
    stop = beam_fn_api_pb2.StopWorkerRequest(worker_id="1-1")
    for _ in range(2):
        pool.StartWorker(beam_fn_api_pb2.StartWorkerRequest(worker_id="1-1"), MagicMock())
    pool.StopWorker(stop, MagicMock())
    assert pool.list_pids() == [child.pid for child in started]
    os.kill(started[1].pid, signal.SIGTERM)
    while started[1].exit_code is None:
        time.sleep(0.01)
    pool.StopWorker(stop, MagicMock())
    assert pool.list_pids() == [started[0].pid]
    pool.StopWorker(stop, MagicMock())
    assert (pool.list_pids(), started[0].exit_code) == ([], -signal.SIGTERM)
