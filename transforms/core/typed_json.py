"""JSON that a file or a server gives back, as the types that its reader needs.

Who reads it names the types once, as a TypedDict or a dataclass. What has other types is refused as a whole,
so no code that follows meets a text where it needs a number. Members that the types do not name are left out:
a newer version may have added them.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec

Shape = TypeVar("Shape")

_FIRST, _LAST = -62_135_596_800, 253_402_300_799
"""0001-01-01 and 9999-12-31 in seconds since 1970: the moments that a datetime can have."""
Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


def as_moment(seconds: float) -> datetime:
    """A time since 1970, or the nearest that a datetime can have: ids of a stream may be any number."""
    return datetime.fromtimestamp(min(max(seconds, _FIRST), _LAST), UTC)


def parse_json(data: bytes | str, shape: type[Shape]) -> Shape:
    """The content of a JSON text as a type that msgspec knows.

    Raises:
        ValueError: it is no JSON, or has other types; the message has no part of the text.
    """
    try:
        return msgspec.json.decode(data, type=shape)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(_describe(error)) from error


def convert(content: Any, shape: type[Shape]) -> Shape:
    """What was parsed from JSON as a type that msgspec knows.

    Raises:
        ValueError: it has other types.
    """
    try:
        return msgspec.convert(content, shape)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(_describe(error)) from error


def _describe(error: Exception) -> str:
    if isinstance(error, msgspec.ValidationError):
        return str(error)
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "it is not JSON"
