"""Exact arithmetic in SQL: fixed-point numbers, and division of whole numbers downwards."""

SCALE = 1 << 20
"""A number x counts in sums as floor(x * SCALE + 0.5)."""


def fix(column: str, kind: str = "BIGINT") -> str:
    """A float64 column in whole units of 1 / SCALE."""
    return f"floor({column} * {SCALE} + 0.5)::{kind}"


def divide(number: str, by: int) -> str:
    """floor(number / by) of a BIGINT; `//` alone rounds towards zero."""
    return f"(({number}) // {by} - ((({number}) % {by}) < 0)::BIGINT)"
