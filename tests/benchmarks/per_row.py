"""The same job as one would first write it in Beam: an element a report, jsonschema for validity, three fixed
windows.

What `make bench` compares with. It does less than kpiflow (no reasons kept, no duplicates, no baselines, no
flags, no Parquet) and is otherwise written with care: the validator is built once, combiners are lifted, the
engine is the same.

    python tests/benchmarks/per_row.py FILE... --output FOLDER
"""

import argparse
import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from jsonschema import Draft202012Validator, FormatChecker

SCHEMA = Path(__file__).parents[2] / "schemas" / "kpi_report.v1.json"
WINDOWS = {"5s": 5, "1m": 60, "1h": 3600}


class Validate(beam.DoFn):
    """Lines -> valid reports, stamped with their recorded_at; the others are counted."""

    def setup(self) -> None:
        self.valid = Draft202012Validator(json.loads(SCHEMA.read_text()), format_checker=FormatChecker())

    def process(self, line: str) -> Iterator[TimestampedValue]:
        try:
            report = json.loads(line)["data"]
            if not isinstance(report, dict) or not self.valid.is_valid(report):
                raise ValueError(line)
            seconds = datetime.fromisoformat(report["recorded_at"]).timestamp()
        except ValueError:
            beam.metrics.Metrics.counter("per_row", "refused").inc()
            return
        yield TimestampedValue((report["agent_id"], report), seconds)


class Statistics(beam.CombineFn):
    """Count, sums, extremes and the latencies for percentiles."""

    def create_accumulator(self) -> list[Any]:
        return [0, 0.0, 0.0, 0.0, 0.0, 0, []]

    def add_input(self, held: list[Any], report: dict[str, Any]) -> list[Any]:
        held[0] += 1
        held[1] += report["latency_ms"]
        held[2] += report["accuracy"]
        held[3] += report["cpu_usage"]
        held[4] += report["memory_mb"]
        held[5] += report.get("network_bytes") or 0
        held[6].append(report["latency_ms"])
        return held

    def merge_accumulators(self, accumulators: Any) -> list[Any]:
        first, *rest = accumulators
        for each in rest:
            for place in range(7):
                first[place] += each[place]
        return first

    def extract_output(self, held: list[Any]) -> dict[str, Any]:
        count, latencies = held[0], sorted(held[6])
        means = {
            name: held[place] / count
            for place, name in enumerate(("latency_ms", "accuracy", "cpu_usage", "memory_mb"), 1)
        }
        points = {f"p{p}": latencies[(p * count - 1) // 100] for p in (50, 95, 99)}
        return {"count": count, "network_bytes": held[5], **means, **points}


def lines_of(name: str) -> Iterator[str]:
    """The lines of a file."""
    with open(name, encoding="utf-8") as file:
        yield from file


def row(keyed: tuple[str, dict[str, Any]], window: Any = beam.DoFn.WindowParam) -> str:
    """An aggregate as a line of JSON."""
    return json.dumps({"agent_id": keyed[0], "start": float(window.start), **keyed[1]})


def run(files: list[str], output: Path) -> None:
    """Run the pipeline over envelope files."""
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        lines = pipeline | beam.Create(files) | beam.FlatMap(lines_of)
        reports = lines | "Validate" >> beam.ParDo(Validate()).with_output_types(tuple[str, dict[str, Any]])
        for name, seconds in WINDOWS.items():
            _ = (
                reports
                | f"Window {name}" >> beam.WindowInto(FixedWindows(seconds))
                | f"Combine {name}" >> beam.CombinePerKey(Statistics())
                | f"Row {name}" >> beam.Map(row)
                | f"Write {name}" >> beam.io.WriteToText(str(output / name))
            )


def main() -> None:
    """Run over the files named and print the seconds taken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    run(arguments.files, arguments.output)
    print(json.dumps({"seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
