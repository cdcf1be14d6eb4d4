"""A real victoria-metrics of one's own, on a free port of this machine, and what it shows."""

import json
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx

from tests.servers import free_port

_PATIENCE = 20.0
_CLIENT = httpx.Client(verify=False, trust_env=False, timeout=_PATIENCE)


class VictoriaMetricsServer:
    """A victoria-metrics with its data in `folder`; it ends with the `with` block. `flags` are further
    words."""

    def __init__(self, folder: Path, *flags: str, dedup: str = "5s", retention: str = "100y") -> None:
        self.folder = folder
        self.flags = [*flags, f"-dedup.minScrapeInterval={dedup}", f"-retentionPeriod={retention}"]
        self.port = free_port()
        self.started = 0
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "VictoriaMetricsServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it where it does not run, and wait until it answers."""
        if self.process is None:
            words = [
                "victoria-metrics",
                f"-httpListenAddr=127.0.0.1:{self.port}",
                f"-storageDataPath={self.folder}",
            ]
            words += ["-loggerLevel=ERROR", "-memory.allowedBytes=128MB", *self.flags]
            self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + _PATIENCE
        while not self._answers():
            assert self.process.poll() is None, "victoria-metrics ended at once"
            assert time.monotonic() < end, "victoria-metrics does not answer"
            time.sleep(0.01)
        self.started = int(time.time())

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(_PATIENCE)
            self.process = None

    def restart(self) -> None:
        """Crash and start, on the same port, with the same data, in a later second: starts are told apart by
        it."""
        self.kill()
        while int(time.time()) <= self.started:
            time.sleep(0.01)
        self.start()

    def get(self, path: str, **params: Any) -> httpx.Response:
        """The answer to a request, which must be a good one."""
        response = _CLIENT.get(self.url + path, params=params)
        assert response.is_success, response.text
        return response

    def samples(self, match: str = '{__name__!=""}') -> dict[tuple[tuple[str, str], ...], dict[int, float]]:
        """{labels, sorted: {time in ms: value}} of every sample that is stored and shown."""
        self.get("/internal/force_flush")
        found: dict[tuple[tuple[str, str], ...], dict[int, float]] = defaultdict(dict)
        for line in self.get("/api/v1/export", **{"match[]": match, "start": 0, "end": 1 << 32}).text.split(
            "\n"
        )[:-1]:
            series = json.loads(line)
            found[tuple(sorted(series["metric"].items()))].update(zip(series["timestamps"], series["values"]))
        return dict(found)

    def query(self, text: str, at: float) -> dict[tuple[tuple[str, str], ...], float]:
        """{labels, sorted: value} of an instant query at a time in seconds since 1970."""
        self.get("/internal/force_flush")
        results = self.get("/api/v1/query", query=text, time=at, nocache=1).json()["data"]["result"]
        return {tuple(sorted(one["metric"].items())): float(one["value"][1]) for one in results}

    def query_range(
        self, text: str, start: float, end: float, step: int
    ) -> dict[tuple[tuple[str, str], ...], dict[int, float]]:
        """{labels, sorted: {time in seconds: value}} of a query over a time."""
        self.get("/internal/force_flush")
        results = self.get(
            "/api/v1/query_range", query=text, start=start, end=end, step=step, nocache=1
        ).json()["data"]["result"]
        return {
            tuple(sorted(one["metric"].items())): {int(at): float(value) for at, value in one["values"]}
            for one in results
        }

    def _answers(self) -> bool:
        try:
            return _CLIENT.get(self.url + "/health", timeout=1.0).is_success
        except httpx.HTTPError:
            return False
