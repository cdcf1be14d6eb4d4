"""Why Flink does not go on from a checkpoint: the checkpoint is damaged, or the graph is another one."""

import re

from runners.flink.checkpoints import Choice

_NOT_INITIALIZED = "JobInitializationException"
_NO_SPACE = "No space left"
_UNREADABLE = re.compile(
    "Could not restore (keyed|operator) state|BackendBuildingException|unable to deserialize"
)
_OTHER_GRAPH = re.compile("Cannot map checkpoint/savepoint state|[Mm]ax(imum)? parallelism")


class CheckpointRefused(RuntimeError):  # noqa: N818 (an end, not only an error)
    """Flink cannot go on from the checkpoint: the graph is another one, or all checkpoints are damaged."""


class CheckpointUnreadable(RuntimeError):  # noqa: N818 (the next older checkpoint is tried)
    """Flink cannot read a checkpoint that was not sealed."""


def is_refusal(reason: str) -> bool:
    """Whether a job that was to go on from a checkpoint ended because of it."""
    return _NOT_INITIALIZED in reason and _NO_SPACE not in reason


def is_unreadable(trace: str) -> bool:
    """Whether a job failed since a file of the checkpoint that it goes on from could not be read."""
    return _UNREADABLE.search(trace) is not None


def explain_refusal(choice: Choice, why: str) -> CheckpointRefused | CheckpointUnreadable:
    """The error for a checkpoint that Flink refused. A sealed one is whole, so it is of another graph."""
    if not choice.is_sealed and not _OTHER_GRAPH.search(why):
        return CheckpointUnreadable(why)
    why = why.partition(" If you want to allow")[0].rstrip(".")
    return CheckpointRefused(
        f"Flink cannot go on from {choice.newest}: {why}. The graph is another one now: run it as it was, or "
        "start with --fresh"
    )
