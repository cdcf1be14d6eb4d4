"""Reports sent to a Redis stream at a steady rate: the mix of an archive, recorded when they are sent.

A late report is recorded 61 s to 40 min before it is sent, and a repetition follows within minutes, so a run
lasts as long as its reports take at the rate. Agents, values and mistakes depend on the seed; times do not.
Records are sent to streams of their own, in the same order as in an archive.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.synthetic.archive import describe_fates
from pipelines.synthetic.columns import SECOND
from pipelines.synthetic.injected_outliers import Injected
from pipelines.synthetic.live_plan import REPORT, LivePlan, Positions
from pipelines.synthetic.messages import Fates, Messages, format_payloads, shift_times
from pipelines.synthetic.protobuf_payloads import encode_payloads, fit_truth
from pipelines.synthetic.sending import Sender
from transforms.core.message_encodings import JSON

_OLDEST_COPY = 3300 * SECOND
_BLOCK = 5000
_BLOCK_SECONDS = 0.25
_AT_ONCE = 1000
_TICK = 0.015
_BEHIND = 1.0


@dataclass
class SendingPace:
    """When each message is due, of about `per_second`; all at once if that is 0. Lost time is not made up
    for.
    """

    per_second: float
    began: float = field(default_factory=time.monotonic)

    def due(self, at: NDArray[np.float64]) -> NDArray[np.float64]:
        """The times (of the monotonic clock) of messages that are due so many seconds after the beginning."""
        if not self.per_second:
            return np.full(len(at), time.monotonic())
        behind = time.monotonic() - self.began - float(at[0])
        if behind > _BEHIND:
            self.began += behind
        return self.began + at

    def at_once(self) -> int:
        """The number of messages of one step."""
        return int(np.clip(self.per_second * _TICK, 1, _AT_ONCE)) if self.per_second else _AT_ONCE

    def block(self) -> int:
        """The number of messages that are encoded ahead."""
        return int(np.clip(self.per_second * _BLOCK_SECONDS, 1, _BLOCK)) if self.per_second else _BLOCK


class Run:
    """One run of a plan.

    `sent` bool[m]: which messages are sent. `reports`: messages of reports to send. `problem`: why
    it could not continue. `recorded` int64[n]: recorded_at of each report in microseconds.
    """

    def __init__(
        self, plan: LivePlan, senders: Mapping[str, Sender], stop: Event, encoding: str = JSON
    ) -> None:
        """`senders` by schema; `encoding`: that of the payloads."""
        self._plan, self._senders, self._stop, self._encoding = plan, senders, stop, encoding
        self._is_report = plan.find(REPORT)
        each = len(plan.row) / max(1, int(self._is_report.sum()))
        self._pace = SendingPace(plan.per_minute / 60 * each)
        self._due = np.zeros(len(plan.lag))
        first = np.flatnonzero(self._is_report)[::-1]
        self._due[plan.row[first]] = plan.at[first]
        self._received = np.zeros(len(plan.row), np.int64)
        self.recorded = plan.columns.recorded.copy()
        self.sent: NDArray[np.bool_] = np.zeros(len(plan.row), bool)
        # The reports of which some copy arrived.
        self._known: NDArray[np.bool_] = np.zeros(len(plan.lag), bool)
        self.reports = int(self._is_report.sum())
        self.complete = False
        self.unsure = 0
        self.problem = ""

    def send(self, on_sent: Callable[[int], None]) -> None:
        """Send all messages at the rate, until stopped or a `problem` occurs.

        `on_sent` gets the number of messages of reports that arrived in each step.
        """
        count, size = len(self.sent), self._pace.block()
        for first in range(0, count, size):
            left: Positions = np.arange(first, min(first + size, count))
            while len(left):
                left = self._send_block(left, on_sent)
                if self._stop.is_set() or self.problem:
                    return
        self.complete = True

    def _send_block(self, places: Positions, on_sent: Callable[[int], None]) -> Positions:
        """Send these messages.

        Returns those to encode again, because Redis was unavailable before they were sent.
        """
        places, due, received = self._time(places)
        encoded = [
            (schema, own, self._encode(schema, places[own], received[own]))
            for number, schema in enumerate(self._plan.schemas)
            if len(own := np.flatnonzero(self._plan.schema[places] == number))
        ]
        for step in self._wait_for_steps(due):
            for schema, own, texts in encoded:
                part = slice(*np.searchsorted(own, [step.start, step.stop]).tolist())
                if not self._send_step(schema, places[own[part]], texts[part], on_sent):
                    return places[~self.sent[places]]
        return places[:0]

    def _send_step(
        self, schema: str, places: Positions, texts: pa.StringArray, on_sent: Callable[[int], None]
    ) -> bool:
        """Send messages of a schema at once. Returns whether Redis was available."""
        if not len(places):
            return True
        arrived, unsure, away, self.problem = self._senders[schema].send(texts)
        self.sent[places] = arrived
        if schema == REPORT:
            self._known[self._plan.row[places[arrived]]] = True
            on_sent(int(arrived.sum()))
        self.unsure += unsure
        self._pace.began += away
        return not (away or self.problem)

    def _time(self, places: Positions) -> tuple[Positions, NDArray[np.float64], Positions]:
        """When these messages are due and received, without copies of reports that are nearly stale."""
        plan = self._plan
        due = self._pace.due(plan.at[places])
        received = self._senders[REPORT].now_us() + ((due - time.monotonic()) * SECOND).astype(np.int64)
        reports = self._is_report[places]
        row, copy = plan.row[places[reports]], plan.is_copy[places[reports]]
        new = ~copy & ~self._known[row]
        self.recorded[row[new]] = received[reports][new] - plan.lag[row[new]]
        kept = ~reports
        kept[reports] = ~copy | (received[reports] - self.recorded[row] < _OLDEST_COPY)
        self._received[places] = received
        return places[kept], due[kept], received[kept]

    def _encode(self, schema: str, places: Positions, received: Positions) -> pa.Array:
        """The payloads of messages of a schema at the time they are received."""
        texts = self._format(schema, places, received)
        return texts if self._encoding == JSON else encode_payloads(schema, texts)

    def _format(self, schema: str, places: Positions, received: Positions) -> pa.StringArray:
        plan = self._plan
        row, kind = plan.row[places], plan.kind[places]
        if schema == REPORT:
            columns = replace(plan.columns.take(row), recorded=self.recorded[row])
            return format_payloads(shift_times(columns, kind, received), kind, row, plan.fleet, bare=True)
        assert plan.records is not None
        if schema == "task":
            self._expect(row % len(plan.lag), received, plan.at[places])
        return plan.records.format_payloads(schema, row, kind, received, self.recorded)

    def _expect(self, row: Positions, received: Positions, at: NDArray[np.float64]) -> None:
        """Note when reports will be recorded whose tasks are sent now."""
        later = (self._due[row] - at) * SECOND if self._pace.per_second else np.zeros(len(row))
        expected = received + later.astype(np.int64) - self._plan.lag[row]
        waiting = ~self._known[row] & (later >= 0)
        self.recorded[row[waiting]] = expected[waiting]

    def _wait_for_steps(self, due: NDArray[np.float64]) -> Iterator[slice]:
        """Yields the parts of a block, each when its last message is due, until stopped."""
        for first in range(0, len(due), self._pace.at_once()):
            step = slice(first, min(first + self._pace.at_once(), len(due)))
            pause = due[step][-1] - time.monotonic()
            if self._stop.wait(pause) if pause > 0 else self._stop.is_set():
                return
            yield step

    def truth(self) -> dict[str, Any]:
        """The expected fates of the messages that were sent, in the form of an archive's `truth.json`."""
        plan = self._plan
        sent = {name: self._list_sent(name) for name in plan.schemas}
        rows = np.flatnonzero(self._known)
        new = np.full(len(self.recorded), -1)
        new[rows] = np.arange(len(rows))
        outliers = {metric: new[at][new[at] >= 0] for metric, at in plan.injected.rows.items()}
        injected = Injected(plan.columns.take(rows), outliers)
        fates = Fates(plan.fates.kind[rows], plan.fates.late[rows])
        asked = plan.mix.count(plan.mix.outliers)
        truth = {name: plan.settings[name] for name in ("seed", "scenario")}
        truth |= describe_fates(sent[REPORT], fates, injected, asked, plan.fleet)
        truth |= {"complete": self.complete, "unsure": self.unsure}
        if plan.records:
            truth["records"] = plan.records.describe(sent.pop(REPORT), sent)
        truth |= {"settings": plan.settings}
        return truth if self._encoding == JSON else fit_truth(truth)

    def _list_sent(self, schema: str) -> Messages:
        places = np.flatnonzero(self.sent & self._plan.find(schema))
        return Messages(self._plan.row[places], self._plan.kind[places], self._received[places])
