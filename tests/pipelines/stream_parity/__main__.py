"""`python -m tests.pipelines.stream_parity --seeds 200`: compare streams and backfills of random messages."""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.pipelines.stream_parity.cases import compare_case
from tests.quick_beam import remember_answers


def main() -> int:
    """1 if a row differs; prints the seeds in which one does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many random cases")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    arguments = parser.parse_args()
    remember_answers()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    different = []
    for done, seed in enumerate(seeds):
        print(f"{done} of {len(seeds)}", file=sys.stderr, end="\r", flush=True)
        different += [seed] if print_differences(seed) else []
    print(f"{len(seeds)} streams and backfills compared, {len(different)} with differences {different or ''}")
    return 1 if different else 0


def print_differences(seed: int) -> bool:
    """Print what differs in a case; whether something does."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with TemporaryDirectory(dir=memory) as folder:
        differences = compare_case(seed, Path(folder))
    for name, lines in differences.items():
        print(f"seed {seed}, {name}:", *lines[:3], sep="\n  ", flush=True)
    return bool(differences)


if __name__ == "__main__":
    sys.exit(main())
