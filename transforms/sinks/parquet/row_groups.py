"""When the rows of each row group of a Parquet file are."""

from datetime import timedelta

import pyarrow.parquet as pq

from transforms.core.time_range import Span


def list_row_groups(parquet: pq.ParquetFile, column: str) -> list[Span]:
    """The span of the times of each row group, by its statistics; open if it has none, or not the column."""
    return [
        _read_bounds(parquet.metadata.row_group(number), column) for number in range(parquet.num_row_groups)
    ]


def _read_bounds(group: pq.RowGroupMetaData, column: str) -> Span:
    columns = map(group.column, range(group.num_columns))
    statistics = next((each.statistics for each in columns if each.path_in_schema == column), None)
    if statistics is None or not statistics.has_min_max:
        return Span()
    return Span(statistics.min, statistics.max + timedelta(microseconds=1))
