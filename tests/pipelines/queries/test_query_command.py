"""`kpiflow query`: lists, explains, formats, files, cuts and exit codes."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli import run
from pipelines.queries.formats import FORMATS
from pipelines.queries.registry import QUERIES
from pipelines.queries.run import Answer
from tests.pipelines.queries.small_output import AGENTS, START, ask, make_output
from transforms.core.counts import format_count


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_output(tmp_path_factory.mktemp("command") / "out")


@pytest.fixture(scope="module")
def answer(output: Path) -> Answer:
    return ask(output, "reports-by-task", 2, task_id="task 100")


def test_every_query_is_listed_with_its_parameters(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["query", str(output)]) == 0
    printed = capsys.readouterr().out
    for each in QUERIES.values():
        (line,) = (line for line in printed.splitlines() if line.startswith(f" {each.name} "))
        assert all(parameter.name in line for parameter in each.parameters)
        assert each.summary in line


@pytest.mark.parametrize("name", QUERIES)
def test_help_explains_a_query(name: str, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["query", str(output), name, "--help"]) == 0
    printed = capsys.readouterr().out
    assert QUERIES[name].sql.strip() in printed
    assert ", ".join(QUERIES[name].columns.names) in printed


def test_help_without_a_name_is_that_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["query", "--help"]) == 0
    assert "--cursor" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["agent-sumary"], "give agent-summary"),
        (["agent-summary", "agent=x"], "give agent_id"),
        (["agent-over-time"], "add agent_id=VALUE"),
        (["agent-summary", "agent 0"], "write PARAMETER=VALUE"),
        (["agent-summary", "agent_id=a", "agent_id=b"], "give it once"),
        (["agent-summary", "--cursor", "x"], "copy it whole"),
        (["agent-summary", "--from", "noon"], "2025-10-22T10:00:00Z"),
        (["agent-summary", "--output", "rows.txt"], "give --format"),
        (["agent-summary", "--output", "no/folder.csv"], "in a folder that exists"),
    ],
)
def test_wrong_use_names_the_fix(
    words: list[str], fix: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["query", str(output), *words]) == 2
    assert fix in capsys.readouterr().err


def test_an_output_must_be_a_folder_with_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["query", str(tmp_path), "agent-summary"]) == 2
    assert run(["query", "s3://bucket/out", "agent-summary"]) == 2
    make_output(tmp_path)
    (tmp_path / "features").rename(tmp_path / "elsewhere")
    assert run(["query", str(tmp_path), "features"]) == 2
    assert "kpiflow derive" in capsys.readouterr().err


def test_a_cut_is_on_stderr_and_in_the_json(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["query", str(output), "agent-over-time", f"agent_id={AGENTS[0]}", "--format", "json"]
    assert run([*asked, "--limit", "100"]) == 0
    printed = capsys.readouterr()
    first = json.loads(printed.out)
    assert (first["row_count"], len(first["rows"]), first["is_cut"]) == (100, 100, True)
    assert first["asked"] == {"agent_id": AGENTS[0]}
    assert f"--cursor {first['cursor']}" in printed.err
    assert run([*asked, "--limit", "1000", "--cursor", first["cursor"]]) == 0
    printed = capsys.readouterr()
    rest = json.loads(printed.out)
    assert (rest["is_cut"], rest["cursor"], printed.err) == (False, None, "")
    assert first["rows"][-1]["recorded_at"] >= rest["rows"][0]["recorded_at"]


def test_a_query_that_takes_too_long_fails(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["query", str(output), "anomalies", "--seconds", "0.001"]) == 3
    assert "was stopped after 0.001 s" in capsys.readouterr().err


def test_a_span_is_from_its_start_up_to_its_end(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bounds = ["--from", START.isoformat(), "--to", "2025-10-20T20:20:00Z"]
    assert run(["query", str(output), "features", *bounds, "--format", "ndjson"]) == 0
    times = [json.loads(line)["recorded_at"] for line in capsys.readouterr().out.splitlines()]
    assert min(times) == "2025-10-20T20:00:00+00:00"
    assert max(times) < "2025-10-20T20:20"


def test_a_table_prints_few_columns_as_rows_and_many_as_lists(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["query", str(output), "agent-summary"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(AGENTS)
    assert run(["query", str(output), "reports-by-task", "task_id=task 9"]) == 0
    assert capsys.readouterr().out.count(" task_id ") == 3
    assert run(["query", str(output), "reports-by-task", "task_id=none"]) == 0
    assert capsys.readouterr().out == "no rows\n"


@pytest.mark.parametrize("suffix", ["arrows", "parquet"])
def test_a_file_has_the_rows_and_types(suffix: str, output: Path, answer: Answer, tmp_path: Path) -> None:
    target = tmp_path / f"rows.{suffix}"
    asked = ["query", str(output), "reports-by-task", "task_id=task 100", "--limit", "2"]
    assert run([*asked, "--output", str(target)]) == 0
    found = pq.read_table(target) if suffix == "parquet" else pa.ipc.open_stream(target).read_all()
    assert found.schema == answer.rows.schema
    assert found == answer.rows
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_json_and_ndjson_have_the_same_rows(answer: Answer) -> None:
    rows = json.loads(FORMATS["json"](answer))["rows"]
    assert [json.loads(line) for line in FORMATS["ndjson"](answer).splitlines()] == rows
    assert [row["custom_metrics"] for row in rows] == [{"tokens": 1.5}] * 2
    assert [row["report_id"] for row in rows] == answer.rows["report_id"].to_pylist()
    assert [row["latency_ms"] for row in rows] == answer.rows["latency_ms"].to_pylist()


def test_csv_has_the_same_values(answer: Answer) -> None:
    found = pd.read_csv(io.BytesIO(FORMATS["csv"](answer)), parse_dates=["recorded_at"])
    assert list(found.columns) == answer.rows.column_names
    assert list(found["recorded_at"]) == answer.rows["recorded_at"].to_pylist()
    assert list(found["latency_ms"]) == answer.rows["latency_ms"].to_pylist()
    assert [json.loads(text) for text in found["custom_metrics"]] == [{"tokens": 1.5}] * 2


def test_a_text_of_csv_is_no_formula_and_a_number_stays(answer: Answer) -> None:
    texts = ["=1+1", "+1", "-1", "@a", "\tx", "\rx", "a=1", None]
    rows = pa.table({"text": pa.array(texts), "number": pa.array(range(-8, 0))})
    found = pd.read_csv(io.BytesIO(FORMATS["csv"](replace(answer, rows=rows))), keep_default_na=False)
    assert list(found["text"])[:4] == ["'=1+1", "'+1", "'-1", "'@a"]
    assert [text[:1] for text in found["text"]] == ["'"] * 6 + ["a", ""]
    assert list(found["number"]) == list(range(-8, 0))


def test_a_value_that_json_cannot_write_is_null(answer: Answer) -> None:
    rows = pa.table({"value": pa.array([float("nan"), float("inf"), 1.0])})
    assert FORMATS["ndjson"](replace(answer, rows=rows)) == b'{"value":null}\n{"value":null}\n{"value":1.0}\n'


def test_a_terminal_obeys_nothing_in_a_text(answer: Answer) -> None:
    rows = pa.table({"text": ["\x1b[2J\x7f\u202e"]})
    for name in ("json", "ndjson"):
        rendered = FORMATS[name](replace(answer, rows=rows, cursor=None))
        assert all(32 <= byte < 127 or byte == 10 for byte in rendered)


def test_a_plan_names_files_rows_and_conditions_in_place_of_the_rows(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["query", str(output), "agent-over-time", f"agent_id={AGENTS[0]}", "--plan"]) == 0
    files, last, *before = capsys.readouterr().out.splitlines()
    rows = ask(output, "agent-over-time", 101, agent_id=AGENTS[0]).rows.num_rows
    opened = ask(output, "agent-over-time", agent_id=AGENTS[0]).files
    assert files == f"{format_count(opened, 'file')} opened"
    assert last.startswith(f"TOP_N: {format_count(rows, 'row')}, ")
    assert "recorded_at DESC" in last
    assert any("READ_PARQUET" in line and f"agent_id = '{AGENTS[0]}'" in line for line in before)


def test_a_plan_that_takes_too_long_is_stopped(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["query", str(output), "anomalies", "--plan", "--seconds", "0.001"]) == 3
    assert "was stopped after 0.001 s" in capsys.readouterr().err
