"""Spans of time as options take them."""

import re
from datetime import timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_duration(name: str, text: str) -> timedelta:
    """The span of time that a number and a unit mean, such as `90m`.

    Raises:
        ValueError: it has another form.
    """
    parts = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([smhd])", text)
    if not parts:
        raise ValueError(f"{name} {text!r} is not a time span; write a number and s, m, h or d, such as 48h")
    return timedelta(**{_UNITS[parts[2]]: float(parts[1])})
