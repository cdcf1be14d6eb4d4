"""What `stream.py` measures of the process that derives tables beside a stream: its CPU and memory, with a
day of records behind it."""

import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from schemas.kinds import KINDS
from tests.benchmarks.parts import RATES, Figure, Outcome, Plan
from tests.benchmarks.trials import DERIVES, Sample, Trial

BEHIND, MINUTES = 1_000_000, 10.0
"""Reports of the day before, with their records, and how long the stream is watched."""
_AGENTS = ("--records", "--agents", 1000)


def deriving(plan: Plan) -> Outcome:
    """A stream of reports and records at a rate, after a backfill of the 24 hours before it."""
    minutes, behind = max(1.0, MINUTES * plan.scale), int(BEHIND * plan.scale)
    with Trial(plan.folder / "deriving", [kind.stream for kind in KINDS.values()]) as trial:
        _fill_day(trial, behind)
        job = trial.stream()
        trial.until(trial.reads, job)
        trial.until(lambda: DERIVES in _spent(trial, job), job)
        samples: list[Sample] = []
        before, began = _spent(trial, job), time.monotonic()
        sender = trial.send(int(RATES[0] * minutes), RATES[0], *_AGENTS)
        trial.until(lambda: _has_ended(trial, job, sender, samples), job, every=1.0, patience=120 * minutes)
        after, seconds = _spent(trial, job), time.monotonic() - began
        trial.ends_well(sender)
        trial.stop(job)
        trial.ends_well(trial.stream("--until-idle"))
    case = f"{RATES[0]:,}/min, {behind:,} reports in the 24 h before"
    shares = {name: (after[name] - before.get(name, 0.0)) / seconds for name in sorted(after)}
    peak = max(sample.rss.get(DERIVES, 0.0) for sample in samples)
    return Outcome(
        [
            *(Figure("deriving", case, f"CPU of {name}", share, "cores") for name, share in shares.items()),
            Figure("deriving", case, "peak memory of derive", peak, "MiB"),
        ]
    )


def _fill_day(trial: Trial, reports: int) -> None:
    """Fill the output with the 24 hours before now."""
    start = (datetime.now(UTC) - timedelta(hours=24)).strftime("%Y-%m-%dT%H:%M:%SZ")
    day: Path = trial.folder / "day"
    span = ("--reports", reports, "--seed", 5, "--start", start, "--span", "24h")
    trial.ends_well(trial.start("generate", "--output", day, *span, *_AGENTS))
    trial.ends_well(trial.start("backfill", "--input", day, "--output", trial.output))


def _has_ended(
    trial: Trial, job: "subprocess.Popen[str]", sender: "subprocess.Popen[str]", samples: list[Sample]
) -> bool:
    samples.append(trial.sample(job))
    return sender.poll() is not None


def _spent(trial: Trial, job: "subprocess.Popen[str]") -> dict[str, float]:
    """CPU seconds by name of the process."""
    return {spent.name: spent.seconds for spent in trial.cpu(job).values()}
