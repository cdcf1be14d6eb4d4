"""Messages whose rows have expired, as `reconcile` finds them.

A message without a row has the fate `expired` if its row would lie in what has expired. Its payload tells,
which is judged as in a job. Where there is no source, or a message was corrected in a replay, the time at
which it was received tells: a report is recorded at most `stale_seconds` earlier.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.graph import make_rules
from pipelines.maintenance.first_writes import read_expired
from pipelines.settings import Settings
from pipelines.verify.fingerprints import Prints, find_among
from pipelines.verify.output_description import translate_sink_errors
from schemas.kinds import KINDS, Kind
from schemas.tables import DUPLICATES, MESSAGE_KEY, QUARANTINED, WAIVED, find_table
from transforms.core.expiry import NOTHING, Expiry
from transforms.core.hashing import fingerprint_rows
from transforms.sinks.parquet.maintenance_ledger import read_ledger
from transforms.sinks.row_merge import format_keys
from transforms.storage.local_folder import LocalFolder
from transforms.validation.quarantine_rows import quarantine_misfits
from transforms.validation.validate import MessageRules, judge_kinds

Payloads = Callable[[], Iterator[pa.RecordBatch]]
"""Reads the source again, as batches of RAW, and of REJECTED for what is no message."""
Bools = NDArray[np.bool_]


def read_expiry(output: Path) -> Expiry:
    """What has expired in an output folder.

    Raises:
        WrongUse: its maintenance ledger cannot be used.
    """
    with translate_sink_errors():
        return read_ledger(LocalFolder(output))[0].expiry


def read_expired_untimed(output: Path) -> Iterator[pa.RecordBatch]:
    """The messages (MESSAGE_KEY) of an output whose rows had no time and have expired, by table.

    Raises:
        WrongUse: its maintenance ledger, or what is noted of them, cannot be used.
    """
    with translate_sink_errors():
        hot = LocalFolder(output)
        for name, before in read_ledger(hot)[0].untimed_before.items():
            yield read_expired(hot, find_table(name), before)


@dataclass(frozen=True)
class ExpiryRule:
    """Which rows may be about what has expired; nothing, if nothing has.

    Attributes:
        expiry: what has expired in the output.
        rules: those by which its messages were judged.
    """

    expiry: Expiry = NOTHING
    rules: MessageRules = field(default_factory=MessageRules)

    @classmethod
    def of(cls, output: Path, row_settings: Mapping[str, object]) -> "ExpiryRule":
        """The rule of an output with these row settings.

        Raises: as `read_expiry` does.
        """
        settings = Settings.model_construct().model_copy(update=dict(row_settings))
        return cls(read_expiry(output), make_rules(settings))

    def may_have_expired(self, name: str, rows: pa.RecordBatch) -> Bools:
        """bool[n]: which rows of duplicates or quarantine, of messages of a kind, may be about something that
        has expired: by received_at, and for a waiver of recency without a bound."""
        kind = KINDS.get(name)
        start = None if kind is None else self.expiry.find_start(kind.table)
        if kind is None or start is None:
            return np.zeros(rows.num_rows, np.bool_)
        if not kind.is_recent:
            return np.ones(rows.num_rows, np.bool_)
        received = rows["received_at"]
        latest = pa.scalar(start + timedelta(seconds=self.rules.stale_seconds), received.type)
        may = np.asarray(pc.fill_null(pc.less(received, latest), True))
        if "resolution" in rows.schema.names:
            may = may | np.asarray(pc.fill_null(pc.equal(rows["resolution"], WAIVED), False))
        return may

    def judge(
        self, payloads: Payloads, wanted: Prints, stored_keys: Mapping[str, Prints]
    ) -> tuple[Prints, Prints]:
        """Of the messages `wanted`, those of the source that have expired, and those that are valid and have
        not. `stored_keys`: by kind, the keys of what is stored."""
        expired, alive = [], []
        for batch in payloads():
            prints = fingerprint_rows([batch[name] for name in MESSAGE_KEY])
            rows = batch.filter(pa.array(find_among(prints, wanted)))
            if not rows.num_rows:
                continue
            for found, gone in self._judge_batch(rows, stored_keys):
                own = fingerprint_rows([found[name] for name in MESSAGE_KEY])
                expired.append(own[gone])
                if found.schema.names != QUARANTINED.schema.names:
                    alive.append(own[~gone])
        nothing = np.zeros((0, 2), np.uint64)
        return np.concatenate([nothing, *expired]), np.concatenate([nothing, *alive])

    def _judge_batch(
        self, messages: pa.RecordBatch, stored_keys: Mapping[str, Prints]
    ) -> Iterator[tuple[pa.RecordBatch, Bools]]:
        """Rows that messages of the source would be, and which of them would lie in what has expired."""
        if "payload_bytes" in messages.schema.names:
            misfits = quarantine_misfits(messages, self.rules.limits)
            yield misfits, self.expiry.find_expired(QUARANTINED, misfits)
            return
        for kind, found in judge_kinds(messages, self.rules):
            own = self.expiry.find_expired(kind.table, found.rows)
            yield found.rows, own | self._find_repeats(kind, found.rows, stored_keys)
            yield found.quarantine, self.expiry.find_expired(QUARANTINED, found.quarantine)

    def _find_repeats(self, kind: Kind, rows: pa.RecordBatch, stored_keys: Mapping[str, Prints]) -> Bools:
        """bool[n]: which rows repeat one that is stored, and would lie in duplicates that have expired."""
        gone = self.expiry.find_expired(DUPLICATES, rows)
        if not gone.any() or kind.record_id is None:
            return np.zeros(rows.num_rows, np.bool_)
        keys = fingerprint_rows([format_keys(kind, rows)])
        return gone & find_among(keys, stored_keys.get(kind.schema, keys[:0]))
