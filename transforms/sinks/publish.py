"""Live streams: reports with their flags and scores, and an event for each outlier, in two Redis streams.

Delivery is at least once: after a restart some entries come again, and consumers recognise them by
`report_id` (with `metric`, for an outlier). The tables have each report once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import redis

from schemas.tables import METRIC_COLUMNS, METRICS, OUTLIER_FLAGS
from transforms.core.errors import Finding
from transforms.core.process_stats import PUBLISHED, observe_latency
from transforms.core.stage_counters import time_stage
from transforms.redis.access import LIVE_STREAMS
from transforms.redis.connection import Connection
from transforms.redis.errors import RedisUnavailable
from transforms.redis.probe import find_problem, try_command

ENRICHED, OUTLIERS = LIVE_STREAMS
"""The streams. An entry has `report_id` and `data`, one JSON object: a row of kpi_reports, or an outlier
event."""
_EVENT = ("report_id", "task_id", "agent_id", "recorded_at", "source", "message_id", "baseline_n")
_OF_METRIC = ("low_fence", "high_fence", "q1", "q3", "baseline_state")

Entry = dict[Any, Any]


def format_reports(reports: pa.RecordBatch) -> Iterator[Entry]:
    """Each row of kpi_reports as an entry: times in RFC 3339 (UTC), maps as objects."""
    maps = [field.name for field in reports.schema if pa.types.is_map(field.type)]
    for row in reports.to_pylist():
        row |= {name: row[name] and dict(row[name]) for name in maps}
        yield _format_entry(row)


def format_outliers(reports: pa.RecordBatch) -> Iterator[Entry]:
    """An entry for each flagged metric: identity, value, and the fences and quartiles that explain it."""
    for metric in METRICS:
        flagged = reports.filter(pc.fill_null(reports[OUTLIER_FLAGS[metric]], False))
        names = [*_EVENT, METRIC_COLUMNS[metric], *(f"{metric}_{name}" for name in _OF_METRIC)]
        for row in flagged.select(names).to_pylist():
            event = {name: row[name] for name in _EVENT} | {
                "metric": metric,
                "value": row[METRIC_COLUMNS[metric]],
            }
            yield _format_entry(event | {name: row[f"{metric}_{name}"] for name in _OF_METRIC})


def _format_entry(row: dict[str, Any]) -> Entry:
    return {"report_id": row["report_id"].encode(), "data": orjson.dumps(row, option=orjson.OPT_UTC_Z)}


@dataclass(frozen=True)
class LiveStreams:
    """The streams ENRICHED and OUTLIERS of a Redis server, each kept at about `maxlen` entries."""

    connection: Connection
    maxlen: int

    def check(self) -> Iterator[Finding]:
        """Test that entries can be added, and add none."""
        what = f"entries may be added to {', '.join(LIVE_STREAMS)}"
        try:
            self.verify_access()
            yield Finding(what)
        except RedisUnavailable as error:
            yield find_problem(what, error)

    def verify_access(self) -> None:
        """Try to add entries, so that adding none is what happens.

        Raises:
            RedisUnavailable: Redis cannot be reached or used, or it is not allowed.
        """
        self.connection.check(LIVE_STREAMS)
        with self.connection.client(patience=0) as client, self.connection.explain_errors():
            for stream in LIVE_STREAMS:
                try_command(client, "XADD", stream, "NOMKSTREAM", "0-0", "probe", "probe")

    def publish(self) -> "PublishLive":
        """The transform that adds entries."""
        return PublishLive(self.connection, self.maxlen)


class PublishLive(beam.PTransform):
    """Enriched reports -> the streams ENRICHED and OUTLIERS, each kept at about `maxlen` entries."""

    def __init__(self, connection: Connection, maxlen: int) -> None:
        super().__init__()
        self.connection, self.maxlen = connection, maxlen

    def expand(self, reports: beam.PCollection) -> beam.PCollection:
        return reports | beam.ParDo(_Publish(self.connection, self.maxlen))


class _Publish(beam.DoFn):
    def __init__(self, connection: Connection, maxlen: int) -> None:
        self.connection, self.maxlen = connection, maxlen

    def setup(self) -> None:
        self.client: redis.Redis = self.connection.client()

    def teardown(self) -> None:
        self.client.close()

    def process(self, reports: pa.RecordBatch) -> None:
        with time_stage("publish", reports.num_rows), self.client.pipeline(transaction=False) as pipeline:
            for stream, entries in (
                (ENRICHED, format_reports(reports)),
                (OUTLIERS, format_outliers(reports)),
            ):
                for entry in entries:
                    pipeline.xadd(stream, entry, maxlen=self.maxlen, approximate=True)
            pipeline.execute()
        observe_latency(PUBLISHED, reports["received_at"])
