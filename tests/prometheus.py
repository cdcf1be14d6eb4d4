"""A Prometheus of a test, on a free port."""

import json
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from tests.patience import PATIENCE
from tests.servers import Server


class PrometheusServer(Server):
    """A Prometheus with its configuration and data in `folder`, which must exist."""

    def __init__(self, folder: Path, configuration: Mapping[str, Any]) -> None:
        super().__init__()
        self.folder = folder
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(dict(configuration)))

    def command(self) -> Sequence[str]:
        return [
            "prometheus",
            f"--config.file={self.folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def answers(self) -> bool:
        try:
            self.ask("alerts")
        except OSError:
            return False
        return True

    def ask(self, path: str, **query: str) -> Any:
        """The data of an answer of its API."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urlencode(query)}"
        with urllib.request.urlopen(url, timeout=PATIENCE) as reply:
            return json.load(reply)["data"]

    def list_firing(self) -> set[str]:
        """The alerts that fire now."""
        alerts = self.ask("alerts")["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    def read_values(self, query: str) -> list[float]:
        """The newest value of each series of a query."""
        return [float(each["value"][1]) for each in self.ask("query", query=query)["result"]]
