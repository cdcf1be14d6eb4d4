"""A rival as a program: the archives of a folder in, its tables out, and the seconds that it took."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path


def main(run: Callable[[Path, Path], None], about: str | None) -> None:
    """Run over the archives of a folder and print the seconds taken."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    run(arguments.source, arguments.output)
    print(json.dumps({"seconds": time.perf_counter() - start}))
