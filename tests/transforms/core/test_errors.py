"""Errors that come from another process as text."""

import traceback

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from transforms.core.errors import DamagedFile, OutputFull, Refused, Unavailable, find_error
from transforms.redis.errors import RedisUnavailable


def raise_it(error: Exception) -> None:
    raise error


def format_error(error: Exception) -> str:
    try:
        raise error
    except Exception:
        return traceback.format_exc()


@pytest.mark.parametrize(
    "error",
    [
        OutputFull("no space left for /data; free some"),
        DamagedFile("a.parquet has 3 bytes of 4; restore it"),
        Refused("it is not permitted: role 'x' [a]; ask"),
        Unavailable("http://h:1 is unavailable (503)"),
        RedisUnavailable("Redis at redis://h cannot be reached; start it"),
        Refused("the server said:\n  no\n  never; ask"),
    ],
)
def test_an_error_of_a_step_is_found_in_the_text_of_a_traceback(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, beam.Pipeline(FnApiRunner()) as root:
        _ = root | beam.Create([error]) | "Write it" >> beam.Map(raise_it)
    for cause in (error, raised.value):
        of_java = f"Error received from SDK harness for 7: {format_error(cause)}\tat java.base/java.lang.X"
        for text in (format_error(cause), of_java, of_java.replace("\tat", "\n\tat")):
            found = find_error(text)
            assert (type(found), str(found)) == (type(error), str(error))


def test_the_cause_is_found_and_not_what_it_led_to() -> None:
    try:
        try:
            raise OutputFull("the disk is full")
        except OutputFull as error:
            raise Unavailable("the output is unavailable") from error
    except Unavailable:
        assert repr(find_error(traceback.format_exc())) == repr(OutputFull("the disk is full"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        format_error(ValueError("transforms.core.errors.Refused: a message that names an error")),
        format_error(KeyError("x")),
        "    raise transforms.core.errors.Refused: no\n",
        "transforms.core.errors.Refusedly: no\n",
        "java.lang.RuntimeException: transforms.core.errors.Refused: no",
    ],
)
def test_other_errors_are_none_of_these(text: str) -> None:
    assert find_error(text) is None
