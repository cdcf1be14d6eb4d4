"""Records as messages: when each is received, which are repeated or spoiled, and their text."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.synthetic.columns import SECOND
from pipelines.synthetic.dirt import format_json, respell
from pipelines.synthetic.fleet import make_random
from pipelines.synthetic.json_columns import format_times, replace_rows
from pipelines.synthetic.messages import COPY, FIRST_DIRT, REPORT, RESPELLED, Messages
from pipelines.synthetic.records.dirt import DIRT, TIME_FIELDS
from pipelines.synthetic.records.tasks import Integers

_MEAN_COPY_GAP = 120 * SECOND
_LONGEST_COPY_GAP = 3000 * SECOND
_LONGEST_SPOILED_GAP = 60 * SECOND


@dataclass(frozen=True)
class RecordStream:
    """The messages of one schema, and `format(rows)`, which gives the text of valid records, string[k]."""

    schema: str
    messages: Messages
    format: Callable[[Integers], pa.StringArray]

    def format_payloads(
        self, row: Integers, kind: Integers, received: Integers, bare: bool
    ) -> pa.StringArray:
        """The payloads of messages, string[k]: see Messages.

        Unless they are `bare`, a payload that is not an object becomes a JSON string.
        """
        texts = self.format(row)
        unusual = kind > COPY
        if unusual.any():
            chosen = zip(
                texts.filter(pa.array(unusual)).to_pylist(),
                kind[unusual].tolist(),
                row[unusual].tolist(),
                received[unusual].tolist(),
            )
            texts = replace_rows(
                texts, unusual, [_format_unusual(self.schema, *each, bare) for each in chosen]
            )
        return texts

    def count_fates(self, accepted: int) -> dict[str, Any]:
        """The number of messages of each fate, of which `accepted` are distinct valid records."""
        names = list(DIRT[self.schema])
        spoiled = self.messages.kind[self.messages.kind >= FIRST_DIRT] - FIRST_DIRT
        kinds = {names[place]: int(n) for place, n in enumerate(np.bincount(spoiled)) if n}
        reasons: Counter[str] = Counter()
        for name, count in kinds.items():
            reasons[DIRT[self.schema][name].reason] += count
        return {
            "messages": len(self.messages.kind),
            "accepted": accepted,
            "duplicates": len(self.messages.kind) - accepted - len(spoiled),
            "quarantined": len(spoiled),
            "quarantined_by_reason": dict(reasons),
            "quarantined_by_kind": kinds,
        }


def draw_messages(
    schema: str,
    row: Integers,
    received: Integers,
    copied: NDArray[np.bool_],
    shares: tuple[float, float],
    seed: int,
) -> Messages:
    """The messages of records that are `received` (int64[k], microseconds since 1970), in order of arrival.

    `shares`: of the records, how many of the `copied` ones (bool[k]) are repeated, and how many are sent a
    second time spoiled, within a minute.
    """
    random = make_random(seed, f"messages of {schema}")
    twice, spoiled = (int(share * len(row) + 1e-9) for share in shares)
    places = np.flatnonzero(copied)
    again = random.choice(places, twice) if len(places) else places
    gap = random.exponential(_MEAN_COPY_GAP, len(again)).astype(np.int64)
    wrong = random.choice(len(row), spoiled) if len(row) else np.zeros(0, np.int64)
    later = random.integers(0, _LONGEST_SPOILED_GAP, len(wrong))
    kind = np.concatenate(
        [
            np.full(len(row), REPORT),
            random.integers(COPY, RESPELLED, len(again), endpoint=True),
            FIRST_DIRT + np.arange(len(wrong)) % len(DIRT[schema]),
        ]
    )
    arrival = np.concatenate(
        [received, received[again] + gap.clip(SECOND, _LONGEST_COPY_GAP), received[wrong] + later]
    )
    order = np.argsort(arrival, kind="stable")
    return Messages(np.concatenate([row, row[again], row[wrong]])[order], kind[order], arrival[order])


def _format_unusual(schema: str, record: str, kind: int, number: int, received: int, bare: bool) -> str:
    """The text of a respelled or spoiled record, as a JSON string if an envelope cannot hold it otherwise."""
    if kind == RESPELLED:
        return respell(record)
    dirt = list(DIRT[schema].values())[kind - FIRST_DIRT]
    content = orjson.loads(record)
    if dirt.shift_seconds:
        moved = np.array([received + dirt.shift_seconds * SECOND])
        content[TIME_FIELDS[schema]] = format_times(moved)[0].as_py() + "Z"
    payload = dirt.spoil(content, number)
    if isinstance(payload, dict):
        return format_json(payload)
    return payload if bare else orjson.dumps(payload).decode()
