"""Where commands write: results on stdout, progress and complaints on stderr.

Text is shown, never obeyed, whatever its origin: no string is parsed as markup, what a terminal would act on
is shown as its code, and the password of a URL is masked. So a command prints a string as it is, and gives it
a style with `Text` alone.
"""

import json
import logging
from collections.abc import Callable, Iterable
from typing import Any

import typer
from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from transforms.core.events import RESULT, Event, is_json, log_event
from transforms.core.secrets import mask_secrets, mask_values


def escape_line(text: str | None) -> str:
    """`text` on one line: what does not print (line ends, escape codes, marks of direction) is shown as its
    code. Nothing of one that is null."""
    if text is None or text.isprintable():
        return text or ""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def escape_text(text: str) -> str:
    """The text, of one line or several, safe for a terminal."""
    return "\n".join(map(escape_line, mask_secrets(text).split("\n")))


def print_json(value: Any, default: Callable[[Any], Any] | None = None) -> None:
    """Print a value as JSON in ASCII on stdout."""
    typer.echo(json.dumps(mask_values(value), indent=2, default=default).replace("\x7f", "\\u007f"))


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


def announce(event: Event, style: str = "", **fields: Any) -> None:
    """Report an event on stderr: its text, or the event itself where the log is JSON."""
    if is_json():
        log_event(event, **fields)
        return
    head, colon, rest = event.format(fields).partition(":")
    err.print(style_head(style, head + colon, rest))


def print_result(text: str) -> None:
    """Say on stdout how long work has ended; where the log is JSON, it is an event."""
    if is_json():
        log_event(RESULT, message=text)
    else:
        out.print(text)
