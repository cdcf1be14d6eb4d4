"""Measure the service: requests at a fixed rate, answered or not, while files are replaced.

Makes an output of --files files of 1,000 reports (or takes the one in FOLDER), starts `kpiflow serve` in its
own process, and asks for reports by task, then for the summary by agent of spans of days. A latency counts
from the time at which a request was due, so it includes the time in queues. CPU time is that of the
service. Then the questions by task are put to DuckDB itself, on the same files, one after the other.

    python -m tests.benchmarks.service FOLDER --files 1000
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from random import Random

import aiohttp
import duckdb
import numpy as np

from schemas.tables import REPORTS
from tests.benchmarks.service_output import ROWS, START, list_agents, make_output, name_task, write_minute
from tests.servers import free_port

RATE = 50


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--direct", type=int, default=3, help="questions to DuckDB itself")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        make_output(arguments.folder, arguments.files)
    port = free_port()
    command = [sys.executable, "-m", "pipelines.cli", "serve", str(arguments.folder), "--insecure-loopback"]
    with subprocess.Popen([*command, "--listen", f"127.0.0.1:{port}"], stderr=subprocess.DEVNULL) as server:
        try:
            asyncio.run(_measure(f"http://127.0.0.1:{port}", arguments, server.pid))
        finally:
            server.terminate()
    _ask_directly(arguments)
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"\n{os.cpu_count()} cores; load of the machine over 1, 5 and 15 minutes: {load}")


async def _measure(address: str, arguments: argparse.Namespace, service: int) -> None:
    chance = Random(1)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        first = await _wait_ready(session, address)
        print(f"ready, with the index of tasks, after {first:.1f} s", flush=True)
        writer = asyncio.create_task(_replace_files(arguments, chance))
        for name, draw in (("reports-by-task", _draw_task), ("agent-summary", _draw_span)):
            begun, used = time.perf_counter(), _read_cpu(service)
            asked = []
            for number in range(RATE * arguments.seconds):
                due = begun + number / RATE
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                given = draw(chance, arguments.files)
                asked.append(asyncio.create_task(_ask(session, f"{address}/query/{name}", given, due)))
            found = await asyncio.gather(*asked)
            _print(name, found, (_read_cpu(service) - used) / len(found))
        writer.cancel()


def _read_cpu(process: int) -> float:
    """The CPU time of a process so far, in ms."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def _draw_task(chance: Random, files: int) -> dict[str, str]:
    return {"task_id": name_task(chance.randrange(files), chance.randrange(ROWS))}


def _draw_span(chance: Random, files: int) -> dict[str, str]:
    """At least nine tenths of all reports, from any second on."""
    start = START + timedelta(seconds=chance.randrange(files * 3))
    end = START + timedelta(seconds=files * 60 - chance.randrange(files * 3))
    return {"from": start.isoformat(), "to": end.isoformat()}


def _print(name: str, found: list[tuple[float, str]], cpu: float) -> None:
    times = np.array([seconds * 1000 for seconds, problem in found if not problem])
    p50, p95, p99 = np.percentile(times, [50, 95, 99]) if len(times) else [np.nan] * 3
    failed = Counter(problem for _, problem in found if problem)
    named = "".join(f", {count} with {problem}" for problem, count in failed.most_common())
    print(
        f"{name}, {RATE} a second: p50 {p50:.0f}, p95 {p95:.0f}, p99 {p99:.0f} ms; {cpu:.1f} ms of CPU each; "
        f"{failed.total()} of {len(found)} failed{named}",
        flush=True,
    )


async def _wait_ready(session: aiohttp.ClientSession, address: str) -> float:
    begun = time.perf_counter()
    while True:
        try:
            async with session.get(f"{address}/readyz") as response:
                if response.status == HTTPStatus.OK:
                    return time.perf_counter() - begun
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.1)


async def _ask(
    session: aiohttp.ClientSession, url: str, given: dict[str, str], due: float
) -> tuple[float, str]:
    """The seconds until the answer, and what is wrong with it: its status, other rows, or no answer."""
    try:
        async with session.get(url, params=given) as response:
            body = await response.json()
    except aiohttp.ClientError as error:
        return time.perf_counter() - due, type(error).__name__
    problem = "" if response.status == HTTPStatus.OK else f"status {response.status}"
    task = given.get("task_id")
    if not problem and task and [row["task_id"] for row in body["rows"]] != [task]:
        problem = "wrong rows"
    return time.perf_counter() - due, problem


async def _replace_files(arguments: argparse.Namespace, chance: Random) -> None:
    """Replace a file twice a second, as a stream does."""
    agents = list(list_agents())
    while True:
        await asyncio.to_thread(write_minute, arguments.folder, chance.randrange(arguments.files), agents)
        await asyncio.sleep(0.5)


def _ask_directly(arguments: argparse.Namespace) -> None:
    chance, times = Random(2), []
    files = f"{arguments.folder}/{REPORTS.name}/*/*/*.parquet"
    with duckdb.connect() as connection:
        for _ in range(arguments.direct):
            task = name_task(chance.randrange(arguments.files), chance.randrange(ROWS))
            begun = time.perf_counter()
            connection.execute("SELECT * FROM read_parquet(?) WHERE task_id = ?", [files, task]).fetchall()
            times.append((time.perf_counter() - begun) * 1000)
    if times:
        print(f"DuckDB itself, one after the other: {np.median(times):,.0f} ms (median of {len(times)})")


if __name__ == "__main__":
    main()
