"""`python -m tests.transforms.derived.oracle --seeds 500`: compare SQL and oracle on many outputs."""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.transforms.derived.oracle.cases import compare_case, compare_files


def main() -> int:
    """1 if a row differs; prints the seeds in which one does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many random outputs")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--lines", type=int, default=5, help="most differences of a table that are printed")
    parser.add_argument("--files", action="store_true", help="write messages and backfill them: slower")
    arguments = parser.parse_args()
    compare = compare_backfill if arguments.files else compare_case
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    different = [seed for seed in seeds if print_differences(seed, compare(seed), arguments.lines)]
    print(f"{len(seeds)} random outputs compared, {len(different)} with differences {different or ''}")
    return 1 if different else 0


def compare_backfill(seed: int) -> dict[str, list[str]]:
    """The differences of an output that a backfill makes in a temporary folder."""
    with TemporaryDirectory() as folder:
        return compare_files(seed, Path(folder))


def print_differences(seed: int, differences: dict[str, list[str]], most: int) -> bool:
    """Print what differs in one output; whether something does."""
    found = {name: lines for name, lines in differences.items() if lines}
    for name, lines in found.items():
        print(f"seed {seed}, {name}: {len(lines)} differences")
        print("".join(f"  {line}\n" for line in lines[:most]), end="", flush=True)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
