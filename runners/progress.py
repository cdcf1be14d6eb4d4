"""What whoever starts a run is told of it, about once a second."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How a run does.

    Attributes:
        state: starting, running, restarting (a step failed) or stopping.
        restored_from: path of the checkpoint that it went on from when it started.
        checkpoints: how many it has completed.
        checkpoint_bytes: size of the newest one.
        checkpoint_age: seconds since the newest one was complete; None without one.
        checkpoint_seconds: how long the newest one took.
        restarts: how often Flink has started the job again.
        renewals: how often the job was stopped with a checkpoint and gone on from it (`Engine.renew_seconds`).
        failure: why it did last, or why the newest checkpoint failed.
        left_out: newer checkpoints that it did not go on from, and why: they are damaged, or may be.
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
