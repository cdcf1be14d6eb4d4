"""Commands that Redis runs at one moment, also while its memory is full."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import redis
from redis.exceptions import OutOfMemoryError

# May run while Redis is over maxmemory, and runs as a whole at one moment.
_TRANSACTION = """#!lua flags=allow-oom
local replies, at = {}, 1
while at <= #ARGV do
  local size = tonumber(ARGV[at])
  replies[#replies + 1] = redis.pcall(unpack(ARGV, at + 1, at + size))
  at = at + size + 1
end
return replies
"""


def transact(client: redis.Redis, keys: Sequence[str], commands: Iterable[Sequence[Any]]) -> list[Any]:
    """The replies to commands on some keys, run at one moment; an error is a reply.

    It works while Redis is over its maxmemory too. There, Redis before 8.0 refuses every command of a MULTI,
    even those that read, and every version those that write. A script may declare that it runs all the same.
    It is slower, so it is used only then; what it writes must be small.

    Raises:
        redis.RedisError: Redis cannot be reached, or refuses the whole.
    """
    commands = list(commands)
    try:
        with client.pipeline(transaction=True) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = pipeline.execute(raise_on_error=False)
        return replies
    except OutOfMemoryError:
        words = [[*command[0].split(), *command[1:]] for command in commands]
        raw: Any = client.eval(
            _TRANSACTION, len(keys), *keys, *chain.from_iterable([len(each), *each] for each in words)
        )
        return [_parse_reply(client, command[0], reply) for command, reply in zip(commands, raw)]


def write_small(client: redis.Redis, key: str, *command: Any) -> None:
    """Run one small command that writes a key, also while Redis is over its maxmemory.

    Raises:
        redis.RedisError: Redis cannot be reached, or refuses.
    """
    (reply,) = transact(client, [key], [command])
    if isinstance(reply, Exception):
        raise reply


def _parse_reply(client: Any, name: str, reply: Any) -> Any:
    """A raw reply as the client gives it for a command of this name."""
    parse = client.response_callbacks.get(name)
    return reply if parse is None or isinstance(reply, Exception) else parse(reply)
