"""Scores a detector on the Numenta Anomaly Benchmark (Lavin and Ahmad, 2015), the standard profile.

A copy has `data/GROUP/NAME.csv` with the columns timestamp and value, and `labels/combined_windows.json` with
the windows of anomalies of each file. The first of a window's detections counts, the sooner the more; each
other detection costs 0.11, less if it follows a window closely; a window without one costs 1. The first 15 %
of a series are for learning. 100 is all windows at their first point, 0 is no detection at all.
"""

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

LEARNING = 0.15
FALSE_WEIGHT = 0.11
Detect = Callable[[np.ndarray], Sequence[int]]


class Series(NamedTuple):
    """A series: float64[n], and the places of the first and last point of each window."""

    name: str
    values: np.ndarray
    windows: list[tuple[int, int]]


def read_series(folder: Path) -> list[Series]:
    """All series of a copy of the benchmark."""
    labels = json.loads((folder / "labels" / "combined_windows.json").read_text(encoding="utf-8"))
    return [_read(folder / "data" / name, name, windows) for name, windows in sorted(labels.items())]


def score(series: Sequence[Series], detected: Sequence[Sequence[int]]) -> float:
    """The normalised score of all series, at most 100."""
    total = sum(_score_one(each, places) for each, places in zip(series, detected))
    windows = sum(len(each.windows) for each in series)
    return 100 * (total + windows) / (2 * windows)


def print_scores(folder: Path, detect: Detect) -> None:
    """Print the score of a detector, and how many windows it found."""
    series = read_series(folder)
    detected = [detect(_scale(each.values)) for each in series]
    found = sum(
        any(start <= place <= end for place in places)
        for each, places in zip(series, detected)
        for start, end in each.windows
    )
    windows = sum(len(each.windows) for each in series)
    print(f"{len(series)} series, {found} of {windows} windows, score {score(series, detected):.1f}")


def _read(path: Path, name: str, windows: Sequence[Sequence[str]]) -> Series:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    times = [row["timestamp"][:19] for row in rows]
    places = [(_find(times, start), _find(times, end)) for start, end in windows]
    return Series(name, np.array([float(row["value"]) for row in rows]), places)


def _find(times: Sequence[str], moment: str) -> int:
    """The last point by a moment; times are texts that sort as they are."""
    return max(int(np.searchsorted(np.array(times), moment[:19], side="right")) - 1, 0)


def _score_one(series: Series, places: Sequence[int]) -> float:
    first = LEARNING * len(series.values)
    total, found = 0.0, set[int]()
    for place in sorted(place for place in places if place >= first):
        inside = next((n for n, (start, end) in enumerate(series.windows) if start <= place <= end), None)
        if inside is not None:
            start, end = series.windows[inside]
            if inside not in found:
                total += _weigh((place - end) / max(end - start, 1)) / _weigh(-1.0)
            found.add(inside)
            continue
        before = [each for each in series.windows if each[1] < place]
        distance = (place - before[-1][1]) / max(before[-1][1] - before[-1][0], 1) if before else math.inf
        total += FALSE_WEIGHT * (_weigh(distance) if distance <= 3 else -1.0)
    return total - (len(series.windows) - len(found))


def _weigh(distance: float) -> float:
    return 2 / (1 + math.exp(5 * distance)) - 1


def _scale(values: np.ndarray) -> np.ndarray:
    """Values in deviations of the learning part, within what the kernels take."""
    learning = values[: max(int(LEARNING * len(values)), 1)]
    middle = np.median(learning)
    spread = np.median(np.abs(learning - middle)) * 1.4826 or np.std(values) or 1.0
    return np.clip((values - middle) / spread, -50, 50)
