"""A private victoria-metrics server, and what it shows."""

import json
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.patience import PATIENCE
from tests.servers import Server

_CLIENT = httpx.Client(verify=False, trust_env=False, timeout=PATIENCE)


class VictoriaMetricsServer(Server):
    """A victoria-metrics with its data in `folder`. `flags` are added to its command line."""

    def __init__(self, folder: Path, *flags: str, dedup: str = "5s", retention: str = "100y") -> None:
        super().__init__()
        self.folder = folder
        self.flags = [*flags, f"-dedup.minScrapeInterval={dedup}", f"-retentionPeriod={retention}"]
        self.started = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        """Its command line."""
        return [
            "victoria-metrics",
            f"-httpListenAddr=127.0.0.1:{self.port}",
            f"-storageDataPath={self.folder}",
            "-loggerLevel=ERROR",
            "-memory.allowedBytes=128MB",
            *self.flags,
        ]

    def answers(self) -> bool:
        """Whether it is ready."""
        try:
            return _CLIENT.get(self.url + "/health", timeout=1.0).is_success
        except httpx.HTTPError:
            return False

    def start(self) -> None:
        """Start it unless it runs, and wait until it answers."""
        super().start()
        self.started = int(time.time())

    def restart(self) -> None:
        """Crash and start, on the same port, with the same data, in a later second, which shows the
        restart."""
        self.kill()
        while int(time.time()) <= self.started:
            time.sleep(0.01)
        self.start()

    def get(self, path: str, **params: Any) -> httpx.Response:
        """The answer to a request, which must be a good one."""
        response = _CLIENT.get(self.url + path, params=params)
        assert response.is_success, response.text
        return response

    def _show(self, path: str, **params: Any) -> httpx.Response:
        """The answer to a search, after all that was written. The server keeps for 10 s which series matched,
        so each search has a matcher of its own, for a label that no series has."""
        self.get("/internal/force_flush")
        return self.get(path, **params, **{"extra_filters[]": f'{{request!="{uuid.uuid4()}"}}'})

    def samples(self, match: str = '{__name__!=""}') -> dict[tuple[tuple[str, str], ...], dict[int, float]]:
        """{labels, sorted: {time in ms: value}} of every sample that is stored and shown."""
        found: dict[tuple[tuple[str, str], ...], dict[int, float]] = defaultdict(dict)
        for line in self._show("/api/v1/export", **{"match[]": match, "start": 0, "end": 1 << 32}).text.split(
            "\n"
        )[:-1]:
            series = json.loads(line)
            found[tuple(sorted(series["metric"].items()))].update(zip(series["timestamps"], series["values"]))
        return dict(found)

    def query(self, text: str, at: float) -> dict[tuple[tuple[str, str], ...], float]:
        """{labels, sorted: value} of an instant query at a time in seconds since 1970."""
        results = self._show("/api/v1/query", query=text, time=at, nocache=1).json()["data"]["result"]
        return {tuple(sorted(one["metric"].items())): float(one["value"][1]) for one in results}

    def query_range(
        self, text: str, start: float, end: float, step: int
    ) -> dict[tuple[tuple[str, str], ...], dict[int, float]]:
        """{labels, sorted: {time in seconds: value}} of a query over a time."""
        results = self._show(
            "/api/v1/query_range", query=text, start=start, end=end, step=step, nocache=1
        ).json()["data"]["result"]
        return {
            tuple(sorted(one["metric"].items())): {int(at): float(value) for at, value in one["values"]}
            for one in results
        }
