"""The page of the outputs holds: its kinds, fields and settings are those of the code, its queries those that
are tested."""

import re
from pathlib import Path

from pipelines.outputs import SCHEMES
from pipelines.settings import PREFIX, Settings
from tests.transforms.sinks.timeseries import test_victoriametrics as queries
from transforms.sinks.timeseries.line_protocol import FIELDS, REVISION

PAGE = (Path(__file__).parents[2] / "docs" / "outputs.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_every_kind_of_output_is_in_the_table_with_its_extra() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and line.count("|") == 5]
    for name, scheme in SCHEMES.items():
        form = "`OUT`" if name == "file" else f"`{scheme.form}`"
        (row,) = [line for line in rows if form in line]
        assert f"| `{scheme.extra}` |" in row if scheme.extra else True


def test_the_fields_of_the_time_series_are_those_of_the_page() -> None:
    listed = re.findall(
        r"^\| `(\w+)` \| (\w+)(?: / ([\d,]+)| x ([\d,]+))? \| (.*?) ?\|$", PAGE, flags=re.MULTILINE
    )
    found = [(name, column, unit, int((times or "1").replace(",", "")), int((per or "1").replace(",", "")))
             for name, column, per, times, unit in listed]  # fmt: skip
    assert found == [tuple(field) for field in (*FIELDS, REVISION)]


def test_every_query_of_the_page_is_tested() -> None:
    deviation = queries.DEVIATION.removeprefix(queries.SUMMARY)
    latency = f"{queries.LATENCY.strip()}\n# or, in place of avg, the deviation:\n# {deviation}"
    hourly = "\n".join(query + queries.OFTEN for query in queries.HOURLY.values())
    shown = [block.strip() for language, block in FENCES if not language]
    assert shown == [queries.TASKS, queries.ACCURACY.strip(), latency, hourly]


def test_every_setting_that_is_named_exists() -> None:
    named = {name.lower() for name in re.findall(rf"`{PREFIX}(\w+)`", PAGE)} | set(
        re.findall(r"`(\w+_seconds)`", PAGE)
    )
    assert {"influxdb_token", "warehouse_seconds", "patience_seconds"} <= named
    fields = {field.name for field in FIELDS}
    assert named - fields <= set(Settings.model_fields)
