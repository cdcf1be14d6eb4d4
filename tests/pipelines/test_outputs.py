"""What an `--output` means."""

from pathlib import Path

import pytest

from pipelines.cli import run, split
from pipelines.commands.stream import choose_home
from pipelines.failures import WrongUse
from pipelines.outputs import SCHEMES, local_folder, open_for_reading, open_outputs, parse_outputs, parse_sink
from pipelines.settings import Settings
from transforms.sinks.parquet.outcome_ledger import OutcomeLedger


def test_a_path_is_a_folder_whatever_its_characters(tmp_path: Path) -> None:
    for text in (f"{tmp_path}/a b%20ü#?", "relative/out", f"file://{tmp_path}/x%20y"):
        folder = local_folder(parse_sink(text, Settings()))
        assert folder == (tmp_path / "x y" if text.startswith("file") else Path(text).absolute())


def test_an_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(WrongUse, match="there is no kind of output ftp://") as refused:
        parse_sink("ftp://host/x", Settings())
    assert all(scheme.form in refused.value.fix for scheme in SCHEMES.values())


@pytest.mark.parametrize(
    "text", ["bigquery://project", "victoriametrics+http://", "influxdb+https://host", "s3://"]
)
def test_a_url_of_another_form_is_refused_with_the_right_one(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WrongUse) as refused:
        parse_sink(text, Settings(influxdb_token="t"))
    assert refused.value.fix == f"write it as {SCHEMES[text.partition(':')[0]].form}"


def test_influxdb_without_a_token_names_the_variable() -> None:
    with pytest.raises(WrongUse) as refused:
        parse_sink("influxdb+http://localhost/bucket?org=o", Settings())
    assert "KPIFLOW_INFLUXDB_TOKEN" in refused.value.fix


@pytest.mark.parametrize("words", [["--influxdb-token", "t"], ["--redis-password=t"]])
def test_a_secret_is_no_flag(words: list[str]) -> None:
    with pytest.raises(WrongUse, match="is a secret") as refused:
        split(["stream", *words])
    assert "KPIFLOW_" in refused.value.fix


def test_a_job_needs_one_output_that_keeps_tables(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="keeps no tables"):
        open_outputs(["victoriametrics+http://localhost:1"], Settings())
    with (
        pytest.raises(WrongUse, match="keeps no tables"),
        open_for_reading("victoriametrics+http://localhost:1", Settings()),
    ):
        pass


@pytest.mark.parametrize("first", ["bigquery://project/data", "folder"])
def test_outcomes_are_counted_in_the_first_output_that_keeps_tables_if_it_is_of_files(
    first: str, tmp_path: Path
) -> None:
    texts = [first, str(tmp_path / "second"), "victoriametrics+http://localhost:1"]
    outputs = parse_outputs(texts, Settings()).count_in(OutcomeLedger(tmp_path / "outcomes"))
    counted = [getattr(sink, "ledger", None) is not None for sink in outputs.sinks]
    assert counted == [first == "folder", False, False]
    assert (tmp_path / "outcomes").exists() == (first == "folder")


def test_each_folder_keeps_the_span_of_its_own_files(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    open_outputs([str(old)], Settings(file_minutes=10))
    outputs, settings = open_outputs([str(new), str(old), str(new)], Settings(), file_minutes=1)
    assert [each.file_minutes for each in outputs.sinks] == [1, 10]
    assert (settings.file_minutes, outputs.folders, outputs.main.name) == (1, [new, old], str(new))


def test_a_job_is_at_home_in_its_first_folder_unless_it_is_told_where(tmp_path: Path) -> None:
    assert choose_home(["s3://b/x", "a", "b"], None) == Path("a")
    assert choose_home(["s3://b/x"], tmp_path) == tmp_path
    with pytest.raises(WrongUse, match="folder on this machine for its checkpoints") as refused:
        choose_home(["s3://b/x"], None)
    assert "--state DIR" in refused.value.fix


def test_doctor_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "precious").touch()
    assert run(["doctor", "--output", str(tmp_path / "new"), "--output", str(foreign)]) == 1
    told = capsys.readouterr()
    assert "no output of kpiflow: it holds precious" in " ".join(told.out.split())
    assert "1 problem would keep a job from working" in " ".join(told.err.split())
    assert not (tmp_path / "new").exists()


def test_doctor_finds_nothing_wrong_where_all_is_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--output", str(tmp_path / "new")]) == 0
    assert " no " not in capsys.readouterr().out


def test_doctor_tells_that_a_store_was_shaped_by_other_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_outputs([str(tmp_path)], Settings(iqr_factor=2.0))
    assert run(["doctor", "--output", str(tmp_path)]) == 1
    assert "iqr_factor is 3.0 now and was 2.0" in " ".join(capsys.readouterr().out.split())


def test_doctor_goes_on_after_an_output_that_it_cannot_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--output", "influxdb+http://localhost:1/b?org=o", "--output", str(tmp_path)]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "set KPIFLOW_INFLUXDB_TOKEN in the environment" in told
    assert f"{tmp_path} ok " in told


def test_doctor_looks_at_redis(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--redis", "redis://localhost:1", "--stream", "s"]) == 1
    assert "redis://localhost:1" in capsys.readouterr().out
    assert run(["doctor"]) == 2
