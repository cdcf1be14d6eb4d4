"""Reports as messages: which are valid, late, repeated or spoiled, when each is received, and its line."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.synthetic.columns import SECOND, Columns
from pipelines.synthetic.dirt import DIRT, format_json, list_kinds, respell
from pipelines.synthetic.fleet import Fleet, make_random
from pipelines.synthetic.json_columns import format_reports, format_times, join, replace_rows

REPORT, COPY, RESPELLED, FIRST_DIRT = 0, 1, 2, 3
_DIRT_NAMES = tuple(DIRT)
_LATE = (61 * SECOND, 3000 * SECOND)
_LAST_COPY = 3300 * SECOND
_MEAN_COPY_GAP = 120 * SECOND


@dataclass(frozen=True)
class Mix:
    """The number of messages, and the shares that are spoiled, repeated, late, or outliers.

    Raises:
        ValueError: a share outside [0, 1], shares that leave no ordinary report, or no message.
    """

    messages: int
    dirty: float = 0.05
    duplicates: float = 0.02
    late: float = 0.01
    outliers: float = 0.01

    def __post_init__(self) -> None:
        if self.messages < 1:
            raise ValueError(f"{self.messages} messages cannot be written; ask for 1 or more")
        shares = {name: getattr(self, name) for name in ("dirty", "duplicates", "late", "outliers")}
        for name, share in shares.items():
            check_share(name, share)
        if sum(shares.values()) > 1 - 1e-6:
            said = " + ".join(f"{name} {share}" for name, share in shares.items())
            raise ValueError(f"{said} leave no ordinary report; the shares must add up to less than 1")

    def count(self, share: float) -> int:
        """The number of messages of a share.

        The small addend undoes the rounding of products like 0.29 * 100.
        """
        return int(share * self.messages + 1e-9)

    @property
    def rows(self) -> int:
        """Messages that are not repetitions: the distinct reports, valid or spoiled."""
        return self.messages - self.count(self.duplicates)


def check_share(name: str, share: float) -> None:
    """Raises:
    ValueError: `share` is outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"{name} = {share} is not a share; give a number from 0 to 1")


@dataclass(frozen=True)
class Fates:
    """The fate of n reports: `kind` int64[n] (REPORT, or FIRST_DIRT + place in DIRT), `late` bool[n]."""

    kind: NDArray[np.int64]
    late: NDArray[np.bool_]

    @property
    def good(self) -> NDArray[np.bool_]:
        """bool[n]: the valid reports."""
        return self.kind == REPORT


@dataclass(frozen=True)
class Messages:
    """m messages in order of arrival.

    `row` int64[m] of the columns, `kind` int64[m], `received` int64[m] microseconds since 1970.
    """

    row: NDArray[np.int64]
    kind: NDArray[np.int64]
    received: NDArray[np.int64]

    @cached_property
    def ids(self) -> pa.StringArray:
        """Ids like those of a Redis stream, string[m]: the millisecond of arrival, and a number within it."""
        millis = self.received // 1000
        _, first, place = np.unique(millis, return_index=True, return_inverse=True)
        return join([pa.array(millis), "-", pa.array(np.arange(len(millis)) - first[place])])

    def by_kind(self) -> dict[str, int]:
        """The number of spoiled messages of each kind of dirt that occurs."""
        counts = np.bincount(self.kind, minlength=FIRST_DIRT + len(_DIRT_NAMES))[FIRST_DIRT:]
        return {name: int(count) for name, count in zip(_DIRT_NAMES, counts) if count}


def deal_fates(mix: Mix, seed: int, bare: bool) -> Fates:
    """Choose which of `mix.rows` reports are spoiled, all kinds alike, and which of the others are late."""
    random = make_random(seed, "fates")
    dirty, late = mix.count(mix.dirty), mix.count(mix.late)
    places = np.array([_DIRT_NAMES.index(name) for name in list_kinds(bare)])
    order = random.permutation(mix.rows)
    kind = np.full(mix.rows, REPORT)
    kind[order[:dirty]] = FIRST_DIRT + places[np.arange(dirty) % len(places)]
    is_late = np.zeros(mix.rows, bool)
    is_late[order[dirty : dirty + late]] = True
    return Fates(kind, is_late)


def draw_arrivals(recorded: NDArray[np.int64], fates: Fates, mix: Mix, seed: int) -> Messages:
    """Draw the arrival of each report and of its copies.

    A report arrives some milliseconds to 2 s after it was recorded, a late one 61 s to 50 min.
    """
    random = make_random(seed, "arrival")
    count = len(recorded)
    delay = np.minimum(2000 + random.exponential(0.2 * SECOND, count), 2 * SECOND).astype(np.int64)
    received = recorded + np.where(fates.late, random.integers(*_LATE, count), delay)
    copied = random.choice(np.flatnonzero(fates.good), mix.count(mix.duplicates))
    gap = random.exponential(_MEAN_COPY_GAP, len(copied)).astype(np.int64)
    again = received[copied] + np.clip(gap, SECOND, recorded[copied] + _LAST_COPY - received[copied])
    row = np.concatenate([np.arange(count), copied])
    kind = np.concatenate([fates.kind, random.integers(COPY, RESPELLED, len(copied), endpoint=True)])
    arrival = np.concatenate([received, again])
    order = np.argsort(arrival, kind="stable")
    return Messages(row[order], kind[order], arrival[order])


def format_lines(messages: Messages, block: slice, columns: Columns, fleet: Fleet, bare: bool) -> memoryview:
    """The messages of a block as newline-delimited JSON: bare reports, or envelopes."""
    texts = format_block(messages, block, columns, fleet, bare)
    return view_bytes(join([texts, "\n"]) if bare else format_envelopes(messages, block, texts))


def format_envelopes(
    messages: Messages, block: slice, payloads: pa.StringArray, source: str = ""
) -> pa.StringArray:
    """The messages of a block as lines, each an envelope with its newline; `source`, unless it is empty."""
    head = f'{{"source":"{source}","message_id":"' if source else '{"message_id":"'
    times = format_times(messages.received[block])
    return join([head, messages.ids[block], '","received_at":"', times, 'Z","data":', payloads, "}\n"])


def format_block(
    messages: Messages, block: slice, columns: Columns, fleet: Fleet, bare: bool
) -> pa.StringArray:
    """The payloads of the messages of a block: see `format_payloads`."""
    kind, received, row = messages.kind[block], messages.received[block], messages.row[block]
    return format_payloads(shift_times(columns.take(row), kind, received), kind, row, fleet, bare)


def format_payloads(
    columns: Columns, kind: NDArray[np.int64], row: NDArray[np.int64], fleet: Fleet, bare: bool
) -> pa.StringArray:
    """The payloads of the columns, string[n], repeated or spoiled by their kinds; `row` selects a variant.

    Unless they are `bare`, a payload that is not an object becomes a JSON string.
    """
    texts = format_reports(columns, fleet)
    unusual = kind > COPY
    if unusual.any():
        triples = zip(
            texts.filter(pa.array(unusual)).to_pylist(), kind[unusual].tolist(), row[unusual].tolist()
        )
        texts = replace_rows(texts, unusual, [_format_payload(*triple, bare) for triple in triples])
    return texts


def shift_times(columns: Columns, kind: NDArray[np.int64], received: NDArray[np.int64]) -> Columns:
    """The columns with recorded_at moved in stale and future reports."""
    shifts = np.array([0] * FIRST_DIRT + [dirt.shift_seconds * SECOND for dirt in DIRT.values()])[kind]
    return replace(columns, recorded=np.where(shifts, received + shifts, columns.recorded))


def _format_payload(report: str, kind: int, number: int, bare: bool) -> str:
    """The text of a copy or a spoiled report, as a JSON string if an envelope cannot hold it otherwise."""
    if kind == RESPELLED:
        return respell(report)
    payload = DIRT[_DIRT_NAMES[kind - FIRST_DIRT]].spoil(orjson.loads(report), number)
    if isinstance(payload, dict):
        return format_json(payload)
    return payload if bare else orjson.dumps(payload).decode()


def view_bytes(texts: pa.StringArray | pa.BinaryArray) -> memoryview:
    """The values of a newly built array, without a copy."""
    _, offsets, values = texts.buffers()
    return memoryview(values)[: np.frombuffer(offsets, np.int32)[len(texts)]]
