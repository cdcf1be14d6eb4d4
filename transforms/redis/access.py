"""The permissions that a user of Redis needs: the one list of commands and keys.

Docs and messages show this list, and tests run every command of kpiflow under exactly these permissions.
"""

from typing import NamedTuple

KEY = "KEY"
"""Stands for the stream that is read or written."""
LEASES = "kpiflow:*"
"""Keys of a group: which job reads a stream (`transforms.sources.redis.lease`), and what it has committed;
and the cursor of a relay."""
LIVE_STREAMS = ("kpi_enriched", "kpi_outliers")
"""The streams of `kpiflow stream --live`."""


class Grant(NamedTuple):
    """Commands on some keys (patterns of Redis' ACL); without keys: commands that name none."""

    commands: tuple[str, ...]
    keys: tuple[str, ...] = ()


_ANY = ("info", "ping", "select")
_CONTENT = Grant(("type", "xinfo|stream", "xrange"), (KEY,))

ACL: dict[str, tuple[Grant, ...]] = {
    "stream": (
        Grant((*_ANY, "exec", "multi", "time")),
        Grant(
            (
                "eval",
                "type",
                "xgroup|create",
                "xgroup|setid",
                "xinfo|groups",
                "xinfo|stream",
                "xpending",
                "xrange",
                "xread",
            ),
            (KEY,),
        ),
        Grant(("del", "eval", "get", "pttl", "set"), (LEASES,)),
    ),
    "stream --live": (Grant(("type", "xadd"), LIVE_STREAMS),),
    "status": (Grant((*_ANY, "time")), Grant(("xinfo|stream",), (KEY,))),
    "reconcile": (
        Grant(_ANY),
        Grant(("type", "xinfo|groups", "xinfo|stream", "xrange"), (KEY,)),
        Grant(("get",), (LEASES,)),
    ),
    "archive": (Grant(_ANY), _CONTENT),
    "relay": (
        Grant((*_ANY, "time")),
        Grant(("type", "xadd"), (KEY,)),
        Grant(("eval",), (KEY, LEASES)),
        Grant(("del", "get", "hget", "hgetall", "hincrby", "hset", "pttl", "set"), (LEASES,)),
    ),
    "serve": (Grant(_ANY), Grant(("exists", "type", "xinfo|stream", "xrange", "xread"), LIVE_STREAMS[:1])),
    "generate": (
        Grant((*_ANY, "client|info", "client|kill", "time")),
        Grant(("exists", "type", "xadd", "xinfo|stream", "xrange"), (KEY,)),
    ),
}
"""What each command of kpiflow needs; `stream --live` is what --live needs beside `stream`, `doctor` what the
job needs."""


def make_rules(*uses: str, key: str = KEY) -> str:
    """The rules of `ACL SETUSER` for some keys of ACL: one selector for each set of keys, so no key is open
    to more."""
    grants: dict[tuple[str, ...], set[str]] = {}
    for use in uses:
        for grant in ACL[use]:
            grants.setdefault(grant.keys, set()).update(grant.commands)
    return " ".join(_make_selector(keys, sorted(commands), key) for keys, commands in sorted(grants.items()))


def _make_selector(keys: tuple[str, ...], commands: list[str], key: str) -> str:
    words = [
        *(f"~{key if pattern == KEY else pattern}" for pattern in keys),
        *(f"+{command}" for command in commands),
    ]
    return f"({' '.join(words)})" if keys else " ".join(words)
