"""How long a report of the socket takes until it is in the Redis stream.

    python -m tests.benchmarks.relay [--rate 10000] [--seconds 60]

Starts a Redis, `kpiflow simulate` and `kpiflow relay`, and reads the histogram of the relay: from the
moment at which it has a message of the socket until Redis has confirmed it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.servers import RedisServer, free_port


def main() -> None:
    """Measure, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=10_000, help="reports a minute")
    parser.add_argument("--seconds", type=float, default=60)
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(RedisServer(folder))
        port = free_port()
        simulate = ["simulate", "--listen", f"127.0.0.1:{port}", "--rate", str(asked.rate)]
        relay = ["relay", "--export", f"http://127.0.0.1:{port}/kpi/export", "--redis", server.url]
        relay += ["--stream", "kpi", "--live", f"ws://127.0.0.1:{port}/kpi/stream"]
        for words in (simulate, [*relay, "--archive", str(folder / "relay")]):
            process = subprocess.Popen(
                [sys.executable, "-m", "pipelines.cli", *words],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
        time.sleep(asked.seconds)
        page = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", "metrics", str(folder / "relay")],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        samples = [each for family in text_string_to_metric_families(page) for each in family.samples]
        buckets = [
            (float(each.labels["le"]), each.value)
            for each in samples
            if each.name == "kpiflow_stage_latency_seconds_bucket"
        ]
        values = {each.name: each.value for each in samples}
        reports = buckets[-1][1]
        shown = {
            "reports": int(reports),
            "p50 below (s)": next(bound for bound, count in buckets if count >= 0.5 * reports),
            "p99 below (s)": next(bound for bound, count in buckets if count >= 0.99 * reports),
            "mean (s)": round(values["kpiflow_stage_latency_seconds_sum"] / reports, 5),
            "CPU (s)": values["kpiflow_cpu_seconds_total"],
            "memory (MB)": round(values["kpiflow_memory_bytes"] / 1e6),
            "load": os.getloadavg()[0],
            "cores": os.cpu_count(),
        }
        print(json.dumps(shown))


if __name__ == "__main__":
    main()
