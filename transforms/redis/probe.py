"""Trying a command of Redis so that it changes nothing, to see whether it is allowed; and what a refusal
says."""

import re
from typing import Any

import redis
from redis.exceptions import OutOfMemoryError

from transforms.core.errors import Finding

NO_ID = "no-id"
"""An id that no entry can have: a command that gets it is checked for permission, and then fails."""
_HARMLESS = (
    "no such key",
    "NOGROUP",
    "Invalid stream ID",
    "requires the key to exist",
    "must be greater than 0-0",
)
"""Parts of the errors that probes provoke. Another harmless one is that memory is full: reading continues."""


def try_command(client: Any, *words: str) -> None:
    """Run a command that cannot change anything, because its id is none or its key need not exist.

    Raises:
        redis.RedisError: it failed for another reason than that.
    """
    try:
        client.execute_command(*words)
    except redis.ResponseError as error:
        if not isinstance(error, OutOfMemoryError) and not any(part in str(error) for part in _HARMLESS):
            raise


def find_problem(what: str, error: Exception) -> Finding:
    """The finding for an error: its message is `problem; fix`, split at the first semicolon outside
    brackets."""
    problem, *fix = re.split(r"; (?![^(]*\))", str(error), maxsplit=1)
    return Finding(what, problem, "".join(fix))
