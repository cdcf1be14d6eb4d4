"""The template of Dataflow and the command line mean the same job: parameters, options and settings agree."""

import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import apache_beam
import pytest
import typer
from apache_beam.options.pipeline_options import PipelineOptions
from pydantic import ValidationError

from pipelines import cli
from pipelines.outputs import SCHEMES
from pipelines.settings import Settings
from runners.dataflow import NEEDED, STREAM, complete_flags

FOLDER = Path(__file__).parents[2] / "deploy" / "dataflow"
METADATA: dict[str, Any] = json.loads((FOLDER / "metadata.json").read_text(encoding="utf-8"))
PARAMETERS = {parameter["name"]: parameter for parameter in METADATA["parameters"]}
COMMAND: Any = typer.main.get_command(cli.app(["stream"])).commands["stream"]  # type: ignore[attr-defined]
OF_THE_COMMAND = {flag.removeprefix("--").replace("-", "_") for each in COMMAND.params for flag in each.opts}

OF_FLINK = "it is about Flink"
OF_A_BACKFILL = "a backfill has it"
SECRET = "it is a secret, and the console shows parameters"
LEFT_OUT = {
    **dict.fromkeys(("stream_workers", "checkpoint_seconds", "renew_seconds", "heap_mb"), OF_FLINK),
    **dict.fromkeys(("read_mb", "workers", "block_reports", "block_hours"), OF_A_BACKFILL),
    **dict.fromkeys(
        ("redis_password", "influxdb_token", "victoriametrics_password", "victoriametrics_token"), SECRET
    ),
    "victoriametrics_user": "it goes with a password, which is a secret",
}
"""Settings that are no parameter, with the reason."""
COMPUTED = {"shards"}
"""Settings whose default a job works out: a template that gave it would overrule the job."""
OPTIONS_LEFT_OUT = {
    "archive": "it is a folder of this machine",
    "config": "it is a file of this machine",
    "runner": "a template is Dataflow's",
    "dry_run": "a template starts a job",
    "source": "it is another name of redis",
    **dict.fromkeys(("state", "fresh", "until_idle", "flink_master", "environment"), OF_FLINK),
}
"""The same for the other options of the command."""
RUBBISH = ("", " ", "\t", "a\nb", "x  y", " x")
NUMBERS = {name for name, field in Settings.model_fields.items() if field.annotation in (int, float)}


def accepted(name: str, value: str) -> bool:
    return all(re.fullmatch(regex, value) for regex in PARAMETERS[name]["regexes"])


def example(name: str) -> str:
    text: str = PARAMETERS[name]["helpText"]
    return text.rpartition(" For example: ")[2]


@pytest.fixture(scope="module")
def template() -> Any:
    spec = spec_from_file_location("template", FOLDER / "template.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_is_an_option_a_setting_or_needed_by_the_job(name: str) -> None:
    assert name in OF_THE_COMMAND | set(Settings.model_fields) | set(NEEDED)


def test_every_setting_is_a_parameter_or_left_out_for_a_reason() -> None:
    known = set(Settings.model_fields)
    assert known - set(PARAMETERS) == set(LEFT_OUT)
    assert OF_THE_COMMAND - known - set(PARAMETERS) <= set(OPTIONS_LEFT_OUT)


def test_secrets_are_no_parameters() -> None:
    assert {name for name, reason in LEFT_OUT.items() if reason == SECRET} == set(Settings.secrets())


def test_the_command_knows_what_the_template_hands_to_it(template: Any) -> None:
    assert set(template.COMMAND_OPTIONS) <= OF_THE_COMMAND & set(PARAMETERS)
    assert set(PARAMETERS) <= {*template.COMMAND_OPTIONS, *NEEDED, *Settings.model_fields}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_says_all_that_the_console_shows(name: str) -> None:
    parameter = PARAMETERS[name]
    assert set(parameter) - {"defaultValue"} == {
        "name",
        "label",
        "helpText",
        "paramType",
        "isOptional",
        "regexes",
    }
    assert parameter["paramType"] in ("TEXT", "BOOLEAN")
    assert all(regex.startswith("^") and regex.endswith("$") for regex in parameter["regexes"])


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_regex_accepts_the_example_and_the_default_and_no_rubbish(name: str) -> None:
    assert accepted(name, example(name))
    assert accepted(name, PARAMETERS[name].get("defaultValue", example(name)))
    assert [text for text in RUBBISH if accepted(name, text)] == []


@pytest.mark.parametrize("name", sorted(set(PARAMETERS) & set(Settings.model_fields)))
def test_a_setting_is_described_as_where_it_is_declared(name: str) -> None:
    field, parameter = Settings.model_fields[name], PARAMETERS[name]
    assert parameter["helpText"] == f"{field.description} For example: {example(name)}"
    assert parameter["isOptional"]
    computed = field.default is None or name in COMPUTED
    assert parameter.get("defaultValue") == (None if computed else str(field.default))


@pytest.mark.parametrize("name", sorted(set(PARAMETERS) & NUMBERS))
@pytest.mark.parametrize("text", ["-1", "abc", "1e9", "nan", "0x10", "1,000", "1 "])
def test_a_regex_of_a_number_refuses_what_is_none(name: str, text: str) -> None:
    assert not accepted(name, text)


@pytest.mark.parametrize("name", sorted(set(PARAMETERS) & NUMBERS))
def test_an_example_is_a_value_that_the_setting_takes(name: str) -> None:
    assert str(getattr(Settings(**{name: example(name)}), name)).removesuffix(".0") == example(name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("future_seconds", "61"),
        ("peak_start_hour", "24"),
        ("peak_end_hour", "0"),
        ("file_minutes", "7"),
        ("flat_margin", "1.0"),
    ],
)
def test_a_regex_refuses_a_value_out_of_range_as_the_job_does(name: str, text: str) -> None:
    assert not accepted(name, text)
    if name != "future_seconds":  # only a stream refuses it
        with pytest.raises(ValidationError):
            Settings(**{name: text})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("redis", "redis://user:password@host:6379"),
        ("redis", "http://host"),
        ("redis", "redis://"),
        ("output", "/data/tables"),
        ("output", "file:///data"),
        ("output", "gs://bucket  gs://other"),
        ("output", "s3://key:secret@bucket"),
        ("sdk_container_image", "worker"),
        ("sdk_container_image", "europe-docker.pkg.dev/p/r/worker"),
        ("live", "yes"),
        ("redis_ca", "ca.pem"),
        ("time_zone", "../../etc/passwd"),
    ],
)
def test_a_regex_refuses_what_the_job_could_not_use(name: str, text: str) -> None:
    assert not accepted(name, text)


@pytest.mark.parametrize(
    "image",
    ["a.dev/p/r/w:1", "a.dev:5000/p/w:v1.0_b", f"a.dev/p/w@sha256:{'0' * 64}", "a.dev/p/w", "w:1", "A/b:1"],
)
def test_the_job_and_the_template_agree_on_images(image: str) -> None:
    assert accepted("sdk_container_image", image) is bool(
        re.fullmatch(NEEDED["sdk_container_image"][0], image)
    )


def test_parameters_become_the_flags_of_the_command(template: Any) -> None:
    given = [
        "--redis=redis://h:6379/0",
        "--stream=eu us",
        "--output=gs://b/t bigquery://p/d",
        "--live=true",
        "--iqr_factor=2.5",
    ]
    assert template.make_command(given) == [
        "stream", "--runner=dataflow", "--redis=redis://h:6379/0", "--stream=eu", "--stream=us",
        "--output=gs://b/t",
        "--output=bigquery://p/d", "--live", "--iqr-factor=2.5", "--",
    ]  # fmt: skip


def test_what_the_launcher_adds_becomes_the_options_of_beam(template: Any) -> None:
    added = [
        "--project=p", "--job_name=kpis", "--temp_location=gs://bucket/t", "--max_num_workers=3",
        "--update", "--worker_machine_type=n2-standard-4", '--labels={"team": "kpi"}',
        "--no_use_public_ips", "--experiments=a",
    ]  # fmt: skip
    words = template.make_command(["--runner=DataflowRunner", "--streaming", "--group=g", *added])
    assert words[2:] == ["--group=g", "--", *added]
    flags = complete_flags([*added, "--region=europe-west1", "--sdk_container_image=a.dev/p/w:1"], STREAM)
    options = PipelineOptions(flags).get_all_options()
    read = [
        options[name] for name in ("job_name", "max_num_workers", "machine_type", "use_public_ips", "update")
    ]
    assert read == ["kpis", 3, "n2-standard-4", False, True]
    assert options["labels"] == ['{"team": "kpi"}']  # which Beam reads when it makes the job


def test_a_switch_is_given_where_it_is_true_and_an_empty_value_is_none(template: Any) -> None:
    assert template.make_command(["--live=false", "--redis_user="])[2:] == ["--"]
    assert template.make_command(["--live=TRUE"])[2:] == ["--live", "--"]
    with pytest.raises(ValueError, match="live is 'maybe'; it can be true or false"):
        template.make_command(["--live=maybe"])


def test_the_settings_of_a_template_are_read_by_the_command(template: Any) -> None:
    given = {name: example(name) for name in sorted(set(PARAMETERS) & set(Settings.model_fields))}
    words, invocation = cli.split(
        template.make_command([f"--{name}={value}" for name, value in given.items()])
    )
    assert (words, invocation.flags) == (["stream", "--runner=dataflow"], given)


def test_the_workers_have_the_beam_that_submits() -> None:
    recipe = (FOLDER / "worker.Dockerfile").read_text(encoding="utf-8")
    assert f"FROM apache/beam_python3.11_sdk:{apache_beam.__version__}\n" in recipe


def test_the_workers_have_what_every_output_needs() -> None:
    (extras,) = re.findall(r"\.\[(.*)\]", (FOLDER / "worker.Dockerfile").read_text(encoding="utf-8"))
    assert set(extras.split(",")) == {
        "dataflow",
        *(scheme.extra for scheme in SCHEMES.values() if scheme.extra),
    }


def test_what_the_images_copy_is_there() -> None:
    recipes = [(FOLDER / name).read_text(encoding="utf-8") for name in ("Dockerfile", "worker.Dockerfile")]
    lines = [
        line.split() for recipe in recipes for line in re.findall(r"^COPY (?!--)(.*)", recipe, re.MULTILINE)
    ]
    copied = [word for line in lines for word in line[:-1]]
    assert len(copied) >= 8
    assert [name for name in copied if not (FOLDER.parents[1] / name).exists()] == []


def test_every_flag_in_the_readme_is_known() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^kpiflow stream (.*?)\n```", text, re.MULTILINE | re.DOTALL)
    own, _, of_the_job = shown.partition(" -- ")
    assert {flag.replace("-", "_") for flag in re.findall(r"--([a-z-]+)", own)} <= OF_THE_COMMAND
    assert set(re.findall(r"--([a-z_]+)", of_the_job)) == set(NEEDED)
