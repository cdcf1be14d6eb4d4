"""How a run does, as reported to its caller about once a second."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How a run does; totals are over all its jobs.

    Attributes:
        state: starting, running, restarting (a step failed) or stopping.
        restored_from: path of the checkpoint that its job went on from.
        checkpoints: how many are complete.
        checkpoint_bytes: size of the newest one.
        checkpoint_age: seconds since the newest one was complete; None without one.
        checkpoint_seconds: duration of the newest one.
        restarts: how often Flink restarted a job.
        renewals: how often a job was stopped with a checkpoint and a new one went on from it.
        failure: why Flink restarted last, or why the newest checkpoint failed.
        left_out: newer checkpoints that were not used, and why: they are damaged, or may be.
        rest: URL of Flink's REST interface; empty while starting.
    """

    state: str = "starting"
    restored_from: str | None = None
    checkpoints: int = 0
    checkpoint_bytes: int = 0
    checkpoint_age: float | None = None
    checkpoint_seconds: float = 0.0
    restarts: int = 0
    renewals: int = 0
    failure: str | None = None
    left_out: tuple[str, ...] = ()
    rest: str = ""


@dataclass(frozen=True)
class BatchProgress:
    """How the run of a bounded graph does.

    Attributes:
        state: starting, running, restarting (a process was lost) or stopping.
        steps: the steps into which Flink divides the graph, from one exchange of rows to the next.
        steps_done: how many of them have ended.
        bytes: what steps have passed on to the next ones.
        restarts: how often Flink restarted the job or a part of it.
        failure: why Flink restarted last.
        rest: URL of Flink's REST interface; empty while starting.
    """

    state: str = "starting"
    steps: int = 0
    steps_done: int = 0
    bytes: int = 0
    restarts: int = 0
    failure: str | None = None
    rest: str = ""
