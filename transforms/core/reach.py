"""Whether a worker reaches the files that its launcher named: on another machine a path may be another
folder."""

import os
from functools import cache
from socket import gethostname

from transforms.core.errors import Refused


def get_machine() -> str:
    """The name of this machine, or container."""
    return gethostname()


@cache
def verify_reach(path: str, launcher: str, use: str) -> None:
    """Check, once in a process, that a file that the launcher saw is here too. `use`: input or output.

    On the launcher's own machine nothing is checked: there a missing file was removed.

    Raises:
        Refused: this is another machine, and it does not have the file.
    """
    here = get_machine()
    if here != launcher and not os.access(path, os.R_OK):
        fix = f"put the {use} in a folder that all machines share, or on s3:// or gs://"
        raise Refused(f"the worker on {here} cannot read {path}; {fix}")
