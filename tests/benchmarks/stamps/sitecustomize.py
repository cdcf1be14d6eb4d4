"""Notes when each message passes each point of a job. Python imports this by itself in every process of a run
whose PYTHONPATH has this folder.

STAMPS names a folder. Each worker appends to `<pid>.<point>.stamps` there, for every message, two int64: its
id in the stream (milliseconds << 20 | number), and when it passed, in microseconds since 1970. Nothing waits
in memory: a kill loses nothing.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any


def watch(folder: str) -> None:
    """Have the steps of the graph note in that folder what passes them."""
    from transforms.history.stream_history import _StreamHistoryFn
    from transforms.sinks.publish import _Publish
    from transforms.sinks.write_tables import _WriteFn
    from transforms.sources.redis.reader import Reader
    from transforms.validation import validate

    def note(point: str, batches: Iterable[Any]) -> None:
        for batch in batches:
            file = os.open(
                os.path.join(folder, f"{os.getpid()}.{point}.stamps"), os.O_CREAT | os.O_APPEND | os.O_WRONLY
            )
            os.write(file, _pairs(batch))
            os.close(file)

    _note_after(Reader, "read", lambda result, *_: note("read", result.messages))
    _note_after(validate, "judge_messages", lambda _, messages, *__: note("validated", [messages]))
    _note_before(_StreamHistoryFn, "_admit", lambda step, held, batch, *_: note("shuffled", [batch]))
    _note_after(_StreamHistoryFn, "_admit", lambda _, step, held, batch, *__: note("remembered", [batch]))
    _note_before(_Publish, "process", lambda step, reports: note("enriched", [reports]))
    _note_after(_Publish, "process", lambda _, step, reports: note("published", [reports]))
    _note_after(
        _WriteFn,
        "_write",
        lambda _, step: note("written", step.batches if step.table == "kpi_reports" else ()),
    )


def _pairs(batch: Any) -> bytes:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = (
        pc.list_flatten(pc.split_pattern(batch["message_id"], "-")).cast(pa.int64()).to_numpy().reshape(-1, 2)
    )
    pairs = np.full((len(numbers), 2), time.time_ns() // 1000)
    pairs[:, 0] = numbers[:, 0] << 20 | numbers[:, 1]
    return pairs.tobytes()


def _note_before(owner: Any, name: str, note: Callable[..., None]) -> None:
    function = getattr(owner, name)

    @wraps(function)
    def noted(*args: Any) -> Any:
        note(*args)
        return function(*args)

    setattr(owner, name, noted)


def _note_after(owner: Any, name: str, note: Callable[..., None]) -> None:
    function = getattr(owner, name)

    @wraps(function)
    def noted(*args: Any) -> Any:
        result = function(*args)
        note(result, *args)
        return result

    setattr(owner, name, noted)


if "STAMPS" in os.environ and "--worker" in sys.orig_argv:
    watch(os.environ["STAMPS"])
