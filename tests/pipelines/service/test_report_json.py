"""Reports as JSON, also those that kpiflow has not written."""

import json
from typing import Any

import pytest

from pipelines.service.live import StreamEntry
from pipelines.service.live_counts import write_counts
from pipelines.service.report_json import format_report

NAMES = ("error_details", "extra", "execution_context", "gpu_info")


@pytest.mark.parametrize("value", ["", "{", "\x00", "x" * 10_240, "[1", '{"a": tru}', 3, [], [1], {}, True])
@pytest.mark.parametrize("name", NAMES)
def test_text_that_is_no_json_is_still_in_an_answer_that_is(name: str, value: Any) -> None:
    row = {"execution_context": {"gpu_info": value}} if name == "gpu_info" else {name: value}
    report = json.loads(format_report({"task_id": "t", **row}))
    assert report["task_id"] == "t"


def test_json_is_embedded_as_it_is() -> None:
    row = {"error_details": '{"code": 9007199254740993}', "extra": '{"more": {"a": 1}}'}
    report = json.loads(format_report(row))
    assert (report["error_details"], report["more"]) == ({"code": 2**53 + 1}, {"a": 1})


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b"null", b"\xff", b'{"error_details": 3}'])
def test_an_entry_of_another_client_ends_no_socket(data: bytes) -> None:
    entry = StreamEntry((1, 0), data)
    assert json.loads(entry.write(False, ()))["task_id"] is None
    assert json.loads(entry.write(True, ()))["type"] == "report"
    (counts,) = write_counts([entry], ())
    assert json.loads(counts)["seconds"][0]["reports"] == 1
