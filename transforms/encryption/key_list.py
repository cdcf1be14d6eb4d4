"""`_keys.json`: the monthly keys of an output, wrapped by its master key. Pure functions of its content.

```
{"version": 1, "output": "5f0c...", "rotated": "2026-11-27T12:00:00Z",
 "keys": [{"id": "2026-11-1a2b3c4d", "created": "...", "wrapped": {"mk-9e107d9d": "BASE64"}}]}
```
A key may be wrapped by two versions of the master key: the current one and the one before. `output` (random)
and the key's id are authenticated with each wrapping, so an entry of another output, or under another id,
does not open.
"""

import base64
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from transforms.core.key_wrapping import ID_LENGTH, KEY_BYTES, MonthKey
from transforms.core.typed_json import parse_json
from transforms.encryption.master_key import KeyRefused, KeyWrapper

KEYS = "_keys.json"
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class WrappedKey:
    """A key in the list, wrapped by each of some versions of the master key."""

    id: str
    created: datetime
    wrapped: Mapping[str, bytes]


@dataclass(frozen=True)
class KeyList:
    """The content of `_keys.json`. `rotated`: when the master key's version was last changed."""

    output: str
    rotated: datetime
    keys: tuple[WrappedKey, ...]

    def find_for(self, now: datetime) -> WrappedKey | None:
        """The key with which is encrypted in this month (UTC)."""
        return next((key for key in reversed(self.keys) if key.id.startswith(f"{now:%Y-%m}-")), None)

    def count_versions(self) -> dict[str, int]:
        """By version of the master key, how many keys it can open."""
        found: dict[str, int] = {}
        for key in self.keys:
            for version in key.wrapped:
                found[version] = found.get(version, 0) + 1
        return found


def begin_list(now: datetime) -> KeyList:
    """The list of a new output, without a key."""
    return KeyList(secrets.token_hex(16), now, ())


def add_key(keys: KeyList, wrapper: KeyWrapper, now: datetime) -> KeyList:
    """The list with a new key of this month at its end."""
    version, name = wrapper.find_current(), f"{now:%Y-%m}-{secrets.token_hex(4)}"
    wrapped = wrapper.wrap(version, secrets.token_bytes(KEY_BYTES), _make_context(keys, name))
    return replace(keys, keys=(*keys.keys, WrappedKey(name, now, {version: wrapped})))


def open_key(keys: KeyList, key: WrappedKey, wrapper: KeyWrapper) -> MonthKey:
    """A key of the list, opened by the first version that can.

    Raises:
        KeyRefused: none can; the error of the newest one.
    """
    refused: list[KeyRefused] = []
    for version, wrapped in reversed(list(key.wrapped.items())):
        try:
            return MonthKey(key.id, wrapper.unwrap(version, wrapped, _make_context(keys, key.id)))
        except KeyRefused as error:
            refused.append(error)
    raise refused[0]


def wrap_again(keys: KeyList, wrapper: KeyWrapper, now: datetime) -> KeyList:
    """The list with each key under the master key's current version, and the version that was before."""
    current = wrapper.find_current()

    def wrap(key: WrappedKey) -> WrappedKey:
        opened = open_key(keys, key, wrapper)
        before = [each for each in key.wrapped.items() if each[0] != current][-1:]
        wrapped = wrapper.wrap(current, opened.secret, _make_context(keys, key.id))
        return replace(key, wrapped={**dict(before), current: wrapped})

    return replace(keys, rotated=now, keys=tuple(map(wrap, keys.keys)))


def drop_old(keys: KeyList, wrapper: KeyWrapper) -> KeyList:
    """The list with each key under the current version only.

    Raises:
        KeyRefused: a key is not under it.
    """
    current = wrapper.find_current()
    for key in keys.keys:
        if current not in key.wrapped:
            raise KeyRefused(f"{key.id} is not under {current} yet; run `kpiflow keys rotate` first")
    return replace(
        keys, keys=tuple(replace(key, wrapped={current: key.wrapped[current]}) for key in keys.keys)
    )


def format_list(keys: KeyList) -> bytes:
    """The list as JSON."""
    entries = [
        {
            "id": key.id,
            "created": f"{key.created:{_TIME}}",
            "wrapped": {version: base64.b64encode(text).decode() for version, text in key.wrapped.items()},
        }
        for key in keys.keys
    ]
    content = {"version": 1, "output": keys.output, "rotated": f"{keys.rotated:{_TIME}}", "keys": entries}
    return (json.dumps(content, indent=1) + "\n").encode()


def parse_list(data: bytes, where: str) -> KeyList:
    """The list again. `where`: its path or URL, for errors.

    Raises:
        KeyRefused: it is damaged, or a newer kpiflow wrote it.
    """
    try:
        content = parse_json(data, dict[str, Any])
        if content["version"] != 1:
            raise KeyRefused(f"{where} was written by a newer kpiflow; upgrade kpiflow")
        entries = tuple(map(_parse_entry, content["keys"]))
        return KeyList(str(content["output"]), _parse_time(content["rotated"]), entries)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise KeyRefused(f"{where} is damaged ({type(error).__name__}); restore it from a copy") from None


def _parse_entry(entry: Mapping[str, Any]) -> WrappedKey:
    name = str(entry["id"])
    if len(name) != ID_LENGTH or not name.isascii() or not entry["wrapped"]:
        raise ValueError("an entry has another form")
    wrapped = {version: base64.b64decode(text, validate=True) for version, text in entry["wrapped"].items()}
    return WrappedKey(name, _parse_time(entry["created"]), wrapped)


def _parse_time(text: str) -> datetime:
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)


def _make_context(keys: KeyList, name: str) -> bytes:
    return f"kpiflow month key {keys.output} {name}".encode()
