"""A bounded graph, as a program of its own that tests can interrupt and kill: what Flink runs while it is
tested.

`python -m tests.integration.summing FOLDER` writes the sum of the numbers below NUMBERS that end in the digit
d to FOLDER/sums/d. Every worker notes its process in FOLDER/workers/<pid>. While there is a file FOLDER/hold,
the steps before the sums wait; while there is FOLDER/poison, they raise. On stdout the program tells its
progress as JSON, and how it ended.
"""

import argparse
import json
import os
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import apache_beam as beam
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.runners.runner import PipelineResult

from runners.flink.batch import run
from runners.flink.engine import BatchEngine
from runners.progress import BatchProgress
from transforms.core.errors import Refused, find_error

NUMBERS = 1000
_PASSED = Metrics.counter("summing", "passed")
_PAUSE_SECONDS = 0.02


def read_sums(folder: Path) -> dict[int, int]:
    """The sums that were written, by digit."""
    return {int(path.name): int(path.read_text()) for path in (folder / "sums").iterdir()}


def list_workers(folder: Path) -> list[int]:
    """The processes that have worked on the numbers."""
    return [int(path.name) for path in (folder / "workers").glob("*")]


class Pass(beam.DoFn):
    """number -> (its last digit, the number)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(self, number: int) -> Iterator[tuple[int, int]]:
        (self.folder / "workers" / str(os.getpid())).touch()
        while (self.folder / "hold").exists():
            time.sleep(_PAUSE_SECONDS)
        if (self.folder / "poison").exists():
            raise Refused("this is poison; take it away")
        _PASSED.inc()
        yield number % 10, number


def write_sum(digit: int, numbers: Iterable[int], folder: Path) -> None:
    """Write the sum of the numbers with that last digit."""
    (folder / "sums" / str(digit)).write_text(str(sum(numbers)))


def summing(root: beam.Pipeline, folder: Path) -> None:
    """The graph."""
    numbers = root | beam.Create(range(NUMBERS))
    by_digit = numbers | beam.ParDo(Pass(folder)).with_output_types(tuple[int, int])
    _ = by_digit | beam.GroupByKey() | beam.MapTuple(partial(write_sum, folder=folder))


def count_passed(result: PipelineResult) -> int:
    """How many numbers the run has counted."""
    counters = result.metrics().query(MetricsFilter().with_metric(_PASSED))["counters"]
    return sum(counter.result for counter in counters)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--master")
    parser.add_argument("--environment")
    asked = parser.parse_args()
    folder: Path = asked.folder
    for name in ("workers", "sums"):
        (folder / name).mkdir(exist_ok=True)
    engine = BatchEngine(
        folder / "engine",
        parallelism=2,
        master=asked.master,
        environment=asked.environment,
        heap_mb=256,
        managed_mb=32,
        within=None if asked.master else partial(open, folder / "within", "w"),
    )

    def follow(progress: BatchProgress) -> None:
        print(json.dumps({"progress": vars(progress)}), flush=True)

    try:
        result = run(partial(summing, folder=folder), engine, follow)
        end = {"end": "done", "counted": count_passed(result)}
    except (KeyboardInterrupt, RuntimeError) as error:
        found = repr(find_error(str(error.__cause__)))
        end = {"end": type(error).__name__, "message": str(error), "found": found}
    print(json.dumps(end), flush=True)


if __name__ == "__main__":
    main()
