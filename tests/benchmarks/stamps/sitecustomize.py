"""Notes when each message was judged. Python imports this by itself in every process of a run whose PYTHONPATH has this folder.

STAMPS names a folder. Each worker appends to a file of its own there, for every message, two int64 in microseconds since 1970: when
it was received, and when Validate was done with it. Nothing waits in memory, so that a kill loses nothing.
"""

import os
import sys
import time
from typing import Any


def watch(folder: str) -> None:
    """Have Validate note its times in that folder."""
    import numpy as np
    import pyarrow as pa

    from transforms.validate import _ValidateFn

    judged = _ValidateFn._judged
    notes = os.open(os.path.join(folder, f"{os.getpid()}.stamps"), os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def noted(self: _ValidateFn, messages: Any) -> Any:
        result = judged(self, messages)
        stamps = np.full((messages.num_rows, 2), time.time_ns() // 1000)
        stamps[:, 0] = messages["received_at"].cast(pa.int64())
        os.write(notes, stamps.tobytes())
        return result

    _ValidateFn._judged = noted  # type: ignore[method-assign]


if "STAMPS" in os.environ and "--worker" in sys.orig_argv:
    watch(os.environ["STAMPS"])
