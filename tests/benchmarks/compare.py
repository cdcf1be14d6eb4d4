"""How often `kpiflow compare` is wrong, and how soon it is right: many simulated experiments, each looked at
every five minutes for a day.

    python -m tests.benchmarks.compare --runs 2000

Beside it are the tests that one would use instead, looked at as often: a z-test of the blocks' differences,
and one that takes all tasks as independent.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from pipelines.analysis.comparison import Verdict, compare
from pipelines.analysis.looks import LEAST_BLOCKS
from pipelines.analysis.tasks import Measure, Tasks, Unit
from tests.pipelines.analysis.worlds import METRIC, NAMES, World, draw_tasks

ALPHA = 0.05
TARGET = 0.06
EFFECTS = (0.0, 0.02, 0.05, 0.1, 0.2)
DAYS = (1, 7)
MEAN, P95 = Measure(METRIC), Measure(METRIC, 95.0)
_Test = Callable[[Tasks], bool]


def main() -> int:
    """1 if a true hypothesis was rejected in more than TARGET of the runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=2000, help="experiments without an effect, of each kind")
    parser.add_argument("--power-runs", type=int, default=100, help="experiments of each effect and length")
    arguments = parser.parse_args()
    print(f"{arguments.runs:,} experiments of a day without an effect, looked at every five minutes:\n")
    print("| assigned | test | ever rejected |")
    print("|---|---|---|")
    worst = 0.0
    for unit in Unit:
        ours = _print_rate(unit, "kpiflow compare", rejects, arguments.runs)
        rare = _print_rate(
            unit, "kpiflow compare, 95th percentile", partial(rejects, measure=P95), arguments.runs
        )
        worst = max(worst, ours, rare)
        _print_rate(unit, "all tasks as independent", rejects_plainly, arguments.runs)
    _print_rate(Unit.TASK, "z-test of the blocks", rejects_blocks, arguments.runs)
    print("\nShare of experiments in which an effect was found, by its size (of log latency):\n")
    print(f"| assigned | days | {' | '.join(f'{effect:.0%}' for effect in EFFECTS)} |")
    print("|---" * (2 + len(EFFECTS)) + "|")
    for unit in Unit:
        for days in DAYS:
            world = World(blocks=288 * days)
            shares = [measure(unit, effect, world, rejects, arguments.power_runs) for effect in EFFECTS]
            print(f"| {unit} | {days} | {' | '.join(f'{share:.0%}' for share in shares)} |", flush=True)
    return int(worst > TARGET)


def _print_rate(unit: Unit, name: str, test: _Test, runs: int) -> float:
    began = time.process_time()
    rate = measure(unit, 0.0, World(), test, runs)
    error = 1.96 * math.sqrt(rate * (1 - rate) / runs)
    print(f"| {unit} | {name} | {rate:.1%} (± {error:.1%}) |", flush=True)
    print(f"{name}, {unit}: {time.process_time() - began:.0f} CPU s", file=sys.stderr)
    return rate


def measure(unit: Unit, effect: float, world: World, test: _Test, runs: int) -> float:
    """The share of experiments in which a test rejects at some look."""
    return float(np.mean([test(draw_tasks(seed, unit, effect, world)) for seed in range(runs)]))


def rejects(tasks: Tasks, measure: Measure = MEAN) -> bool:
    """Whether `kpiflow compare` sees a difference at some look."""
    found = compare(tasks, NAMES[0], [measure], ALPHA)
    return any(each.verdict in (Verdict.HIGHER, Verdict.LOWER) for each in found.effects)


def rejects_plainly(tasks: Tasks) -> bool:
    """Whether a t-test of all tasks so far rejects after some block."""
    moments = [_accumulate(tasks, tasks.values[METRIC] ** power) for power in (0, 1, 2)]
    counts, sums, squares = (each[:, LEAST_BLOCKS - 1 :] for each in moments)
    means = sums / counts
    errors = np.sqrt(((squares / counts - means**2) / counts).sum(axis=0))
    return bool((np.abs(means[1] - means[0]) > stats.norm.isf(ALPHA / 2) * errors).any())


def rejects_blocks(tasks: Tasks) -> bool:
    """Whether a z-test of the differences of all blocks so far rejects after some block."""
    counts, sums = (np.diff(_accumulate(tasks, tasks.values[METRIC] ** power), prepend=0) for power in (0, 1))
    differences = np.subtract(*(sums / counts)[::-1])
    number = np.arange(1, len(differences) + 1)
    means = np.cumsum(differences) / number
    errors = np.sqrt((np.cumsum(differences**2) / number - means**2) / number)
    return bool((np.abs(means) > stats.norm.isf(ALPHA / 2) * errors)[LEAST_BLOCKS - 1 :].any())


def _accumulate(tasks: Tasks, values: np.ndarray) -> np.ndarray:
    """float64[2, blocks]: sums of values by variant, over the blocks so far."""
    block = tasks.block - tasks.block[0]
    size = int(block[-1]) + 1
    rows = [np.bincount(block[tasks.variant == v], values[tasks.variant == v], size) for v in (0, 1)]
    return np.cumsum(rows, axis=1)


if __name__ == "__main__":
    sys.exit(main())
