"""Measure what a scrape of a job's metrics costs, and which files it reads.

Prints lines of Markdown: the first scrape, the median and the slowest but one of a hundred, and the CPU time
of one in this process, all in ms; then how many files and folders one scrape opens. OUT is
the output of a stream, which may run. With --url the same is asked of the job that serves them.

    python -m tests.benchmarks.scrape OUT --url http://127.0.0.1:9464/metrics
"""

import argparse
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.metrics.exposition import make_page
from pipelines.metrics.numbers import SourceWatch
from transforms.sources.source import SourceState, StreamState

SCRAPES = 100


class Quiet:
    """A source that answers at once: a scrape never waits for the source."""

    def read_state(self) -> SourceState:
        return SourceState({"layer4_kpi_reports": StreamState(0, 0.0)})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--url", help="also ask the job that serves its metrics here")
    arguments = parser.parse_args()
    watch = SourceWatch(Quiet())  # type: ignore[arg-type]
    watch.ask()
    measure("in a process of its own", lambda: make_page(arguments.output, watch))
    opened = list_opened(lambda: make_page(arguments.output, watch))
    tables = [path for path in opened if path.endswith(".parquet")]
    print(f"one scrape opens {len(opened)} files and folders, {len(tables)} of them files of tables")
    if arguments.url:
        measure("from the job", lambda: urllib.request.urlopen(arguments.url, timeout=10).read())


def measure(name: str, scrape: Callable[[], Any]) -> None:
    """Print the first, the median and the 99th of SCRAPES scrapes, and the CPU time of one."""
    seconds, used = [], time.process_time()
    for _ in range(SCRAPES):
        began = time.perf_counter()
        scrape()
        seconds.append(time.perf_counter() - began)
    first, ordered, used = seconds[0], sorted(seconds), (time.process_time() - used) / SCRAPES
    shown = (1000 * each for each in (first, ordered[SCRAPES // 2], ordered[SCRAPES - 2], used))
    print("| {} | {:.1f} | {:.1f} | {:.1f} | {:.1f} |".format(name, *shown))


def list_opened(call: Callable[[], Any]) -> list[str]:
    """What the call opens and lists."""
    opened: list[str] = []
    is_noted = True

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if is_noted and event in ("open", "os.listdir", "os.scandir"):
            opened.append(str(arguments[0]))

    sys.addaudithook(note)
    call()
    is_noted = False
    return opened


if __name__ == "__main__":
    main()
