"""The generator, read back by an independent reader: json, jsonschema, and format checks of its own."""

import doctest
import errno
import gzip
import hashlib
import json
import math
import re
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

import schemas
from pipelines.cli import run
from pipelines.failures import RunFailed
from pipelines.synthetic import KpiTestGenerator, reports
from pipelines.synthetic.archive import Form, prepare_archive, write_archive
from pipelines.synthetic.dirt import DIRT, respell
from pipelines.synthetic.json_columns import format_times, format_uuids
from pipelines.synthetic.messages import REPORT, Mix, deal_fates, draw_arrivals

ENVELOPE = re.compile(
    r'\{"message_id":"(\d+)-(\d+)","received_at":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6})Z","data":(.*)\}'
)
DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
COLUMNS = {"latency": "latency_ms", "accuracy": "accuracy", "cpu": "cpu_usage", "memory": "memory_mb"}
ORDINARY = {"dirty": 0.1, "duplicates": 0.05, "late": 0.05, "outliers": 0.02}

formats = FormatChecker(formats=())
formats.checks("uuid", raises=ValueError)(
    lambda text: not isinstance(text, str) or str(uuid.UUID(text)) == text.lower()
)
formats.checks("date-time", raises=ValueError)(lambda text: not isinstance(text, str) or bool(moment(text)))
schema = json.loads(Path(schemas.__file__).with_name("kpi_report.v1.json").read_text())
validator = Draft202012Validator(schema, format_checker=formats)


class QuarantineError(Exception):
    """The reason a payload must be quarantined for."""


def moment(text: str) -> datetime:
    if not DATE_TIME.fullmatch(text):
        raise ValueError(text)
    return datetime.fromisoformat(text)


def parse(text: str) -> dict:
    depth = deepest = 0
    for mark in re.sub(r'"(\\.|[^"\\])*"', "", text):
        depth += (mark in "[{") - (mark in "]}")
        deepest = max(deepest, depth)
    if deepest > 32:
        raise QuarantineError("depth")
    repeated = []

    def number(token: str) -> float:
        if math.isinf(float(token)):
            raise ValueError(token)
        return float(token)

    def pairs(items: list) -> dict:
        repeated.append(len(items) > len(dict(items)))
        return dict(items)

    def refuse(token: str) -> None:
        raise ValueError(token)

    try:
        value = json.loads(text, parse_float=number, parse_constant=refuse, object_pairs_hook=pairs)
    except ValueError:
        raise QuarantineError("json") from None
    if any(repeated):
        raise QuarantineError("duplicate_key")
    if not isinstance(value, dict):
        raise QuarantineError("not_object")
    return value


def judge(text: str, received: datetime | None) -> dict:
    report = parse(text)
    if not validator.is_valid(report):
        raise QuarantineError("schema")
    age = received - moment(report["recorded_at"]) if received else timedelta(0)
    if age > timedelta(hours=1):
        raise QuarantineError("stale")
    if age < -timedelta(seconds=60):
        raise QuarantineError("future")
    return report


def read(folder: Path) -> list[tuple[str, datetime | None, str]]:
    """(file, received_at, payload) of every line, in order."""
    openers = {".gz": gzip.open, ".zst": zstandard.open, ".ndjson": open}
    messages: list[tuple[str, datetime | None, str]] = []
    for path in sorted(folder.glob("*.ndjson*")):
        with openers[path.suffix](path, "rt", encoding="utf-8") as file:
            for line in file:
                envelope = ENVELOPE.fullmatch(line.rstrip("\n"))
                if not envelope:
                    messages.append((path.name, None, line.rstrip("\n")))
                    continue
                data = envelope[4]
                payload = json.loads(data) if data.startswith('"') else data
                messages.append((path.name, moment(envelope[3] + "Z"), payload))
    return messages


def fates(messages: list[tuple[str, datetime | None, str]]) -> tuple[list[dict], list[dict], Counter]:
    """The reports, the duplicates, and how many messages are quarantined for which reason."""
    good, copies, reasons, seen = [], [], Counter(), set()
    for _, received, payload in messages:
        try:
            report = judge(payload, received)
        except QuarantineError as wrong:
            reasons[str(wrong)] += 1
            continue
        identity = json.dumps(report, sort_keys=True)
        (copies if identity in seen else good).append({**report, "received": received})
        seen.add(identity)
    return good, copies, reasons


def generated(folder: Path, *options: str) -> dict:
    assert run(["generate", "--output", str(folder), *options]) == 0
    return json.loads((folder / "truth.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def by_agent(documents: list[dict]) -> dict[str, list[dict]]:
    groups: dict[str, list[dict]] = {}
    for document in documents:
        groups.setdefault(document["agent_id"], []).append(document)
    return groups


def minute(document: dict) -> int:
    return int(moment(document["recorded_at"]).timestamp() // 60)


@pytest.mark.parametrize(
    "options", [["--compress", "zst"], ["--bare"], ["--scenario", "performance", "--span", "90m"]]
)
def test_the_truth_counts_what_an_independent_reader_finds(tmp_path: Path, options: list[str]) -> None:
    shares = [word for name, share in ORDINARY.items() for word in (f"--{name}", str(share))]
    truth = generated(tmp_path, "--reports", "1500", "--agents", "3", "--span", "6h", *shares, *options)
    messages = read(tmp_path)
    good, copies, reasons = fates(messages)
    assert truth["messages"] == len(messages) == 1500
    assert truth["files"] == Counter(file for file, _, _ in messages)
    assert (truth["reports"], truth["duplicates"], truth["quarantined"]) == (
        len(good),
        len(copies),
        sum(reasons.values()),
    )
    assert truth["quarantined_by_reason"] == reasons
    assert (len(copies), sum(reasons.values()), truth["late"]) == (75, 150, 75)
    assert truth["agents"] == len(by_agent(good))
    assert ("stale" in reasons) == ("--bare" not in options)
    known = {report["task_id"] for report in good}
    injected = [task for tasks in truth["outlier_task_ids"].values() for task in tasks]
    assert truth["outliers"] == len(set(injected)) > 0
    assert known.issuperset(injected)


def test_envelopes_lie_in_order_of_arrival_in_the_file_of_their_hour(tmp_path: Path) -> None:
    generated(tmp_path, "--reports", "1000", "--span", "2s")
    ids = []
    for path in sorted(tmp_path.glob("*.ndjson")):
        for line in path.read_text().splitlines():
            envelope = ENVELOPE.fullmatch(line)
            assert envelope, line
            received = moment(envelope[3] + "Z")
            assert path.name == f"{received:%Y-%m-%dT%H}.ndjson"
            ids.append((int(envelope[1]), int(envelope[2])))
            assert ids[-1][0] == (received - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert ids == sorted(set(ids))
    assert max(sequence for _, sequence in ids) > 0


def test_late_reports_are_a_minute_to_fifty_late_and_the_others_two_seconds(tmp_path: Path) -> None:
    truth = generated(tmp_path, "--reports", "800", "--late", "0.1")
    good, copies, _ = fates(read(tmp_path))
    delays = np.array(
        [(report["received"] - moment(report["recorded_at"])).total_seconds() for report in good]
    )
    assert truth["late"] == (delays > 60).sum() == 80
    assert delays.min() > 0.001
    assert delays[delays <= 60].max() < 2 + 1, "a cut fraction takes less than a second off recorded_at"
    assert all((copy["received"] - moment(copy["recorded_at"])) < timedelta(minutes=56) for copy in copies)


def test_arrivals_fill_their_ranges_to_the_edge_and_stop_there() -> None:
    mix = Mix(200_000, dirty=0, duplicates=0.4, late=0.5, outliers=0)
    dealt = deal_fates(mix, seed=0, bare=False)
    sent = draw_arrivals(np.zeros(mix.rows, np.int64), dealt, mix, seed=0)
    seconds = sent.received / 1e6
    late, again = dealt.late[sent.row], sent.kind != REPORT
    assert (late & ~again).sum() == 100_000
    for chosen, low, high in ((late & ~again, 61, 3000), (~late & ~again, 0.002, 2), (again, 1, 3300)):
        assert low <= seconds[chosen].min() < low * 1.5 + 1
        assert high * 0.99 < seconds[chosen].max() <= high


def test_copies_are_byte_equal_or_spelled_anew_and_arrive_later(tmp_path: Path) -> None:
    generated(tmp_path, "--reports", "800", "--duplicates", "0.2", "--dirty", "0")
    messages = [
        (json.dumps(json.loads(payload), sort_keys=True), at, payload) for _, at, payload in read(tmp_path)
    ]
    firsts = {identity: (at, payload) for identity, at, payload in reversed(messages)}
    copies = [
        (at, payload, *firsts[identity]) for identity, at, payload in messages if at != firsts[identity][0]
    ]
    assert len(copies) == 160
    assert all(at - first >= timedelta(seconds=1) for at, _, first, _ in copies)
    anew = [(payload, original) for _, payload, _, original in copies if payload != original]
    assert 40 < len(anew) < 120
    assert all(
        list(json.loads(payload)) == list(reversed(json.loads(original))) for payload, original in anew
    )


def test_respelling_changes_order_and_spaces_at_every_depth() -> None:
    assert respell('{"a":1.5,"b":{"c":[{"d":1,"e":2}],"f":null}}') == (
        '{"b" : {"f" : null , "c" : [{"d" : 1 , "e" : 2}]} , "a" : 1.5}'
    )


@pytest.mark.parametrize("name", [name for name, dirt in DIRT.items() if not dirt.shift_seconds])
def test_each_kind_of_dirt_gets_its_reason(name: str) -> None:
    documents = KpiTestGenerator(agents=2).generate_batch(12)
    for number, document in enumerate(documents):
        payload = DIRT[name].spoil(document, number)
        with pytest.raises(QuarantineError, match=f"^{DIRT[name].reason}$"):
            judge(payload if isinstance(payload, str) else json.dumps(payload), None)


def test_the_kinds_of_dirt_are_dealt_out_evenly(tmp_path: Path) -> None:
    counts = generated(tmp_path, "--reports", "400", "--dirty", "0.5")["quarantined_by_kind"]
    assert set(counts) == set(DIRT)
    assert set(counts.values()) == {11, 12}


@settings(max_examples=25, deadline=None)
@given(
    agents=st.integers(1, 60),
    seed=st.integers(0, 2**40),
    count=st.integers(0, 40),
    types=st.lists(st.text(max_size=100).filter(str.isprintable), min_size=1, max_size=3).map(tuple),
    hours=st.floats(0.001, 10_000),
)
def test_a_batch_is_valid_ordered_and_the_same_every_time(
    agents: int, seed: int, count: int, types: tuple, hours: float
) -> None:
    generator = KpiTestGenerator(agents=agents, seed=seed, task_types=types, span=timedelta(hours=hours))
    documents = generator.generate_batch(count)
    assert [error.message for document in documents for error in validator.iter_errors(document)] == []
    assert generator.generate_batch(count) == documents
    tasks = {uuid.UUID(document["task_id"]) for document in documents}
    assert len(tasks) == count
    assert {(task.version, task.variant) for task in tasks} <= {(4, uuid.RFC_4122)}
    times = [moment(document["recorded_at"]).replace(microsecond=0) for document in documents]
    assert times == sorted(times)
    assert all(generator.start <= time <= generator.start + generator.span for time in times)


def test_a_batch_holds_every_optional_field_and_spelling() -> None:
    documents = KpiTestGenerator(seed=1).generate_batch(4000)
    has = Counter(name for document in documents for name in document)
    assert 0.04 < has["error_details"] / 4000 < 0.06
    assert {
        "network_bytes",
        "custom_metrics",
        "gpu_utilization",
        "source_layer",
        "target_agent_type",
        "priority",
    } < set(has)
    assert {"trace_id", "labels", "retries"} <= set(has)
    assert (
        len({tuple(document["custom_metrics"]) for document in documents if "custom_metrics" in document})
        == 4
    )
    fractions = {
        len(found[1] or ".") - 1
        for document in documents
        if (found := DATE_TIME.fullmatch(document["recorded_at"]))
    }
    assert fractions == set(range(10))
    assert {document["recorded_at"][-6:] for document in documents} > {"+02:00", "-05:30", "+00:00"}


def test_another_seed_makes_other_agents_and_reports() -> None:
    first, second = (KpiTestGenerator(seed=seed).generate_batch(50) for seed in (0, 1))
    for name in ("task_id", "agent_id"):
        assert not {document[name] for document in first} & {document[name] for document in second}


def test_outliers_are_what_exact_quartiles_of_an_hour_flag() -> None:
    generator = KpiTestGenerator(agents=4, seed=3)
    documents = generator.generate_anomaly_scenario(1600, outliers=0.03)
    injected = {
        metric: set(tasks) for metric, tasks in generator.anomaly_task_ids(1600, outliers=0.03).items()
    }
    flagged: dict[str, set] = {metric: set() for metric in COLUMNS}
    for own in by_agent(documents).values():
        minutes = np.array([minute(document) for document in own])
        for metric, column in COLUMNS.items():
            values = np.array([document[column] for document in own])
            for value, now, document in zip(values, minutes, own):
                past = values[(minutes >= now - 62) & (minutes < now - 2)]
                if len(past) < 40:
                    continue
                q1, q3 = np.quantile(past, [0.25, 0.75], method="inverted_cdf")
                adverse = q1 - value if metric == "accuracy" else value - q3
                if max(q1 - value, value - q3) > 3 * (q3 - q1):
                    assert adverse >= 6 * (q3 - q1)
                    flagged[metric].add(document["task_id"])
    assert flagged == injected
    assert [len(tasks) for tasks in injected.values()] == [12, 12, 12, 12]


def test_agents_of_the_anomaly_scenario_report_every_twenty_to_sixty_seconds() -> None:
    for own in by_agent(KpiTestGenerator(agents=7).generate_anomaly_scenario(700)).values():
        gaps = np.diff([moment(document["recorded_at"]).timestamp() for document in own])
        assert len(own) == 100
        assert gaps.min() > 20 - 3, "a fifth of an interval, and a cut fraction, may come off on both sides"
        assert gaps.max() < 60
        assert np.median(gaps) == pytest.approx(30, abs=1)


def test_no_outlier_comes_before_its_agent_has_a_history(tmp_path: Path) -> None:
    truth = generated(
        tmp_path, "--reports", "900", "--agents", "2", "--span", "8h", "--outliers", "0.5", "--dirty", "0.3"
    )
    good, _, _ = fates(read(tmp_path))
    on_time = [
        report
        for report in good
        if report["received"] - moment(report["recorded_at"]) <= timedelta(seconds=60)
    ]
    feeding = {
        agent: np.array([minute(report) for report in own]) for agent, own in by_agent(on_time).items()
    }
    known = {report["task_id"]: report for report in on_time}
    for task in (task for tasks in truth["outlier_task_ids"].values() for task in tasks):
        past = feeding[known[task]["agent_id"]] - minute(known[task])
        assert ((past >= -62) & (past < -2)).sum() >= 40
    assert 0 < truth["outliers"] < truth["outliers_asked"] == 450


def test_too_little_history_means_no_outliers_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = generated(tmp_path, "--reports", "100")
    assert (truth["outliers"], truth["outliers_asked"]) == (0, 1)
    assert "--outliers asks for 1 outlier, none could be made" in capsys.readouterr().out


def bump(hour: np.ndarray) -> np.ndarray:
    return np.exp(-(((hour - 14) / 2.5) ** 2))


FACTORS = ("latency", "memory")
CHANGES: dict[str, dict[str, Callable]] = {
    "steady": {},
    "degrading": {"latency": lambda gone, hour: 1 + 1.5 * gone, "accuracy": lambda gone, hour: -0.15 * gone},
    "daily_peak": {"latency": lambda gone, hour: 1 + bump(hour), "cpu": lambda gone, hour: 0.2 * bump(hour)},
    "step_change": {
        "latency": lambda gone, hour: np.where(gone < 0.5, 1, 1.8),
        "memory": lambda gone, hour: np.where(gone < 0.5, 1, 1.5),
    },
    "slow": {"latency": lambda gone, hour: 4},
    "improving": {"latency": lambda gone, hour: 1 - 0.5 * gone, "cpu": lambda gone, hour: -0.05 * gone},
}


@pytest.mark.parametrize("pattern", CHANGES)
def test_a_performance_pattern_changes_what_the_same_agent_reports_when_steady(pattern: str) -> None:
    generator = KpiTestGenerator(agents=6, seed=5, span=timedelta(hours=24))
    agent = {name: agent for agent, name in generator.performance_patterns().items()}[pattern]
    steady, shaped = (
        by_agent(made(2000))[agent]
        for made in (generator.generate_batch, generator.generate_performance_scenario)
    )
    seconds = np.array(
        [(moment(document["recorded_at"]) - generator.start).total_seconds() for document in shaped]
    )
    for metric, column in COLUMNS.items():
        before, after = (
            np.array([document[column] for document in documents]) for documents in (steady, shaped)
        )
        change = CHANGES[pattern].get(metric)
        amount = change(seconds / 86400, seconds / 3600) if change else float(metric in FACTORS)
        expected = before * amount if metric in FACTORS else before + amount
        np.testing.assert_allclose(after, expected, rtol=1e-3, atol=2e-4, err_msg=metric)


@pytest.mark.parametrize("compress", ["none", "gz", "zst"])
def test_equal_options_give_equal_bytes(tmp_path: Path, compress: str) -> None:
    options = ["--reports", "300", "--seed", "9", "--compress", compress]
    for folder in ("a", "b"):
        generated(tmp_path / folder, *options)
    generated(tmp_path / "c", *options[:3], "10", *options[4:])
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_the_bytes_of_a_seed_are_the_same_in_every_version(tmp_path: Path) -> None:
    generated(tmp_path, "--reports", "300", "--agents", "3", "--span", "6h", "--seed", "5")
    digest = hashlib.sha256()
    for path in sorted(tmp_path.iterdir()):
        digest.update(path.read_bytes())
    assert digest.hexdigest() == "686ddbd2a30fbb165af2bade6bed6fa0dd2fd1c27f073c36397a4f2ae6a77b87"


def test_a_gzip_file_holds_no_time_of_writing(tmp_path: Path) -> None:
    generated(tmp_path, "--reports", "10", "--compress", "gz")
    assert {path.read_bytes()[4:8] for path in tmp_path.glob("*.gz")} == {bytes(4)}


def test_an_earlier_generation_is_replaced_and_foreign_files_stay(tmp_path: Path) -> None:
    generated(tmp_path / "new", "--reports", "40", "--span", "1h")
    generated(tmp_path / "used", "--reports", "400", "--span", "48h", "--compress", "gz")
    (tmp_path / "used" / "notes.txt").write_text("mine")
    generated(tmp_path / "used", "--reports", "40", "--span", "1h")
    assert contents(tmp_path / "used") == contents(tmp_path / "new") | {"notes.txt": b"mine"}


def test_a_generation_cut_short_says_so_and_can_be_replaced(tmp_path: Path) -> None:
    archive = prepare_archive(KpiTestGenerator(), "normal", Mix(100), Form())

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunFailed, match=r"cannot write .*No space left"):
        write_archive(archive, tmp_path, full)
    assert json.loads((tmp_path / "truth.json").read_text()) == {"complete": False}
    assert generated(tmp_path, "--reports", "100")["complete"]


def test_a_folder_with_other_things_is_refused_untouched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "2025-10-20T00.ndjson").write_text("mine")
    assert run(["generate", "--output", str(tmp_path), "--reports", "10"]) == 2
    assert contents(tmp_path) == {"2025-10-20T00.ndjson": b"mine"}
    assert "give --output a new or an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--dirty", "1.5"], "dirty = 1.5 is not a share"),
        (["--late", "-0.1"], "late = -0.1 is not a share"),
        (["--outliers", "nan"], "outliers = nan is not a share"),
        (["--dirty", "0.6", "--duplicates", "0.4"], "must add up to less than 1"),
        (["--reports", "0"], "ask for 1 or more"),
        (["--agents", "0"], "ask for 1 or more"),
        (["--seed", "-1"], "give 0 or more"),
        (["--span", "two days"], "such as 48h"),
        (["--span", "99999d"], "not from 1 s to 10 years"),
        (["--start", "yesterday"], "write it like 2025-10-20T00:00:00Z"),
        (["--start", "2025-10-20"], "has no time zone"),
        (["--start", "1969-01-01T00:00:00Z"], "outside the years"),
        (["--records", "--inconsistent", "2"], "inconsistent = 2.0 is not a share"),
        (["--records", "--clock-skew", "31"], "give 0 to 30 seconds"),
        (["--records", "--bare"], "bare reports cannot have records"),
        (["--clock-skew", "1"], "add --records"),
        (["--scenario", "anomaly", "--reports", "100"], "ask for 4000 reports or for fewer agents"),
        (["--scenario", "anomaly", "--reports", "10000", "--span", "48h"], "leave the span out"),
    ],
)
def test_wrong_use_is_explained(
    tmp_path: Path, options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["generate", "--output", str(tmp_path / "out"), *options]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"latency_median_ms": 100_000.0}, "outliers of latency would be outside"),
        ({"accuracy_deviation": 0.1}, "outliers of accuracy would be outside"),
        ({"accuracy_median": 1.2}, "outliers of accuracy would be outside"),
        ({"latency_sigma": 0.0}, "must be above 0"),
        ({"task_types": ()}, "at least one name"),
        ({"task_types": ("x" * 101,)}, "100 characters"),
        ({"start": datetime(2025, 1, 1)}, "no time zone"),
    ],
)
def test_fields_that_cannot_make_legal_reports_are_refused(fields: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        KpiTestGenerator(**fields)


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=5))
def test_uuid_texts_are_those_of_the_uuid_module(octets: list[bytes]) -> None:
    array = np.frombuffer(b"".join(octets), np.uint8).reshape(-1, 16)
    assert format_uuids(array).to_pylist() == [str(uuid.UUID(bytes=one)) for one in octets]


@given(st.lists(st.datetimes(datetime(1971, 1, 1), datetime(9000, 1, 1)), min_size=1, max_size=5))
def test_time_texts_have_six_digits_always(moments: list[datetime]) -> None:
    micros = np.array([(one - datetime(1970, 1, 1)) // timedelta(microseconds=1) for one in moments])
    assert format_times(micros).to_pylist() == [one.isoformat(timespec="microseconds") for one in moments]


def test_the_example_in_the_documentation_is_true() -> None:
    assert doctest.testmod(reports) == (0, 3)
