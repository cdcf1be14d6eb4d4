"""Reports as JSON, joined column by column as Arrow strings."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.synthetic.columns import SECOND, Columns
from pipelines.synthetic.fleet import Fleet
from schemas.tables import METRIC_COLUMNS

Codes = NDArray[np.int32]

LAYERS = ("layer2", "layer3")
PRIORITIES = (1, 25, 50, 75, 100)

_ERRORS = (
    {"code": "TIMEOUT", "message": "no answer within the deadline"},
    {"code": "OUT_OF_MEMORY", "message": "the worker was killed"},
    {"code": "BAD_OUTPUT", "message": 'the answer is no "JSON"'},
    {"code": "CANCELLED", "message": "the caller went away"},
)
_EXTRA = (
    {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"},
    {"labels": {"team": "search", "canary": True}},
    {"retries": 2},
)
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_DASHES = (8, 13, 18, 23)
_NIBBLES = np.array([i for i in range(36) if i not in _DASHES])
_OFFSETS_MINUTES = (120, -330, 0)


def format_reports(columns: Columns, fleet: Fleet) -> pa.StringArray:
    """Each report as one JSON object without spaces, string[n]."""
    agent = pa.array(columns.agent)
    parts: list[Any] = [
        '{"task_id":"',
        format_uuids(columns.task),
        '","agent_id":"',
        fleet.ids.take(agent),
        '"',
    ]
    for metric, name in METRIC_COLUMNS.items():
        parts += [f',"{name}":', pa.array(columns.metrics[metric])]
    parts += [
        ',"recorded_at":"',
        _format_recorded(columns),
        '","execution_context":',
        fleet.contexts.take(agent),
    ]
    return join([*parts, *_format_optional_fields(columns, fleet), "}"])


def join(parts: list[Any]) -> pa.StringArray:
    """Join parts row by row, string[n]. A part is one str for all rows, or an array of strings or numbers."""
    columns = [pa.scalar(part) if isinstance(part, str) else part.cast(pa.string()) for part in parts]
    return pc.binary_join_element_wise(*columns, "")


def format_times(micros: NDArray[np.int64]) -> pa.StringArray:
    """Times like `2025-10-20T00:00:01.123456`, string[n], from microseconds since 1970."""
    return pc.binary_replace_slice(pa.array(micros).cast(pa.timestamp("us")).cast(pa.string()), 10, 11, "T")


def format_uuids(octets: NDArray[np.uint8]) -> pa.StringArray:
    """The 36-character form of UUIDs, string[n], from uint8[n, 16]."""
    text = np.full((len(octets), 36), ord("-"), np.uint8)
    text[:, _NIBBLES[0::2]] = _HEX[octets >> 4]
    text[:, _NIBBLES[1::2]] = _HEX[octets & 15]
    ends = np.arange(len(octets) + 1, dtype=np.int32) * 36
    return pa.StringArray.from_buffers(
        len(octets), pa.py_buffer(ends), pa.py_buffer(np.ascontiguousarray(text))
    )


def replace_rows(
    texts: pa.StringArray, mask: NDArray[np.bool_], values: pa.Array | list[str]
) -> pa.StringArray:
    """The texts with the rows of the mask replaced, in order."""
    return pc.replace_with_mask(texts, pa.array(mask), pa.array(values, pa.string()))


def _format_optional_fields(columns: Columns, fleet: Fleet) -> list[pa.Array]:
    options = columns.options
    gpu = np.where(fleet.gpu[columns.agent], options["gpu"], 0)
    targets = [f',"target_agent_type":{json.dumps(name)}' for name in fleet.task_types]
    target = pa.array(targets).take(pa.array(fleet.types[columns.agent]))
    return [
        join_where(options["network"] > 0, [',"network_bytes":', pa.array(columns.network)]),
        _format_custom_metrics(options["custom"]),
        join_where(gpu > 0, [',"gpu_utilization":', pa.array(np.round(gpu / 65536, 3))]),
        _pick([f',"error_details":{json.dumps(error)}' for error in _ERRORS], options["error"]),
        _pick([f',"source_layer":"{layer}"' for layer in LAYERS], options["layer"]),
        join_where(options["target"] > 0, [target]),
        _pick([f',"priority":{priority}' for priority in (*PRIORITIES, "null")], options["priority"]),
        _pick([f",{json.dumps(extra)[1:-1]}" for extra in _EXTRA], options["extra"]),
    ]


def _pick(pool: list[str], codes: Codes) -> pa.Array:
    """A text of the pool by code, empty where the code is 0."""
    return pa.array(["", *pool]).take(pa.array(np.where(codes, 1 + codes % len(pool), 0)))


def join_where(mask: NDArray[np.bool_], parts: list[Any]) -> pa.Array:
    """The joined parts in the rows of the mask, empty elsewhere."""
    some = pa.array(mask)
    chosen = [part if isinstance(part, str) else part.filter(some) for part in parts]
    return replace_rows(pa.repeat("", len(mask)), mask, join([pa.repeat("", int(mask.sum())), *chosen]))


def _format_custom_metrics(codes: Codes) -> pa.Array:
    """Four shapes of `custom_metrics`, with values from the code."""
    value = pa.array(np.round(codes / 256, 2))
    share = pa.array(np.round(codes / 65536, 4))
    shapes = [
        ['{"tokens_per_second":', value, ',"cache_hit_ratio":', share, "}"],
        ['{"queue_depth":', pa.array(codes % 50), "}"],
        ['{"cache_hit_ratio":', share, ',"batch.size":', pa.array(1 << codes % 8), ',"drift":-1.5e-3}'],
        ["{}"],
    ]
    masks = [(codes > 0) & (codes % len(shapes) == i) for i in range(len(shapes))]
    return join([join_where(mask, [',"custom_metrics":', *shape]) for mask, shape in zip(masks, shapes)])


def _format_recorded(columns: Columns) -> pa.Array:
    """recorded_at with six digits and `Z`; in some rows with zero to nine digits, or in another zone."""
    styles = columns.options["time_style"]
    odd = styles > 0
    return replace_rows(
        join([format_times(columns.recorded), "Z"]),
        odd,
        _format_odd_times(columns.recorded[odd], styles[odd]),
    )


def _format_odd_times(recorded: NDArray[np.int64], styles: Codes) -> list[str]:
    """Less usual RFC 3339 spellings: 0 to 9 fraction digits (fewer than six cut the time), or an offset."""
    kinds = styles % (10 + len(_OFFSETS_MINUTES))
    minutes = np.array([0] * 10 + list(_OFFSETS_MINUTES))[kinds]
    local = format_times(recorded + minutes * 60 * SECOND).to_pylist()
    return [_format_odd_time(*row) for row in zip(local, kinds.tolist(), minutes.tolist())]


def _format_odd_time(local: str, kind: int, minutes: int) -> str:
    if kind < 10:
        return (local + "789")[: 19 + (kind > 0) + kind] + "Z"
    sign = "-" if minutes < 0 else "+"
    return f"{local}{sign}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
