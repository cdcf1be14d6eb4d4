"""Generated messages as Protocol Buffers: their payloads, their envelopes, and what that changes of their
fates."""

import json
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipelines.synthetic.dirt import DIRT, Dirt
from pipelines.synthetic.json_columns import format_times, join
from pipelines.synthetic.messages import Messages
from pipelines.synthetic.records.dirt import DIRT as RECORD_DIRT
from schemas.readers.compiler import Node
from schemas.registry import load
from transforms.core.message_encodings import PROTOBUF

TEXTS = frozenset({"broken_json", "array"})
"""Kinds of dirt that only text can have. Their payloads stay text, which is no message."""


def encode_payloads(kind: str, texts: pa.StringArray) -> pa.BinaryArray:
    """JSON texts as payloads of the message of a kind, binary[n]; a text that is no object stays as it is.

    A name that is there twice is there as a field and in `extra`.
    """
    root = load(kind).root
    return pa.array([_encode(kind, root, text) for text in texts.to_pylist()], pa.binary())


def _encode(kind: str, root: Node, text: str) -> bytes:
    from schemas.protobuf.encode import (
        encode_document,  # takes a while, and generated messages mostly are JSON
    )

    pairs: list[tuple[str, Any]] = []

    def keep(members: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs[:] = members  # those of the outermost object come last
        return dict(members)

    try:
        document = json.loads(text, object_pairs_hook=keep)
    except ValueError:
        return text.encode()
    if not isinstance(document, dict):
        return text.encode()
    first = dict(reversed(pairs))
    repeated = pairs[len(first) :] if len(first) < len(pairs) else ()  # dirt repeats a name at the end
    return encode_document(kind, root, first, repeated)


def format_encoded(
    messages: Messages, block: slice, payloads: pa.BinaryArray, source: str = ""
) -> pa.StringArray:
    """The messages of a block as lines, each an envelope with its newline; `source`, unless it is empty."""
    head = f'{{"source":"{source}","message_id":"' if source else '{"message_id":"'
    times = format_times(messages.received[block])
    texts = pa.array([b64encode(octets) for octets in payloads.to_pylist()], pa.binary()).cast(pa.string())
    middle = f'Z","encoding":"{PROTOBUF}","data":"'
    return join([head, messages.ids[block], '","received_at":"', times, middle, texts, '"}\n'])


def fit_truth(truth: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `truth.json`, of messages of JSON, for the same messages as Protocol Buffers."""
    fitted = _fit_reasons(truth, DIRT) | {"encoding": PROTOBUF}
    if "records" in truth:
        fates = truth["records"]["fates"]
        fitted["records"] = truth["records"] | {
            "fates": {name: _fit_reasons(each, RECORD_DIRT[name]) for name, each in fates.items()}
        }
    return fitted


def _fit_reasons(fates: Mapping[str, Any], dirt: Mapping[str, Dirt]) -> dict[str, Any]:
    reasons: Counter[str] = Counter()
    for name, count in fates["quarantined_by_kind"].items():
        reasons[PROTOBUF if name in TEXTS else dirt[name].reason] += count
    return {**fates, "quarantined_by_reason": dict(reasons)}
