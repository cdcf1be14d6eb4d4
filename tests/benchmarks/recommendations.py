"""Counts false recommendations.

    python -m tests.benchmarks.recommendations [--seeds 20] [--series 2000] [--experiments 400]

`generated`: outputs of `kpiflow generate --records` without dirt or change, one a seed. Some agents need so
little memory for ever that a smaller quota would do, so what is recommended is held against the whole day.
`at the limit`: series of outcome_sums in which the share of each rule is exactly its limit, the worst case.
`experiments`: drawn ones with five metrics, without an effect and with one on latency.
"""

import argparse
import subprocess
import sys
import tempfile
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.analysis.tasks import Unit
from pipelines.analysis.winners import Winner, find_winner
from pipelines.settings import Settings
from tests.builders import NOON
from tests.pipelines.analysis.worlds import World, draw_metrics
from transforms.derived.evidence import PERIOD_HOURS
from transforms.derived.outcome_sums import LADDER, OUTCOME_SUMS
from transforms.derived.recommendation_rules import RECOMMENDATION_RULES, RecommendationRule
from transforms.derived.recommendations import TABLE
from transforms.derived.run import derive_rows
from transforms.derived.share_evidence import ABOVE, ShareTest

SHARE_RULES = [rule for rule in RECOMMENDATION_RULES if isinstance(rule.test, ShareTest)]
_SERIES_AT_ONCE = 200
EFFECTS = (-0.05, -0.1)
_CLEAN = ("--dirty", "0", "--late", "0", "--inconsistent", "0", "--duplicates", "0")


def make_series(
    rule: RecommendationRule, share: float, series: int, tasks: int, seed: int, hours: int = 24
) -> pa.Table:
    """Rows of outcome_sums of a rule's measure, by minute from noon: of each subject `tasks` tasks a minute,
    each beyond the rule's step by chance with this probability, and then beyond all steps before it."""
    random, test = np.random.default_rng(seed), rule.test
    minutes = hours * 60
    hits = random.binomial(tasks, share, (series, minutes))
    steps = len(LADDER) if test.measure in ("memory", "cpu") else 1
    counts = [" ".join([str(hit)] * test.step + ["0"] * (steps - test.step)) for hit in hits.ravel().tolist()]
    times = [NOON + timedelta(minutes=minute) for minute in range(minutes)] * series
    columns = {
        "time_window_start": times,
        "measure": [test.measure] * len(times),
        "subject": np.repeat([f"subject {number}" for number in range(series)], minutes),
        "task_count": [tasks] * len(times),
        "total": [tasks * 1000] * len(times),
        "counts": counts,
    }
    return pa.table(columns, OUTCOME_SUMS.schema)


def count_at_the_limit(series: int, tasks: int = 20) -> tuple[int, int]:
    """How many periods of all rules were tested, and in how many of them a rule was met."""
    settings, met = Settings().derived_settings(), 0
    parts = series // _SERIES_AT_ONCE
    for seed, (rule, _) in enumerate(product(SHARE_RULES, range(parts))):
        rows = make_series(rule, rule.test.limit, _SERIES_AT_ONCE, tasks, seed, PERIOD_HOURS)
        found = derive_rows(TABLE, {"outcome_sums": rows}, settings)
        met += sum(name == rule.name for name in found["rule"].to_pylist())
    return parts * _SERIES_AT_ONCE * len(SHARE_RULES), met


def count_winners(experiments: int, effect: float = 0.0) -> int:
    """How many drawn experiments ever had a winner: verdicts stay, so that the last look has them all."""
    world, found = World(blocks=144, tasks_per_block=40), 0
    for seed in range(experiments):
        tasks = draw_metrics(seed, Unit.TASK, world, latency_ms=effect)
        found += isinstance(find_winner(tasks), Winner)
    return found


def judge_generated(seeds: int, reports: int, agents: int) -> tuple[int, int]:
    """How many recommendations outputs of 24 h without dirt or change have, and how many of them are wrong.

    One about a quota or deadline is wrong if the share of all tasks of the day is on the other side of the
    limit; any other one is.
    """
    count = wrong = 0
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            given = ("--records", "--reports", str(reports), "--agents", str(agents), "--span", "24h")
            _run("generate", *given, *_CLEAN, "--seed", str(seed), "--output", f"{folder}/archive")
            _run("backfill", "--input", f"{folder}/archive", "--output", f"{folder}/out")
            found = _read(Path(folder, "out", TABLE.table.name))
            sums = _read(Path(folder, "out", OUTCOME_SUMS.name))
        count += len(found)
        wrong += sum(not _is_right(row, sums) for row in found)
    return count, wrong


def _read(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(folder.rglob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def _is_right(row: dict[str, Any], sums: list[dict[str, Any]]) -> bool:
    test = next((rule.test for rule in SHARE_RULES if rule.name == row["rule"]), None)
    if test is None:
        return False
    own = [each for each in sums if (each["measure"], each["subject"]) == (test.measure, row["subject"])]
    beyond = sum(int(each["counts"].split()[test.step - 1]) for each in own)
    share = beyond / sum(each["task_count"] for each in own)
    return share > test.limit if test.side == ABOVE else share < test.limit


def _run(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pipelines.cli", *words], check=True, capture_output=True)


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--reports", type=int, default=20_000)
    parser.add_argument("--agents", type=int, default=50)
    parser.add_argument("--series", type=int, default=2000)
    parser.add_argument("--experiments", type=int, default=400)
    asked = parser.parse_args()
    false = count_winners(asked.experiments)
    print(f"experiments: {false} of {asked.experiments} without an effect have a winner")
    for effect in EFFECTS:
        count = asked.experiments // 4
        print(f"experiments: {count_winners(count, effect)} of {count} with {effect:+.0%} have one")
    periods, met = count_at_the_limit(asked.series)
    print(f"at the limit: {met} false recommendations in {periods:,} periods of {PERIOD_HOURS} h")
    count, wrong = judge_generated(asked.seeds, asked.reports, asked.agents)
    print(f"generated: {count} recommendations in {asked.seeds} outputs of 24 h, {wrong} of them wrong")


if __name__ == "__main__":
    main()
