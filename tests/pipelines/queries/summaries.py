"""Comparison of a summary with what plain SQL gives."""

from typing import Any

import pytest

from pipelines.queries.run import Answer


def compare(answer: Answer, plain: list[tuple[Any, ...]]) -> None:
    """Agents, hours, counts and the order are equal; means and deviations up to rounding."""
    assert answer.rows.num_rows == len(plain)
    for row, expected in zip(answer.rows.to_pylist(), plain):
        for (name, value), other in zip(row.items(), expected, strict=True):
            if name == "latency_stddev" and other is not None:
                assert value == pytest.approx(other, rel=1e-9, abs=1e-9)
            elif isinstance(value, float):
                assert value == pytest.approx(other, rel=1e-13)
            else:
                assert value == other
