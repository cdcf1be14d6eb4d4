"""The page on operations holds: its ACL, settings, defaults, flags and commands are those of the program."""

import re
from pathlib import Path

from transforms.access import ACL, rules

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")


def test_the_acl_of_a_stream_is_the_list_of_the_code() -> None:
    (shown,) = re.findall(r"^ACL SETUSER worker reset on >PASSWORD (.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert " ".join(shown.split()) == f"{rules('stream')} {rules('stream --live')}"


def test_the_rules_of_every_other_command_are_the_list_of_the_code() -> None:
    rows = dict(re.findall(r"^\| `kpiflow (\w+)` \| `([^`]*)` \|$", PAGE, flags=re.MULTILINE))
    listed = {use: rules(use) for use in ACL if not use.startswith("stream")}
    assert {use: text.replace("\\|", "|") for use, text in rows.items()} == listed
