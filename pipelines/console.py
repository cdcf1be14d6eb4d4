"""Where commands write: results on stdout, progress and complaints on stderr.

Text is shown, never obeyed, whatever its origin: no string is parsed as markup, what a terminal would act on
is shown as its code, and the password of a URL is masked. So a command prints a string as it is, and gives it
a style with `Text` alone.
"""

import json
import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

import typer
from rich.console import Console
from rich.segment import Segment
from rich.text import Text

_PASSWORD = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@]*):(?!\d+(?:[/?#]|\s|$))\S*@")
_TOKEN = re.compile(r"([?&](?:password|secret|token|key)=)[^&#\s]+", re.IGNORECASE)


def mask_secrets(text: str) -> str:
    """The text with the passwords and tokens of URLs as `***`."""
    return _TOKEN.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text)) if "://" in text else text


def escape_line(text: str) -> str:
    """`text` on one line: what does not print (line ends, escape codes, marks of direction) is shown as its
    code."""
    return (
        text
        if text.isprintable()
        else "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    )


def escape_text(text: str) -> str:
    """The text, of one line or several, safe for a terminal."""
    return "\n".join(map(escape_line, mask_secrets(text).split("\n")))


def print_json(value: Any, default: Callable[[Any], Any] | None = None) -> None:
    """Print a value as JSON in ASCII on stdout."""
    typer.echo(json.dumps(_mask(value), indent=2, default=default).replace("\x7f", "\\u007f"))


def _mask(value: Any) -> Any:
    if isinstance(value, dict):
        return {_mask(name): _mask(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_mask(inner) for inner in value]
    return mask_secrets(value) if isinstance(value, str) else value


class SafeConsole(Console):
    """A console that is safe for any string."""

    def render_str(self, text: str, **options: Any) -> Text:
        """A string as escaped Text. Escaped before the layout, so that columns get the right width."""
        return super().render_str(escape_text(text), **options)

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        return super()._render_buffer(
            each if each.control else each._replace(text=escape_text(each.text)) for each in buffer
        )


def style_head(style: str, head: str, rest: str) -> Text:
    """A line whose head has a style."""
    return Text.assemble((escape_text(head), style), escape_text(rest))


class SafeFormatter(logging.Formatter):
    """Formats log records safely for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return escape_text(super().format(record))


out = SafeConsole(highlight=False, soft_wrap=True, markup=False, emoji=False)
err = SafeConsole(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
