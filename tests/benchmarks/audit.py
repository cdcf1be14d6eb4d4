"""How long a request waits for its line in the audit, by requests a second.

    python -m tests.benchmarks.audit FOLDER

Requests come at fixed times, whether those before have been answered or not. FOLDER decides which disk is
measured; what is written there is removed.
"""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from pipelines.service.access.subject import Subject
from pipelines.service.audit.log import AuditLog
from pipelines.service.audit.verify import verify_audit

RATES = (50, 500, 2000)
SECONDS = 5
WHO = Subject("dashboard", "kpi-consumer", certificate="0" * 64)


async def ask(log: AuditLog, rate: int) -> list[float]:
    """Seconds that each request waited, from its time until its line was on disk."""
    start = time.perf_counter() + 0.1

    async def wait(number: int) -> float:
        at = start + number / rate
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        entry = await log.begin(WHO, "query", f"/query/agent-summary?limit={number}")
        waited = time.perf_counter() - at
        entry.end(100, "200")
        return waited

    return sorted(await asyncio.gather(*(wait(number) for number in range(rate * SECONDS))))


def measure(folder: Path, rate: int) -> str:
    """A row of the table."""
    log, cpu = AuditLog(folder, "one"), time.process_time()
    log.open()
    waits = asyncio.run(ask(log, rate))
    log.close()
    cpu = (time.process_time() - cpu) / len(waits) * 1e6
    (report,) = verify_audit(folder)
    assert not report.problems
    size = sum(path.stat().st_size for path in folder.glob("one/*.jsonl")) / len(waits)
    median, late = waits[len(waits) // 2] * 1e3, waits[len(waits) * 95 // 100] * 1e3
    return f"| {rate} | {median:.1f} | {late:.1f} | {waits[-1] * 1e3:.0f} | {cpu:.0f} | {size:.0f} |"


def main() -> None:
    """The program."""
    print("| requests a second | wait p50 ms | p95 ms | max ms | CPU us a request | bytes a request |")
    print("|---|---|---|---|---|---|")
    for rate in RATES:
        with tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder:
            print(measure(Path(folder), rate))
    print(f"load {os.getloadavg()[0]:.0f}")


if __name__ == "__main__":
    main()
