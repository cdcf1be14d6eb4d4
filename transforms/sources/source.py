"""The interface between kpiflow and any source of messages: what the graph, the jobs and the commands need of
one.

A *source* is read from its beginning to its end: archives are the first kind. A *live source* is one that
messages keep coming to: it is read by a group, from the group's committed offset on, and never ends; Redis
streams are the first kind. A new kind is one module beside this one, one line in `pipelines.sources`, its
docs and its tests.

Sources are frozen dataclasses of options. They pickle, and connect in the process that reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from transforms.core.errors import Finding

if TYPE_CHECKING:
    import apache_beam as beam  # whoever asks a source how it does needs no Beam

OnProgress = Callable[[int], object]
"""Called with how much more has been read, in the unit of `Snapshot.size`."""
OnUnreadable = Callable[[str, str], object]
"""Called with the name of a part of the source that could not be read to its end, and the reason."""
UNCOMMITTED = "uncommitted"
"""bool: whether a message of a snapshot is after the committed offset of its group, and so may have no fate
yet."""


AHEAD_SECONDS = 60
"""How far the ids of messages may be ahead of the source's clock before that is reported."""
WATERMARK_DELAY_SECONDS = 10
"""How far a live source's watermark stays behind what is read."""


class GroupTaken(Exception):  # noqa: N818 (a state, and its reason)
    """Another job reads these streams for this group. The message says which, and until when it holds
    them."""


class Gathered(NamedTuple):
    """What reading a source gives: messages (RAW), what is rejected because it is no message (REJECTED), and
    gaps (LOST)."""

    messages: beam.PCollection
    rejected: beam.PCollection
    gaps: beam.PCollection | None = None


class SourceSnapshot(Protocol):
    """What a source contains at one moment, for `reconcile`."""

    @property
    def size(self) -> int | None:
        """How much there is to read, for a progress bar; None if unknown."""

    @property
    def can_lose(self) -> bool:
        """Whether messages may leave the source, so that `has_left` is worth asking."""

    def messages(self, on_progress: OnProgress, on_unreadable: OnUnreadable) -> Iterator[pa.RecordBatch]:
        """All messages, rejected ones too: batches with at least the columns source and message_id.

        A live source also gives UNCOMMITTED, and reads up to the end that it has when this begins. Every
        other source gives received_at.
        """

    def payloads(self) -> Iterator[pa.RecordBatch]:
        """The same messages again, whole: batches of RAW, and of REJECTED for what is no message."""

    def has_left(self, messages: pa.RecordBatch) -> NDArray[np.bool_]:
        """bool[n]: which of these stored messages (source, message_id) were in the source once and need not
        be now.

        For example: trimmed after they were read. Messages that arrived after `messages` began count too.
        Call it after `messages` has ended.
        """


class Source(Protocol):
    """A place that messages come from."""

    @property
    def name(self) -> str:
        """Its URL or pattern, without secrets."""

    def check(self) -> Iterator[Finding]:
        """Test everything that a job needs here, in the order in which it is needed, and change nothing."""

    def read(self) -> beam.PTransform:
        """A transform from the pipeline's root to `Gathered`."""

    def snapshot(self, gaps: pa.RecordBatch) -> AbstractContextManager[SourceSnapshot]:
        """What the source contains now; `gaps` are rows of the table `trimmed` that its readers have
        reported.

        Raises:
            Unavailable: it cannot be reached.
            Refused: it, or a part of it, does not exist.
        """


class Lease(Protocol):
    """The right to read a live source's streams for its group. It ends after `seconds` unless it is
    renewed."""

    @property
    def owner(self) -> str:
        """The job that has it: the same job takes it over from its dead predecessor at once."""

    @property
    def seconds(self) -> float:
        """How long it lasts."""

    def acquire(self) -> None:
        """Take all streams, or none.

        Raises:
            GroupTaken: another owner has one of them.
            Unavailable: the source cannot be reached.
        """

    def renew(self) -> None:
        """Keep the streams for `seconds` more. One short attempt.

        Raises: as `acquire` does.
        """

    def release(self) -> None:
        """Give the streams back.

        Raises:
            Unavailable: the source cannot be reached; the lease then runs out by itself.
        """


class MessageArchive(Protocol):
    """Where a job keeps each message as it was read. A live source commits nothing that is not safe there.

    It pickles, and two of them are equal if they mean the same archive.
    """

    def sync(self, streams: Iterable[str]) -> None:
        """Make everything archived of these streams safe on disk.

        Raises:
            OSError: it cannot be synced.
        """

    def may_lack(self, stream: str, message_id: str) -> bool:
        """Whether messages up to this one may be missing although they were archived: lost in a power cut,
        for example."""


@dataclass(frozen=True)
class Reading:
    """How a job has a live source read.

    `owner`: readers renew this owner's lease. `status`: folder of the readers' status files
    (`transforms.sources.reader_status`). `hold_seconds`: how long rows may be gathered before they are
    written; an offset is committed no earlier.
    """

    owner: str | None = None
    status: Path | None = None
    hold_seconds: float = 0.0
    archive: MessageArchive | None = None


class StreamState(NamedTuple):
    """A stream as the source has it: messages ever added, and how far the newest id is ahead of the source's
    clock."""

    added: int
    ahead_seconds: float


@dataclass(frozen=True)
class Memory:
    """Bytes that the source's server uses, and may use (0: no limit, or it makes room by itself)."""

    used: int
    most: int

    @property
    def is_full(self) -> bool:
        """Whether producers cannot add messages, or soon cannot."""
        return self.most > 0 and self.used >= NEARLY_FULL * self.most


NEARLY_FULL = 0.9
"""Fraction of `Memory.most` from which on producers are refused soon."""


class SourceState(NamedTuple):
    """What a live source says of itself now. `streams` has those that exist; `warnings` are texts, each with
    a fix."""

    streams: Mapping[str, StreamState]
    memory: Memory | None = None
    warnings: tuple[str, ...] = ()


@runtime_checkable
class LiveSource(Source, Protocol):
    """A source that messages keep coming to."""

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that are read: the values of the column source."""

    @property
    def group(self) -> str:
        """Whose committed offset says how far they are read."""

    def read(self, reading: Reading = ...) -> beam.PTransform:
        """A transform from the pipeline's root to `Gathered`, all of it unbounded.

        Positions are part of the runner's checkpoint. Without a checkpoint, reading begins at the committed
        offset or before.
        """

    def verify_access(self) -> None:
        """Try each operation that a job needs, so that a missing permission ends a job before it starts.

        Raises:
            Unavailable: the source cannot be reached, or not be used.
        """

    def lease(self, owner: str) -> Lease:
        """The lease of the streams for an owner; nothing is taken yet."""

    def read_state(self) -> SourceState:
        """What the source says now. One attempt.

        Raises:
            Unavailable: it cannot be reached.
        """
