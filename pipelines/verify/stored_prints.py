"""Fingerprints of what an output holds: of its messages by fate and kind, and of the keys of its records."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.verify.expired import ExpiryRule
from pipelines.verify.fingerprints import Prints, find_among
from pipelines.verify.record_keys import read_repeated_keys, split_stored_kinds
from schemas.kinds import KIND_OF_TABLE, Kind
from schemas.tables import CLOSED, DISMISSED, DUPLICATES, MESSAGE_KEY, Table
from transforms.core.hashing import fingerprint_rows
from transforms.sinks.parquet.output_files import OutputFile
from transforms.sinks.row_merge import format_keys


class Row(Enum):
    """What a row says of its message."""

    STORED = "it is a report or a record"
    DUPLICATE = "it repeats one that is stored"
    DANGLING = "it repeats one that is not stored"
    REJECTED = "it is in quarantine"
    CLOSED = "it was in quarantine, and replayed"
    FADED = "it points to what may have expired: it repeats it, or was replayed; the latter is CLOSED too"
    DISMISSED = "it is in quarantine, and was dismissed; it counts as REJECTED too"


MessageSets = dict[tuple[Row, str], Prints]
"""Fingerprints of messages (source, message_id), by what their rows say and by kind."""


@dataclass
class StoredPrints:
    """Fingerprints of the rows of an output, file by file.

    `messages`: (source, message_id) of the rows of FATES. By kind: `keys` of what is stored (kinds whose
    records have an id), and `repeated`, the keys of duplicates in the order of their messages, with `faded`,
    whether by the `rule` that may have expired. `damaged` files prove nothing, so their messages have no
    fate.
    """

    rule: ExpiryRule = field(default_factory=ExpiryRule)
    damaged: set[OutputFile] = field(default_factory=set)
    messages: dict[tuple[Row, str], list[Prints]] = field(default_factory=lambda: defaultdict(list))
    keys: dict[str, list[Prints]] = field(default_factory=lambda: defaultdict(list))
    repeated: dict[str, list[Prints]] = field(default_factory=lambda: defaultdict(list))
    faded: dict[str, list[NDArray[np.bool_]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, table: Table, rows: pa.RecordBatch) -> None:
        """Add the rows of a file of one of FATES: MESSAGE_KEY, the key, and the columns about fates."""
        if kind := KIND_OF_TABLE.get(table.name):
            self._add_stored(kind, rows)
        elif table == DUPLICATES:
            for name, part in split_stored_kinds(rows):
                self.messages[Row.DUPLICATE, name].append(fingerprint_messages(part))
                self.repeated[name].append(fingerprint_rows([read_repeated_keys(part)]))
                self.faded[name].append(self.rule.may_have_expired(name, part))
        else:
            for name, part in split_stored_kinds(rows):
                self._add_quarantined(name, part)

    def _add_stored(self, kind: Kind, rows: pa.RecordBatch) -> None:
        self.messages[Row.STORED, kind.schema].append(fingerprint_messages(rows))
        if kind.record_id is not None:
            self.keys[kind.schema].append(fingerprint_rows([format_keys(kind, rows)]))

    def _add_quarantined(self, kind: str, rows: pa.RecordBatch) -> None:
        prints = fingerprint_messages(rows)
        closed = np.asarray(pc.is_in(rows["resolution"], pa.array(CLOSED)))
        dismissed = np.asarray(pc.is_in(rows["resolution"], pa.array([DISMISSED])))
        faded = closed & self.rule.may_have_expired(kind, rows)
        chosen_rows = {Row.REJECTED: ~closed, Row.CLOSED: closed, Row.DISMISSED: dismissed, Row.FADED: faded}
        for row, chosen in chosen_rows.items():
            if chosen.any():
                self.messages[row, kind].append(prints[chosen])

    def join_messages(self, dangling: dict[str, Prints]) -> MessageSets:
        """All messages. `dangling`: by kind the keys that duplicates repeat although they are not stored."""
        sets = {place: join_prints(parts) for place, parts in self.messages.items()}
        for kind, keys in dangling.items():
            if len(keys):
                messages = sets.pop((Row.DUPLICATE, kind))
                dangles = find_among(join_prints(self.repeated[kind]), keys)
                faded = dangles & np.concatenate(self.faded[kind])
                sets[Row.DUPLICATE, kind], sets[Row.DANGLING, kind] = (
                    messages[~dangles],
                    messages[dangles & ~faded],
                )
                closed = sets.get((Row.FADED, kind), messages[:0])
                sets[Row.FADED, kind] = join_prints([closed, messages[faded]])
        return sets

    def join_lasting(self, kind: str) -> Prints:
        """The keys of a kind that duplicates repeat, without those that may have expired."""
        repeated = join_prints(self.repeated[kind])
        return repeated[~np.concatenate([np.zeros(0, np.bool_), *self.faded[kind]])]


def fingerprint_messages(rows: pa.RecordBatch) -> Prints:
    """uint64[n, 2]: the message of each row."""
    return fingerprint_rows([rows[name] for name in MESSAGE_KEY])


def join_prints(prints: Sequence[Prints]) -> Prints:
    """All fingerprints as one array, uint64[n, 2]."""
    return np.concatenate([np.zeros((0, 2), np.uint64), *prints])
