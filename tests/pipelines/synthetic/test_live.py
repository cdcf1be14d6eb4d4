"""Live generation without Redis: what is said, and when, whatever the sender meets."""

import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from threading import Event

import numpy as np
import pyarrow as pa
import pytest

from pipelines.graph import make_rules
from pipelines.settings import Settings
from pipelines.synthetic import KpiTestGenerator
from pipelines.synthetic.live import Run, SendingPace
from pipelines.synthetic.live_plan import plan
from pipelines.synthetic.messages import Mix
from pipelines.synthetic.sending import Sender, Sent
from schemas.kinds import KINDS
from schemas.registry import load
from tests.pipelines.synthetic.test_records import judge, load_validator
from transforms.core.record_batches import RAW
from transforms.history.dedup import INPUTS, deduplicate
from transforms.validation.validate import judge_messages

NOW = 1_761_134_400_000_000
MIX = Mix(2000, dirty=0.1, duplicates=0.05, late=0.05, outliers=0.02)


class Recorder(Sender):
    """Takes payloads as a stream does, at a clock that stands still; `breaks` counts down to steps of which
    half arrives.
    """

    def __init__(
        self, breaks: tuple[int, ...] = (), refuses_at: int = -1, stop: Event | None = None, stop_at: int = -1
    ) -> None:
        self.payloads: list[str] = []
        self.steps = 0
        self.breaks, self.refuses_at, self.stop, self.stop_at = breaks, refuses_at, stop, stop_at

    def now_us(self) -> int:
        return NOW

    def send(self, payloads: pa.StringArray) -> Sent:
        self.steps += 1
        if self.stop and self.steps == self.stop_at:
            self.stop.set()
        arrived = np.ones(len(payloads), bool)
        if self.steps in self.breaks or self.steps == self.refuses_at:
            arrived[::2] = False
        self.payloads += payloads.filter(pa.array(arrived)).to_pylist()
        problem = "no memory" if self.steps == self.refuses_at else ""
        return Sent(arrived, away=0.1 * (self.steps in self.breaks), problem=problem)


def ran(
    recorder: Recorder,
    mix: Mix = MIX,
    per_minute: float = 0,
    scenario: str = "normal",
    stop: Event | None = None,
) -> Run:
    run = Run(
        plan(KpiTestGenerator(agents=5), scenario, mix, per_minute, NOW),
        {"kpi_report": recorder},
        stop or Event(),
    )
    run.send(lambda count: None)
    return run


def fates(payloads: list[str]) -> dict[str, int]:
    """How many messages, all received at NOW, end how."""
    columns = {
        "source": ["s"] * len(payloads),
        "message_id": [f"{NOW // 1000}-{i}" for i in range(len(payloads))],
        "received_at": pa.array([NOW] * len(payloads)).cast(RAW.field("received_at").type),
        "payload": pa.array([f"{payload}\n".encode() for payload in payloads], pa.large_binary()),
    }
    settings = Settings.model_construct()
    reports, refused = judge_messages(
        pa.RecordBatch.from_pydict(columns, schema=RAW), load("kpi_report"), make_rules(settings)
    )
    unique = deduplicate(pa.Table.from_batches([reports.select(INPUTS)]))
    return {"reports": len(unique.rows), "duplicates": unique.duplicates.num_rows} | Counter(
        refused["reason"].to_pylist()
    )


def told(run: Run) -> dict[str, int]:
    truth = run.truth()
    return {name: truth[name] for name in ("reports", "duplicates")} | truth["quarantined_by_reason"]


@pytest.mark.parametrize("scenario", ["normal", "anomaly", "performance"])
def test_the_truth_is_what_validation_finds(scenario: str) -> None:
    recorder = Recorder()
    run = ran(recorder, scenario=scenario)
    assert (run.complete, run.truth()["messages"], fates(recorder.payloads)) == (True, 2000, told(run))


def test_what_does_not_arrive_is_sent_again_as_of_now_and_counts_once() -> None:
    recorder = Recorder(breaks=(1, 2, 4))
    run = ran(recorder)
    assert (run.complete, len(recorder.payloads), fates(recorder.payloads)) == (True, 2000, told(run))


def test_what_redis_refuses_ends_the_run_with_a_truth_about_the_rest() -> None:
    recorder = Recorder(refuses_at=2)
    run = ran(recorder)
    assert (run.complete, run.problem, run.truth()["messages"]) == (False, "no memory", 1500)
    assert (len(recorder.payloads), fates(recorder.payloads)) == (1500, told(run))


def test_a_stopped_run_tells_what_was_sent_until_then() -> None:
    stop = Event()
    recorder = Recorder(stop=stop, stop_at=1)
    run = ran(recorder, stop=stop)
    assert (run.complete, run.truth()["messages"], fates(recorder.payloads)) == (False, 1000, told(run))


def test_late_reports_are_recorded_a_minute_to_forty_before_and_the_others_within_two_seconds() -> None:
    recorder = Recorder()
    run = ran(recorder, Mix(2000, dirty=0, duplicates=0, late=0.1, outliers=0))
    recorded = [
        datetime.fromisoformat(json.loads(each)["recorded_at"]).timestamp() for each in recorder.payloads
    ]
    lag = NOW / 1e6 - np.array(recorded)
    late = lag > 60
    assert (late.sum(), run.truth()["late"]) == (200, 200)
    assert 61 <= lag[late].min() < lag[late].max() <= 2401
    assert 0 <= lag[~late].min() < lag[~late].max() <= 3


def test_copies_follow_their_report_and_spread_over_a_short_run() -> None:
    drawn = plan(KpiTestGenerator(agents=5), "normal", MIX, 6000, NOW)
    first = {int(row): place for place, row in reversed(list(enumerate(drawn.row)))}
    copies = np.flatnonzero(drawn.is_copy)
    assert all(first[int(drawn.row[place])] < place for place in copies)
    assert (len(copies), len(set(np.digitize(copies, [500, 1000, 1500])))) == (100, 4)


def test_a_copy_of_a_report_that_has_become_too_old_is_left_out() -> None:
    class Waiting(Recorder):
        def now_us(self) -> int:
            return NOW + 3_400_000_000 * (self.steps > 0)

    recorder = Waiting()
    run = ran(recorder, Mix(10_000, dirty=0, duplicates=0.1, late=0, outliers=0))
    missing = 10_000 - run.truth()["messages"]
    assert (run.complete, 0 < missing < 1000, len(recorder.payloads)) == (True, True, 10_000 - missing)


def test_a_steady_run_has_outliers_where_its_agents_have_a_history() -> None:
    drawn = plan(KpiTestGenerator(agents=5), "normal", Mix(10_000, outliers=0.02), 500, NOW)
    assert drawn.injected.count == 200
    assert all(np.diff(drawn.columns.recorded) >= 0)


def test_each_message_is_due_at_the_rate_and_lost_time_is_not_made_up_for() -> None:
    pace = SendingPace(100.0, began=time.monotonic() + 5)
    assert (pace.due(np.array([0, 0.01, 2])) - pace.began).tolist() == pytest.approx([0, 0.01, 2])
    late = SendingPace(100.0, began=time.monotonic() - 50)
    assert late.due(np.array([10.0]))[0] - time.monotonic() == pytest.approx(0, abs=0.5)


@pytest.mark.parametrize(
    ("per_second", "at_once", "block"), [(1, 1, 1), (250, 3, 62), (20_000, 300, 5000), (0, 1000, 5000)]
)
def test_steps_and_blocks_grow_with_the_rate(per_second: float, at_once: int, block: int) -> None:
    assert (SendingPace(per_second).at_once(), SendingPace(per_second).block()) == (at_once, block)


class LoggingRecorder(Recorder):
    """Also keeps the order of what several recorders take."""

    def __init__(self, schema: str, log: list[tuple[str, str]], breaks: tuple[int, ...] = ()) -> None:
        super().__init__(breaks)
        self.schema, self.log = schema, log

    def send(self, payloads: pa.StringArray) -> Sent:
        sent = super().send(payloads)
        taken = payloads.filter(pa.array(sent.arrived)).to_pylist()
        self.log += [(self.schema, payload) for payload in taken]
        return sent


def ran_with_records(
    mix: Mix, inconsistent: float, per_minute: float = 0, breaks: tuple[int, ...] = ()
) -> tuple[Run, list[tuple[str, str]]]:
    log: list[tuple[str, str]] = []
    drawn = plan(KpiTestGenerator(agents=8), "normal", mix, per_minute, NOW, inconsistent=inconsistent)
    run = Run(drawn, {name: LoggingRecorder(name, log, breaks) for name in KINDS}, Event())
    run.send(lambda count: None)
    return run, log


@pytest.mark.parametrize("breaks", [(), (1, 3)])
def test_a_report_comes_between_its_task_and_its_result(breaks: tuple[int, ...]) -> None:
    run, log = ran_with_records(Mix(2000, 0, 0.02, 0.05, 0), inconsistent=0, breaks=breaks)
    contents = [(schema, json.loads(payload)) for schema, payload in log]
    first: dict[tuple[str, str], tuple[int, dict]] = {}
    for place, (schema, content) in enumerate(contents):
        first.setdefault((schema, content.get("task_id") or content.get("id") or ""), (place, content))
    reports = {task: found for (schema, task), found in first.items() if schema == "kpi_report"}
    assert (run.complete, len(reports)) == (True, 1960)
    unregistered = set()
    for task_id, (place, report) in reports.items():
        (before, task), (after, result) = first["task", task_id], first["execution_result", task_id]
        assert before < place < after
        recorded = datetime.fromisoformat(report["recorded_at"])
        assert datetime.fromisoformat(task["created_at"]) < recorded
        # A time with fewer digits is cut.
        assert recorded <= datetime.fromisoformat(result["completed_at"]) <= recorded + timedelta(seconds=1.2)
        if first["agent", report["agent_id"]][0] > place:
            unregistered.add(report["agent_id"])
    assert len(unregistered) <= 1, "the agent that registers late"
    assert set(run.truth()["records"]["rules"].values()) == {0}


def test_the_truth_of_records_is_what_an_independent_reader_finds() -> None:
    run, log = ran_with_records(Mix(2000, 0.1, 0.05, 0.02, 0.01), inconsistent=0.2, breaks=(2, 5))
    truth = run.truth()["records"]
    received = datetime.fromtimestamp(NOW / 1e6, UTC)
    reasons: dict[str, Counter[str]] = {schema: Counter() for schema in KINDS}
    valid: dict[str, set[str]] = {schema: set() for schema in KINDS}
    for schema, payload in log:
        content, reason = judge(payload, received, schema, load_validator(schema))
        if content:
            valid[schema].add(json.dumps(content, sort_keys=True))
        reasons[schema][reason or ""] += 1
    for schema, fates in truth["fates"].items():
        assert fates["messages"] == truth["messages"][schema] == sum(reasons[schema].values())
        del reasons[schema][""]
        assert fates["quarantined_by_reason"] == reasons[schema]
        if schema in ("task", "execution_result"):
            assert fates["accepted"] == truth["accepted"][schema] == len(valid[schema])
    faults = {name: fault["count"] for name, fault in truth["faults"].items()}
    assert min(faults[name] for name in ("task_never", "created_after_report", "two_task_versions")) > 0
    assert max(faults[name] for name in ("task_late", "two_reports", "quota_raised_late")) == 0
    assert truth["resolved"] == {}


def test_records_are_due_at_the_times_of_their_reports() -> None:
    drawn = plan(KpiTestGenerator(agents=8), "normal", MIX, 600, NOW, inconsistent=0.1)
    assert (np.diff(drawn.at) >= 0).all()
    due = {schema: drawn.at[drawn.find(schema)] for schema in KINDS}
    assert due["kpi_report"].tolist() == pytest.approx(np.arange(2000) / 10)
    assert all(at.min() >= 0 and at.max() <= 201 for at in due.values())
    assert len(due["task"]) > 1800 < len(due["execution_result"])
