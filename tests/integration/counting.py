"""A graph that counts up for ever, as a program of its own that tests can interrupt and kill: what Flink runs
while it is tested.

`python -m tests.integration.counting FOLDER` appends a line to FOLDER/numbers for each number: the number,
how many the step that wrote it had seen, and its process. While there is a file FOLDER/poison, that step
fails. On stdout it tells its progress as JSON, and how it ended.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apache_beam as beam
from apache_beam.coders import VarIntCoder
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.userstate import ReadModifyWriteRuntimeState, ReadModifyWriteStateSpec
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

from runners.flink.checkpoints import remove_other_jobs
from runners.flink.engine import StreamEngine
from runners.flink.launch import run
from runners.progress import Progress

ENGINE = "_stream"
_SESSION_SECONDS, _PAUSE_SECONDS = 0.2, 0.02


def read_numbers(folder: Path) -> list[tuple[int, int, int]]:
    """What was written: number, count, process."""
    path = folder / "numbers"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [tuple(map(int, line.split())) for line in lines if line.endswith("\n")]  # type: ignore[misc]


def assert_counted_without_a_gap(folder: Path) -> None:
    """Every number is there, and its step's state had seen each number before it once, whatever happened in
    between."""
    written = read_numbers(folder)
    assert {number for number, _, _ in written} == set(range(max(written)[0] + 1))
    assert [number + 1 for number, _, _ in written] == [count for _, count, _ in written]


class _Endless(OffsetRestrictionTracker):
    def is_bounded(self) -> bool:
        return False

    def check_done(self) -> bool:
        return True


class _Numbers(RestrictionProvider):
    def initial_restriction(self, element: int) -> OffsetRange:
        return OffsetRange(0, 2**62)

    def create_tracker(self, restriction: OffsetRange) -> _Endless:
        return _Endless(restriction)

    def restriction_size(self, element: int, restriction: OffsetRange) -> int:
        return 1


_TRACKER = beam.DoFn.RestrictionParam(_Numbers())
_WATERMARK = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider())
_SEEN = beam.DoFn.StateParam(ReadModifyWriteStateSpec("seen", VarIntCoder()))


class Count(beam.DoFn):
    """0, 1, 2, ... under one key, as time goes on."""

    @beam.DoFn.unbounded_per_element()
    def process(
        self, element: int, tracker: _Endless = _TRACKER, watermark: ManualWatermarkEstimator = _WATERMARK
    ) -> Iterator[TimestampedValue]:
        number, end = tracker.current_restriction().start, time.monotonic() + _SESSION_SECONDS
        while time.monotonic() < end and tracker.try_claim(number):
            now = Timestamp(time.time())
            watermark.set_watermark(now)
            yield TimestampedValue(("key", number), now)
            number += 1
            time.sleep(_PAUSE_SECONDS)
        tracker.defer_remainder(Duration(0))


class Write(beam.DoFn):
    """Appends each number beside how many there were, which is its state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(self, pair: tuple[str, int], seen: ReadModifyWriteRuntimeState = _SEEN) -> None:
        if (self.folder / "poison").exists():
            raise ValueError("this is poison")
        count = (seen.read() or 0) + 1
        seen.write(count)
        with (self.folder / "numbers").open("a") as file:
            file.write(f"{pair[1]} {count} {os.getpid()}\n")


def counting(folder: Path, changed: bool) -> Callable[[beam.Pipeline], None]:
    """The graph; where it is `changed`, the step with state is not there."""

    def build(root: beam.Pipeline) -> None:
        numbers = root | beam.Create([0]) | beam.ParDo(Count()).with_output_types(tuple[str, int])
        if not changed:
            numbers | beam.ParDo(Write(folder))

    return build


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--changed", action="store_true")
    parser.add_argument("--hold", type=int, nargs="*", default=[])
    parser.add_argument("--renew", type=float, default=3600.0)
    parser.add_argument("--master")
    parser.add_argument("--environment")
    asked = parser.parse_args()
    engine = StreamEngine(
        asked.folder / ENGINE,
        checkpoint_seconds=0.5,
        master=asked.master,
        environment=asked.environment,
        heap_mb=256,
        renew_seconds=asked.renew,
        keep_open=tuple(asked.hold),
    )

    if asked.fresh:
        remove_other_jobs(engine.folder)

    def follow(progress: Progress) -> None:
        print(json.dumps({"progress": vars(progress)}, default=str), flush=True)

    try:
        run(counting(asked.folder, asked.changed), engine, follow)
    except (KeyboardInterrupt, RuntimeError) as end:
        print(json.dumps({"end": type(end).__name__, "message": str(end)}), flush=True)


if __name__ == "__main__":
    main()
