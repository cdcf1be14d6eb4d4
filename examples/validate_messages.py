"""Validate archived messages without Beam: count those of each reason, with an example."""

from schemas.registry import load
from transforms.sources.archives.archive_files import find_files
from transforms.sources.archives.archive_reader import read_files
from transforms.validation.validate import Rules, judge_block

SCHEMA, RULES = load("kpi_report"), Rules()

valid = 0
examples: dict[str, str] = {}
for chunk in read_files(find_files(["tour/archive"])):
    reports, rejected = judge_block(chunk.messages, SCHEMA, RULES)
    valid += len(reports)
    for row in rejected.to_pylist():
        examples.setdefault(row["reason"], f"{row['message_id']}: {row['message']}")

print(f"{valid:,} valid reports")
for reason, example in sorted(examples.items()):
    print(f"{reason:14} {example}")
