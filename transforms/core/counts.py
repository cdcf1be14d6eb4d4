"""Counts in words, as people read them."""

import re


def format_count(count: int, noun: str) -> str:
    """A count with its noun (singular, with a regular plural): "1 row", "1,200 new entries"."""
    return f"{count:,} {noun if count == 1 else pluralize(noun)}"


def pluralize(noun: str) -> str:
    """The regular plural of a noun."""
    return re.sub(r"(?<![aeiou])y$", "ie", noun) + "s"
