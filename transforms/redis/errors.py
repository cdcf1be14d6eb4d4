"""What an error of the Redis client means to a user of kpiflow: its cause, and what to do."""

import redis
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from transforms.core.errors import Unavailable
from transforms.redis.access import make_rules

MAKE_ROOM = (
    "raise maxmemory, or trim what every reader has read: XTRIM KEY MINID <last-delivered-id of the group>"
)
"""What helps a Redis whose memory is full."""
_NOT_ALLOWED = ("NOPERM", "EXEC without MULTI", "ACL failure in script")


class RedisUnavailable(Unavailable):
    """Redis cannot be used. The message names the cause and the fix."""


def explain_error(error: redis.RedisError) -> str:
    """What Redis, or the connection to it, does: the cause and the fix, without a subject."""
    text = str(error)
    if isinstance(error, AuthenticationError | AuthorizationError) or text.startswith(
        ("NOAUTH", "WRONGPASS")
    ):
        return (
            f"refuses this user or password ({text}); set redis_user and redis_password "
            "(KPIFLOW_REDIS_PASSWORD)"
        )
    if isinstance(error, NoPermissionError) or any(sign in text for sign in _NOT_ALLOWED):
        return (
            f"does not allow a command or key ({text}); give the user the ACL that a stream needs: "
            f"{make_rules('stream')}, as docs/operations.md explains"
        )
    if text.startswith("READONLY") or isinstance(error, ReadOnlyError):
        return f"is a replica that takes no writes ({text}); give the URL of its primary"
    if isinstance(error, OutOfMemoryError):
        return f"has no memory left ({text}); {MAKE_ROOM}"
    if isinstance(error, BusyLoadingError):
        return "is still loading its data; try again later"
    if isinstance(error, ResponseError):
        return f"refuses a command ({text})"
    if any(word in text for word in ("SSL", "ssl", "certificate")):
        return (
            f"fails at TLS ({text}); use rediss:// with TLS 1.3, redis_ca for its authority, "
            "and redis_certificate with redis_key if it asks for them"
        )
    if "closed by server" in text or "reset by peer" in text:
        return (
            f"closes the connection ({text}); a port that speaks TLS needs rediss://, "
            "and a server may be full (maxclients)"
        )
    return (
        f"cannot be reached ({text}); start it, or correct the host and port; "
        "rediss:// is for a port that speaks TLS"
    )
