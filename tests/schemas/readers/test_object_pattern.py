"""The pattern that finds documents written as most are: it decides what is parsed together, never what is
valid."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from schemas.readers import object_pattern
from schemas.registry import load
from tests.builders import report

ROOT = load("kpi_report").root
CONTEXT = report()["execution_context"] | {"gpu_info": {"a": 1}, "network_interfaces": ["a"]}
SAMPLES = [
    report(1),
    report(2, execution_context=CONTEXT, network_bytes=1, custom_metrics={"a": 1}, error_details={"code": 1}),
]


def fits(text: str, samples: list[dict[str, Any]] | None = None) -> bool:
    """Whether a document is written as the samples are."""
    pattern = object_pattern.build_pattern(ROOT, SAMPLES if samples is None else samples)
    return bool(pc.match_substring_regex(pa.array([text + "\n"]), pattern)[0].as_py())


@pytest.mark.parametrize(
    "document",
    [
        report(4),
        report(5, latency_ms=1e-7, network_bytes=None),
        report(6, error_details='x \\ " \n'),
        report(7, accuracy=...),
        report(8, custom_metrics={"k": 1, "l": -2.5e10}),
        report(9, execution_context=CONTEXT | {"network_interfaces": ["a", "b"], "gpu_info": None}),
    ],
)
def test_a_document_in_the_order_of_the_samples_fits_valid_or_not(document: dict[str, Any]) -> None:
    assert fits(json.dumps(document))
    assert fits(json.dumps(document, separators=(",", ":")))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        json.dumps(report())[:-1],
        json.dumps(report()) + json.dumps(report()),
        json.dumps(report(latency_ms="1")),
        json.dumps(report(latency_ms=True)),
        json.dumps(report(task_id=1)),
        json.dumps(report(custom_metrics={"k": "text"})),
        json.dumps(report()).replace("120.0", "NaN"),
        json.dumps(report())[:-1] + ', "accuracy": 0.5}',
        json.dumps(dict(reversed(report().items()))),
    ],
)
def test_a_document_that_is_broken_of_other_types_or_in_another_order_does_not_fit(text: str) -> None:
    assert not fits(text)


def test_the_order_is_that_of_most_samples() -> None:
    turned = dict(reversed(report(4).items()))
    assert fits(json.dumps(turned), [turned, turned, report(1)])
    assert not fits(json.dumps(turned), [turned, report(1), report(2)])


def test_names_that_the_samples_have_beside_the_schema_fit_too() -> None:
    zoned = [report(i, zone="a") for i in range(3)]
    assert fits(json.dumps(report(4, zone="b")), zoned)
    assert not fits(json.dumps(report(4, zone="b")), [report(1)])


def test_a_name_is_told_by_its_beginning_and_whole_where_another_begins_with_it() -> None:
    samples = [report(a=1, ab=2, abc=3)]
    assert fits(json.dumps(report(a=1, ab=2, abc=3)), samples)
    assert fits(json.dumps(report(a=1, abc=3)), samples)
    assert not fits(json.dumps(report(a=1, abc=3, ab=2)), samples)
    assert not fits(json.dumps(report(latency_ms="1", a=1)), samples)
