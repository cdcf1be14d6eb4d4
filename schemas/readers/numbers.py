"""The numbers of JSON text by their value: equal values have one text, however they are spelt.

`loads` keeps each value, as `Exact` if float64 has not enough digits; `dumps` writes it. A number beyond the
range of float64 is an error.
"""

import json
import re
from math import isinf
from typing import Any

import orjson

_ZEROS = 21
"""An integer with at most so many zeros at its end is written out, a larger one with an exponent."""
_WRITTEN_OUT = 10.0 ** (17 + _ZEROS + 1)
"""No float from here on is written out: it has at most 17 digits before its zeros."""
_INT64_DIGITS = 18
_NUMBER = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([-+]?[0-9]+))?")
_DOUBTFUL = re.compile(rb"[:,\[ \t\r\n]-?[0-9](?:[0-9.]{15}|[0-9.]*[eE])[-+0-9.eE]*")
"""A number with an exponent, or more digits than every float64 keeps, and the byte before it.

It may be part of a string."""
_LONG = bytes.maketrans(b"123456789.", b"0000000000")
_SHORT = bytes.maketrans(b",[ \t\r\nE", b"::::::e")
"""How `_perhaps_doubtful` looks at bytes."""
_PERHAPS_WHOLE = re.compile(rb"\.0(?![0-9])|[0-9]e")
"""What the text of a float holds that is an integer. In a string it means nothing."""


class Exact(float):
    """A number whose digits float64 does not keep; `text` is the one spelling of its value."""

    text: str

    def __new__(cls, value: float, text: str) -> "Exact":
        number = super().__new__(cls, value)
        number.text = text
        return number

    def __reduce__(self) -> tuple[type, tuple[float, str]]:
        return Exact, (float(self), self.text)


NUMBERS = (int, float, Exact)
"""The types of a number that `loads` gives."""


def loads(text: bytes) -> Any:
    """The value of strict JSON text: a number is an int of 64 bits, a float that is exact, or Exact.

    Raises:
        ValueError: not JSON, or a number beyond float64.
    """
    value = orjson.loads(text)
    if _perhaps_doubtful(text) and any(map(_loses, set(_DOUBTFUL.findall(b" " + text)))):
        return json.loads(text, parse_int=read_number, parse_float=read_number)
    return value


def dumps(value: Any) -> str:
    """The one JSON text of a value that `loads` gave: names sorted, no spaces, UTF-8."""
    text = orjson.dumps(value, default=_fragment, option=orjson.OPT_SORT_KEYS)
    if _PERHAPS_WHOLE.search(text):
        text = orjson.dumps(_whole(value), default=_fragment, option=orjson.OPT_SORT_KEYS)
    return text.decode()


def read_number(token: str) -> int | float:
    """A number by the value of its JSON text.

    Raises:
        ValueError: beyond float64, or an exponent of thousands of digits.
    """
    value = float(token)
    if isinf(value):
        raise ValueError("a number beyond float64")
    sign, digits, exponent = _parts(token)
    if not digits:
        return 0
    if 0 <= exponent <= _ZEROS:
        whole = digits + "0" * exponent
        return int(sign + whole) if len(whole) <= _INT64_DIGITS else Exact(value, sign + whole)
    if _parts(repr(value)) == (sign, digits, exponent):
        return value
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return Exact(value, f"{sign}{digits[0]}{fraction}e{exponent + len(digits) - 1:+d}")


def _whole(value: Any) -> Any:
    """The value with floats that are integers as integers."""
    if type(value) is float:
        return read_number(repr(value)) if abs(value) < _WRITTEN_OUT and value.is_integer() else value
    if type(value) is dict:
        return {name: _whole(inner) for name, inner in value.items()}
    return [_whole(inner) for inner in value] if type(value) is list else value


def _parts(token: str) -> tuple[str, str, int]:
    """Sign, digits without zeros at either end (none of zero), and the power of ten that they count."""
    found = _NUMBER.fullmatch(token)
    assert found is not None, token
    sign, whole, fraction, exponent = found.groups("")
    digits = (whole + fraction).lstrip("0")
    kept = digits.rstrip("0")
    return sign, kept, int(exponent or 0) - len(fraction) + len(digits) - len(kept)


def _perhaps_doubtful(text: bytes) -> bool:
    """False if _DOUBTFUL finds nothing in a text, at half its cost.

    Once digits are deleted, an exponent is right behind a separator.
    """
    return b"0" * 16 in text.translate(_LONG) or b":e" in (b":" + text).translate(_SHORT, b"-.0123456789")


def _loses(token: bytes) -> bool:
    """Whether a token is a number that int64 and the shortest text of its float64 do not give again."""
    number = token[1:].decode()
    if number.lstrip("-").isdecimal():
        return len(number) > _INT64_DIGITS
    try:
        shortest = repr(float(number))
    except ValueError:  # a part of a string
        return False
    if number in (shortest, shortest.replace("e+", "e")):  # most numbers, without taking them apart
        return False
    return _NUMBER.fullmatch(number) is not None and (
        shortest.endswith("inf") or _parts(shortest) != _parts(number)
    )


def _fragment(number: Any) -> orjson.Fragment:
    if isinstance(number, Exact):
        return orjson.Fragment(number.text)
    raise TypeError(f"{type(number).__name__} is no JSON value")
