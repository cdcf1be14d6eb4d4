"""Validate archived messages without Beam: count those of each reason, with an example."""

from transforms.sources.archives.archive_files import find_files
from transforms.sources.archives.archive_reader import read_files
from transforms.validation.validate import MessageRules, judge_kinds

valid = 0
examples: dict[str, str] = {}
for chunk in read_files(find_files(["tour/archive"])):
    for _, (rows, rejected) in judge_kinds(chunk.messages, MessageRules()):
        valid += len(rows)
        for row in rejected.to_pylist():
            examples.setdefault(row["reason"], f"{row['message_id']}: {row['message']}")

print(f"{valid:,} valid messages")
for reason, example in sorted(examples.items()):
    print(f"{reason:14} {example}")
