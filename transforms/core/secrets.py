"""Passwords and tokens are masked before a text is shown or logged."""

import re
from typing import Any

_PASSWORD = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@]*):(?!\d+(?:[/?#]|\s|$))\S*@")
_TOKEN = re.compile(r"([?&](?:password|secret|token|key)=)[^&#\s]+", re.IGNORECASE)


def mask_secrets(text: str) -> str:
    """The text with the passwords and tokens of URLs as `***`."""
    return _TOKEN.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text)) if "://" in text else text


def mask_values(value: Any) -> Any:
    """A value of JSON's types with the texts in it masked."""
    if isinstance(value, dict):
        return {mask_values(name): mask_values(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [mask_values(inner) for inner in value]
    return mask_secrets(value) if isinstance(value, str) else value
