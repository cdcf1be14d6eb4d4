"""Records of reports that are sent live: when each is due, and its times as of when it is sent."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.synthetic.columns import SECOND
from pipelines.synthetic.messages import REPORT, RESPELLED, Messages, Mix
from pipelines.synthetic.records.faults import RecordFaults
from pipelines.synthetic.records.streams import NEVER, RecordArrivals, draw_arrivals_of_records, draw_streams
from pipelines.synthetic.records.tasks import Integers
from pipelines.synthetic.records.truth import describe_records
from pipelines.synthetic.records.world import World

FIRST = ("agent", "task")
"""The schemas whose messages go before the reports that are sent at the same time; others go after them."""
_TAIL = SECOND
"""How long after the last report its records are sent, microseconds."""


class LiveRecords:
    """The records of a world whose reports are sent live.

    `streams`: the messages of each schema; those in the plan are received until a second after its end.
    """

    def __init__(self, world: World, reports: Messages, mix: Mix, seed: int) -> None:
        """`reports`: the messages of reports with the times at which they are due."""
        self._world = world
        tasks, recorded = world.tasks, world.columns.recorded
        self._arrivals = draw_arrivals_of_records(world, reports, seed)
        end = int(reports.received.max(initial=0)) + _TAIL
        self.streams = {
            name: replace(stream, messages=_take(stream.messages, stream.messages.received <= end))
            for name, stream in draw_streams(world, self._arrivals, mix, seed).items()
        }
        self._last = np.arange(len(recorded))
        shared = np.flatnonzero(tasks.owner != self._last)
        self._last[tasks.owner[shared]] = shared
        self._queued = recorded - tasks.created
        self._completing = tasks.completed - recorded[self._last]

    def format_payloads(
        self, schema: str, row: Integers, kind: Integers, received: Integers, recorded: Integers
    ) -> pa.StringArray:
        """The payloads of messages of a schema that are received about then, string[k].

        `recorded` int64[n]: when each report was recorded, or is expected to be. What is not repeated or
        spoiled gets its times from there.
        """
        new = row[(kind == REPORT) & (row < len(recorded))]
        # The formats of the streams read these two arrays.
        if schema == "task":
            self._world.tasks.created[new] = recorded[new] - self._queued[new]
        if schema == "execution_result":
            self._world.tasks.completed[new] = recorded[self._last[new]] + self._completing[new]
        return self.streams[schema].format_payloads(row, kind, received, bare=True)

    def describe(self, reports: Messages, sent: dict[str, Messages]) -> dict[str, Any]:
        """The part `records` of `truth.json` about the messages that were sent, as of when they were."""
        world, count = self._world, len(self._last)
        first = {name: _find_first(messages, 2 * count) for name, messages in sent.items()}
        arrivals = RecordArrivals(
            report=_find_first(reports, count),
            task=first["task"][:count],
            result=first["execution_result"][:count],
            corrected=first["task"][count:],
            registered=self._arrivals.registered,
        )
        streams = {name: replace(self.streams[name], messages=each) for name, each in sent.items()}
        faults = _keep_sent(world.faults, arrivals, first["execution_result"][count:])
        return describe_records(replace(world, faults=faults), reports, streams, arrivals, with_ids=False)


def _keep_sent(faults: RecordFaults, arrivals: RecordArrivals, second_result: Integers) -> RecordFaults:
    """The faults of reports that were sent, as of which of their records were."""
    kind = faults.kind.copy()
    no_task, no_result = arrivals.task == NEVER, arrivals.result == NEVER
    for missing, name, instead in (
        (no_task, "task_late", "task_never"),
        (no_result, "result_late", "result_never"),
        (arrivals.corrected == NEVER, "quota_raised_late", "cpu_over_quota"),
        (arrivals.corrected == NEVER, "two_task_versions", ""),
        (second_result == NEVER, "two_result_versions", ""),
        (no_result, "completed_before_report", ""),
        (no_result, "success_differs", ""),
    ):
        kind[faults.find(name) & missing] = RecordFaults.number(instead)
    kind[arrivals.report == NEVER] = 0
    return RecordFaults(kind)


def _find_first(messages: Messages, count: int) -> Integers:
    """When the first valid message of each row is received, int64[count]; else NEVER."""
    valid = messages.kind <= RESPELLED
    first = np.full(count, NEVER)
    np.minimum.at(first, messages.row[valid], messages.received[valid])
    return first


def _take(messages: Messages, chosen: NDArray[np.bool_]) -> Messages:
    return Messages(messages.row[chosen], messages.kind[chosen], messages.received[chosen])
