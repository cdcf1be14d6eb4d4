"""What Flink's REST interface says of a job, with a stand-in for its replies."""

from typing import Any

from runners.flink.job import BatchJob
from runners.flink.rest import Rest, Unreachable


class Flink(Rest):
    """A job manager with one job. Like Flink 1.19 that lost a TaskManager while it asked it for its metrics,
    it says for ever that there was no restart."""

    def __init__(self) -> None:
        super().__init__("http://flink")
        self.failed_at: list[int] = []
        self.is_away = False

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
        if self.is_away:
            raise Unreachable(path)
        path, _, query = path.partition("?")
        if path == "/jobs/overview":
            return {"jobs": [{"name": "sums", "jid": "1", "start-time": 0}]}
        if path == "/jobs/1/metrics":
            return [{"id": "numRestarts", "value": "0"}]
        if path == "/jobs/1/exceptions":
            newest = self.failed_at[::-1][: int(query.removeprefix("maxExceptions="))]
            entries = [{"timestamp": at, "stacktrace": f"x.Exception: at {at}"} for at in newest]
            return {"exceptionHistory": {"entries": entries}}
        vertex = {"status": "FINISHED", "metrics": {"write-bytes": 7}}
        return {"state": "RUNNING", "vertices": [vertex, vertex | {"status": "RUNNING"}]}


def test_restarts_are_counted_though_flinks_metrics_stay_as_they_are() -> None:
    flink = Flink()
    job = BatchJob("sums", lambda: flink)
    for failed_at, restarts in (([], 0), ([5], 1), ([5], 1), ([5, 8, 9], 3)):
        flink.failed_at = failed_at
        assert job.ask_report() is not None
        assert job.restarts == restarts


def test_failures_that_flink_forgets_stay_counted() -> None:
    flink = Flink()
    job = BatchJob("sums", lambda: flink)
    for newest in range(1, 41):
        flink.failed_at = list(range(max(1, newest - 15), newest + 1))
        job.ask_report()
    assert job.restarts == 40


def test_a_job_manager_that_does_not_answer_is_no_restart() -> None:
    flink = Flink()
    job = BatchJob("sums", lambda: flink)
    flink.failed_at = [5]
    job.ask_report()
    flink.is_away = True
    assert job.ask_report() is None
    flink.is_away = False
    job.ask_report()
    assert job.restarts == 1


def test_a_report_has_the_steps_and_the_newest_failure() -> None:
    flink = Flink()
    flink.failed_at = [5, 8]
    report = BatchJob("sums", lambda: flink).ask_report()
    assert report is not None
    assert (report.state, report.steps, report.steps_done, report.bytes) == ("RUNNING", 2, 1, 14)
    assert report.trace == "x.Exception: at 8"
