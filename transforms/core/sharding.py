"""The shard of an agent: the unit of parallel work and, in a stream, of state."""

import apache_beam as beam
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from transforms.core import arrow_coder  # noqa: F401 (what is keyed by shard is encoded)
from transforms.core.grouping import split_rows
from transforms.core.hashing import hash_uuids
from transforms.core.stage_counters import count_stage


def assign_shards(agent_ids: pa.Array, count: int) -> NDArray[np.int64]:
    """int64[n]: the shard, 0 to count - 1, of each agent; the same on every platform and in every run."""
    encoded = agent_ids.dictionary_encode()
    shard = (hash_uuids(encoded.dictionary) % np.uint64(count)).astype(np.int64)
    return shard[encoded.indices.to_numpy()]


class KeyByShard(beam.PTransform):
    """ReportBatches -> (shard, ReportBatch); all reports of an agent are on one shard.

    `count` is the number of shards.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def expand(self, reports: beam.PCollection) -> beam.PCollection:
        return reports | beam.FlatMap(count_stage("shard", split_by_shard), self.count).with_output_types(
            tuple[int, pa.RecordBatch]
        )


def split_by_shard(batch: pa.RecordBatch, count: int) -> list[tuple[int, pa.RecordBatch]]:
    """The batch's rows, split by the shard of their agent."""
    return list(split_rows(batch, assign_shards(batch["agent_id"], count))) if batch.num_rows else []
