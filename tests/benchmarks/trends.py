"""How often `kpiflow trends` reports changes that are not there, and how many of those that are.

    python -m tests.benchmarks.trends --agents 200

Series are drawn as `kpiflow generate` draws latency: around an agent's level with a deviation of 0.2 of the
logarithm, within two deviations. In other worlds minutes depend on each other, there is a peak every day, or
one value in a hundred is far off. A change is found if it is reported within two hours, and at most 20
minutes from where it was. Beside it is PELT of ruptures, which sees the whole day at once, with a penalty of
2 log n that knows the deviation.

With --nab DIR it scores the series of a copy of the Numenta Anomaly Benchmark.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ruptures import KernelCPD  # type: ignore[import-untyped]
from scipy.signal import lfilter  # type: ignore[import-untyped]

from tests.benchmarks.nab import print_scores
from transforms.analysis.change_points import WINDOW, confirm, find_alarms, find_thresholds, screen
from transforms.analysis.hour_profiles import Rises, build_profile, find_run_starts
from transforms.analysis.series import Moments, Points

DAY, HOUR, WEEK = 1440, 60, 7
SIGMA, FLOOR = 0.2, 10_000
SIZES = (1.0, 1.5, 2.0, 3.0, 5.0)
"""Changes, in deviations of a minute."""
NEAR, SOON = 20, 120


class Alarm(NamedTuple):
    """A reported change: series, the minute at which it was seen, that of the change, its size, and half the
    95 % interval of the size, both in deviations of a minute."""

    series: int
    seen: int
    at: int
    size: float = np.nan
    width: float = np.nan


Detector = Callable[[np.ndarray, bool], list[Alarm]]


class World(NamedTuple):
    """How series are drawn. `correlation`: of neighbouring minutes. `peak`: rise of the logarithm at 14:00.
    `outliers`: share of values that are three times as large."""

    name: str
    correlation: float = 0.0
    peak: float = 0.0
    outliers: float = 0.0


WORLDS = (
    World("as generated"),
    World("autocorrelation 0.3", correlation=0.3),
    World("autocorrelation 0.6", correlation=0.6),
    World("a peak every day", correlation=0.3, peak=0.7),
    World("1 % far values", outliers=0.01),
)


def main() -> int:
    """1 if steady series raised more false alarms in some world than chance allows at the budget."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agents", type=int, default=200)
    parser.add_argument("--budget", type=float, default=1.0, help="false alarms a day of all series")
    parser.add_argument("--nab", type=Path, help="folder of the Numenta Anomaly Benchmark")
    arguments = parser.parse_args()
    if arguments.nab:
        print_scores(arguments.nab, lambda values: [each.seen for each in detect(values[None], False)])
        return 0
    budget = arguments.budget

    def ours(values: np.ndarray, has_past: bool) -> list[Alarm]:
        return detect(values, has_past, budget)

    print(f"{arguments.agents} agents, a report a minute, a budget of {budget:g} false alarms a day:\n")
    sizes = " | ".join(f"{size:g} sd" for size in SIZES)
    print(
        f"| series | method | false alarms a day | precision | recall at {sizes} | median delay at 2 sd "
        "| intervals that hold |"
    )
    print("|---" * (6 + len(SIZES)) + "|")
    worst = 0.0
    for world in WORLDS:
        worst = max(worst, _print_row(world, "kpiflow trends", ours, arguments.agents))
        _print_row(world, "PELT", detect_by_pelt, arguments.agents)
    return int(worst > budget + 3 * budget**0.5)


def draw(world: World, agents: int, size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """float64[agents, minutes] of a week and a day, and the minute of the last day from which each is `size`
    deviations higher or lower, int64[agents]."""
    random = np.random.default_rng(seed)
    minutes = (WEEK + 1) * DAY if world.peak else DAY
    noise = random.standard_normal((agents, minutes + 100)).clip(-2, 2)
    noise = lfilter([1], [1, -world.correlation], noise, axis=1)[:, 100:] * np.sqrt(1 - world.correlation**2)
    at = random.integers(240, DAY - SOON, agents)
    since = np.arange(minutes) - (minutes - DAY) >= at[:, None]
    hour = np.arange(minutes) % DAY / HOUR
    values = 5 + SIGMA * (noise + since * random.choice([-size, size], agents)[:, None])
    values += world.peak * np.exp(-(((hour - 14) / 2.5) ** 2))
    far = random.random(values.shape) < world.outliers
    return np.where(far, values + np.log(3), values), at


def detect(values: np.ndarray, has_past: bool, budget: float = 1.0) -> list[Alarm]:
    """What `kpiflow trends` reports of the last day of series with a value a minute."""
    last = values[:, -DAY:] if has_past else values
    number, minute = np.indices(last.shape)
    points = Points(number.ravel().astype(np.int64), minute.ravel().astype(np.int64) + WEEK * DAY)
    raw = np.round(last.ravel() * 1e6).astype(np.int64)
    profile = build_profile(_measure_rises(values, has_past), points)
    starts = np.maximum(points.find_starts(WINDOW), find_run_starts(profile.run, points))
    clipped = np.clip(raw, *_find_fences(values))  # as the fences of each report do
    moments = Moments.of(clipped - profile.level)
    z = screen(clipped - profile.level, moments, starts, profile.level, profile.variance, FLOOR)
    alarms = find_alarms(z, find_thresholds(points, budget, 1), points)
    own = np.ones(len(raw), np.bool_)
    found = confirm(alarms, raw - profile.level, points, starts, profile.level, profile.variance, own, FLOOR)
    width = last.shape[1]
    scale = SIGMA * 1e6
    return [
        Alarm(each.place // width, each.place % width, each.at % width,
              (each.after - each.before) / scale, each.width / scale)
        for each in found
    ]  # fmt: skip


def _find_fences(values: np.ndarray) -> tuple[float, float]:
    """Fences so far off that only far values are beyond, in millionths."""
    q1, q3 = np.percentile(values, [25, 75]) * 1e6
    return q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)


def _measure_rises(values: np.ndarray, has_past: bool) -> Rises:
    """The rises of the profile from the week before, as the SQL of `trends` takes them."""
    none = np.zeros(0, np.int64)
    if not has_past:
        return Rises(none, none, none, none)
    hours = np.round(values.reshape(len(values), -1, HOUR).mean(axis=2) * 1e6).astype(np.int64)
    steps = np.diff(hours, axis=1, prepend=hours[:, :1])
    targets = np.arange(WEEK * 24 + 1, WEEK * 24 + 24)
    past = np.stack([steps[:, targets - 24 * day] for day in range(1, WEEK + 1)])
    series, hour = np.indices(past.shape[1:])
    variance = np.floor(1.57 * past.var(axis=0, ddof=1) / WEEK).astype(np.int64)
    size = np.sort(past, axis=0)[WEEK // 2]
    return Rises(series.ravel(), targets[hour.ravel()], size.ravel(), variance.ravel())


def detect_by_pelt(values: np.ndarray, has_past: bool) -> list[Alarm]:
    """The changes that PELT finds in each series of the last day; it knows the deviation."""
    found = []
    for number, series in enumerate(values[:, -DAY:] if has_past else values):
        penalty = 2 * np.log(len(series)) * SIGMA**2 * 2
        places = KernelCPD(kernel="linear", min_size=5).fit(series[:, None]).predict(pen=penalty)[:-1]
        found += [Alarm(number, place, place) for place in places]
    return found


def _print_row(world: World, name: str, detector: Detector, agents: int) -> float:
    """Print a row; the false alarms a day."""
    began = time.process_time()
    has_past = bool(world.peak)
    false = len(detector(draw(world, agents, 0.0, seed=1)[0], has_past))
    hits, delays, held, wrong = [], [], [], 0
    for size in SIZES:
        values, at = draw(world, agents, size, seed=2)
        alarms = detector(values, has_past)
        right = [each for each in alarms if _is_right(each, at)]
        hits.append(len({each.series for each in right}))
        held += [abs(abs(each.size) - size) <= each.width for each in right]
        wrong += len(alarms) - len(right)
        if size == 2:
            delays = [each.seen - at[each.series] for each in right]
    recall = " | ".join(f"{hit / agents:.0%}" for hit in hits)
    precision = sum(hits) / max(sum(hits) + wrong, 1)
    late = ""
    if detector is not detect_by_pelt:
        late = f"{np.median(delays):.0f} min | {np.mean(held):.0%} of {len(held)}"
    print(f"| {world.name} | {name} | {false} | {precision:.0%} | {recall} | {late or ' | '} |", flush=True)
    print(f"{world.name}, {name}: {time.process_time() - began:.0f} CPU s", file=sys.stderr)
    return false


def _is_right(alarm: Alarm, at: np.ndarray) -> bool:
    truth = at[alarm.series]
    return bool(abs(alarm.at - truth) <= NEAR and alarm.seen - truth <= SOON)


if __name__ == "__main__":
    sys.exit(main())
