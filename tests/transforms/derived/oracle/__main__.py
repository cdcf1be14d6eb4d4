"""`python -m tests.transforms.derived.oracle --seeds 500`: compare SQL and oracle on many outputs."""

import argparse
import sys

from tests.transforms.derived.oracle.cases import compare_case


def main() -> int:
    """1 if a row differs; prints the seeds in which one does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many random outputs")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--lines", type=int, default=5, help="most differences of a table that are printed")
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    different = [seed for seed in seeds if print_differences(seed, arguments.lines)]
    print(f"{len(seeds)} random outputs compared, {len(different)} with differences {different or ''}")
    return 1 if different else 0


def print_differences(seed: int, lines: int) -> bool:
    """Print what differs in one output; whether something does."""
    found = {name: differences for name, differences in compare_case(seed).items() if differences}
    for name, differences in found.items():
        print(f"seed {seed}, {name}: {len(differences)} differences")
        print("".join(f"  {line}\n" for line in differences[:lines]), end="")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
