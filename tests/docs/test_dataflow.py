"""The templates of Dataflow and the commands mean the same jobs: parameters, options and settings agree."""

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
from pipelines.setting_groups import (
    DerivedSettings,
    EncryptionSettings,
    MaintenanceSettings,
    RetentionSettings,
)
from pipelines.settings import Settings
from runners.dataflow import NEEDED, STREAM, complete_flags
from transforms.core import run_metrics

FOLDER = Path(__file__).parents[2] / "deploy" / "dataflow"
METADATA: dict[str, dict[str, Any]] = {
    command: json.loads((FOLDER / f"metadata-{command}.json").read_text(encoding="utf-8"))
    for command in ("stream", "backfill")
}
ALL = [(command, each["name"]) for command, data in METADATA.items() for each in data["parameters"]]
"""(command, parameter) of both templates."""
PARAMETERS = {
    command: {each["name"]: each for each in data["parameters"]} for command, data in METADATA.items()
}


def list_options(command: str) -> set[str]:
    found: Any = typer.main.get_command(cli.app([command])).commands[command]  # type: ignore[attr-defined]
    return {flag.removeprefix("--").replace("-", "_") for each in found.params for flag in each.opts}


OPTIONS = {command: list_options(command) for command in METADATA}
"""The options of each command."""

OF_FLINK = "it is about Flink"
OF_A_BACKFILL = "a backfill has it"
OF_A_STREAM = "a stream has it"
SECRET = "it is a secret, and the console shows parameters"
ALWAYS_LEFT_OUT = {
    **dict.fromkeys(("stream_workers", "checkpoint_seconds", "renew_seconds", "heap_mb"), OF_FLINK),
    **dict.fromkeys(
        ("redis_password", "influxdb_token", "victoriametrics_password", "victoriametrics_token"), SECRET
    ),
    "victoriametrics_user": "it goes with a password, which is a secret",
    "workers": "Dataflow has max_num_workers",
    "log_format": "Dataflow keeps logs of its own",
    **dict.fromkeys(
        ("metrics_certificate", "metrics_key", "metrics_ca"), "Dataflow serves no metrics of kpiflow"
    ),
    **dict.fromkeys(Settings.groups()[DerivedSettings], "tables are derived in folders of this machine"),
    **dict.fromkeys(
        (*Settings.groups()[RetentionSettings], *Settings.groups()[MaintenanceSettings]),
        "folders of this machine are maintained",
    ),
    **dict.fromkeys(Settings.groups()[EncryptionSettings], "the master key is a file of this machine"),
}
LEFT_OUT = {
    "stream": {
        **ALWAYS_LEFT_OUT,
        **dict.fromkeys(("read_mb", "block_reports", "block_hours"), OF_A_BACKFILL),
    },
    "backfill": {
        **ALWAYS_LEFT_OUT,
        **dict.fromkeys(
            (
                *("redis_user", "redis_ca", "redis_certificate", "redis_key"),
                *("read_ms", "idle_ms", "read_count", "reread_seconds"),
                *("flush_seconds", "warehouse_seconds", "live_maxlen", "parallelism"),
            ),
            OF_A_STREAM,
        ),
    },
}
"""Settings that are no parameter of a template, with the reason."""
COMPUTED = {"shards"}
"""Settings whose default a job works out: a template that gave it would overrule the job."""
OPTIONS_LEFT_OUT = {
    "archive": "it is a folder of this machine",
    "config": "it is a file of this machine",
    "metrics": "Dataflow serves no metrics of kpiflow",
    "replace": "it rewrites a folder of this machine",
    "timings": "the job is not waited for",
    "runner": "a template is Dataflow's",
    "dry_run": "a template starts a job",
    "source": "it is another name of redis",
    **dict.fromkeys(("state", "fresh", "until_idle", "flink_master", "environment"), OF_FLINK),
}
"""The same for the other options of the commands."""
RUBBISH = ("", " ", "\t", "a\nb", "x  y", " x")
NUMBERS = {name for name, field in Settings.model_fields.items() if field.annotation in (int, float)}


def accepted(command: str, name: str, value: str) -> bool:
    return all(re.fullmatch(regex, value) for regex in PARAMETERS[command][name]["regexes"])


def example(command: str, name: str) -> str:
    text: str = PARAMETERS[command][name]["helpText"]
    return text.rpartition(" For example: ")[2]


@pytest.fixture(scope="module")
def template() -> Any:
    spec = spec_from_file_location("template", FOLDER / "template.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("command", "name"), ALL)
def test_every_parameter_is_an_option_a_setting_or_needed_by_the_job(command: str, name: str) -> None:
    assert name in OPTIONS[command] | set(Settings.model_fields) | set(NEEDED)


@pytest.mark.parametrize("command", METADATA)
def test_every_setting_is_a_parameter_or_left_out_for_a_reason(command: str) -> None:
    known = set(Settings.model_fields)
    assert known - set(PARAMETERS[command]) == set(LEFT_OUT[command])
    assert OPTIONS[command] - known - set(PARAMETERS[command]) <= set(OPTIONS_LEFT_OUT)


def test_secrets_are_no_parameters() -> None:
    for left_out in LEFT_OUT.values():
        assert {name for name, reason in left_out.items() if reason == SECRET} == set(Settings.secrets())


def test_a_stream_has_a_streaming_template_and_a_backfill_has_none() -> None:
    assert {command: data["streaming"] for command, data in METADATA.items()} == {
        "stream": True,
        "backfill": False,
    }
    assert METADATA["stream"]["supportsAtLeastOnce"] is False


def test_what_both_templates_have_is_the_same_in_both() -> None:
    """But a stream's baselines bound `future_seconds`."""
    both = set(PARAMETERS["stream"]) & set(PARAMETERS["backfill"])
    assert {"output", "sdk_container_image", "iqr_factor"} <= both
    differing = [name for name in both if PARAMETERS["stream"][name] != PARAMETERS["backfill"][name]]
    assert differing == ["future_seconds"]


@pytest.mark.parametrize("command", METADATA)
def test_the_command_knows_what_the_template_hands_to_it(command: str, template: Any) -> None:
    own = template.COMMAND_OPTIONS[command]
    assert set(own) <= OPTIONS[command] & set(PARAMETERS[command])
    assert set(PARAMETERS[command]) <= {*own, *NEEDED, *Settings.model_fields}


@pytest.mark.parametrize(("command", "name"), ALL)
def test_a_parameter_says_all_that_the_console_shows(command: str, name: str) -> None:
    parameter = PARAMETERS[command][name]
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


@pytest.mark.parametrize(("command", "name"), ALL)
def test_a_regex_accepts_the_example_and_the_default_and_no_rubbish(command: str, name: str) -> None:
    shown = example(command, name)
    assert accepted(command, name, shown)
    assert accepted(command, name, PARAMETERS[command][name].get("defaultValue", shown))
    assert [text for text in RUBBISH if accepted(command, name, text)] == []


@pytest.mark.parametrize(("command", "name"), [each for each in ALL if each[1] in Settings.model_fields])
def test_a_setting_is_described_as_where_it_is_declared(command: str, name: str) -> None:
    field, parameter = Settings.model_fields[name], PARAMETERS[command][name]
    assert parameter["helpText"] == f"{field.description} For example: {example(command, name)}"
    assert parameter["isOptional"]
    computed = field.default is None or name in COMPUTED
    assert parameter.get("defaultValue") == (None if computed else str(field.default))


@pytest.mark.parametrize(("command", "name"), [each for each in ALL if each[1] in NUMBERS])
@pytest.mark.parametrize("text", ["-1", "abc", "1e9", "nan", "0x10", "1,000", "1 "])
def test_a_regex_of_a_number_refuses_what_is_none(command: str, name: str, text: str) -> None:
    assert not accepted(command, name, text)


@pytest.mark.parametrize(("command", "name"), [each for each in ALL if each[1] in NUMBERS])
def test_an_example_is_a_value_that_the_setting_takes(command: str, name: str) -> None:
    shown = example(command, name)
    assert str(getattr(Settings(**{name: shown}), name)).removesuffix(".0") == shown


@pytest.mark.parametrize(
    ("command", "name", "text"),
    [
        ("stream", "future_seconds", "61"),
        ("stream", "peak_start_hour", "24"),
        ("stream", "peak_end_hour", "0"),
        ("stream", "file_minutes", "7"),
        ("stream", "flat_margin", "1.0"),
        ("backfill", "block_hours", "5"),
        ("backfill", "block_reports", "999"),
        ("backfill", "read_mb", "257"),
    ],
)
def test_a_regex_refuses_a_value_out_of_range_as_the_job_does(command: str, name: str, text: str) -> None:
    assert not accepted(command, name, text)
    if name != "future_seconds":  # only a stream refuses it
        with pytest.raises(ValidationError):
            Settings(**{name: text})


@pytest.mark.parametrize(
    ("command", "name", "text"),
    [
        ("stream", "redis", "redis://user:password@host:6379"),
        ("stream", "redis", "http://host"),
        ("stream", "redis", "redis://"),
        ("stream", "output", "/data/tables"),
        ("stream", "output", "file:///data"),
        ("stream", "output", "gs://bucket  gs://other"),
        ("stream", "output", "s3://key:secret@bucket"),
        ("stream", "sdk_container_image", "worker"),
        ("stream", "sdk_container_image", "europe-docker.pkg.dev/p/r/worker"),
        ("stream", "live", "yes"),
        ("stream", "redis_ca", "ca.pem"),
        ("stream", "time_zone", "../../etc/passwd"),
        ("backfill", "input", "/data/archive"),
        ("backfill", "input", "file:///data/archive"),
        ("backfill", "input", "s3://key:secret@bucket/archive"),
        ("backfill", "input", "gs://bucket/a  gs://bucket/b"),
        ("backfill", "from", "yesterday"),
    ],
)
def test_a_regex_refuses_what_the_job_could_not_use(command: str, name: str, text: str) -> None:
    assert not accepted(command, name, text)


@pytest.mark.parametrize(
    "image",
    ["a.dev/p/r/w:1", "a.dev:5000/p/w:v1.0_b", f"a.dev/p/w@sha256:{'0' * 64}", "a.dev/p/w", "w:1", "A/b:1"],
)
def test_the_job_and_the_template_agree_on_images(image: str) -> None:
    assert accepted("stream", "sdk_container_image", image) is bool(
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


def test_parameters_of_a_backfill_become_the_flags_of_that_command(template: Any) -> None:
    given = [
        "--output=gs://b/t bigquery://p/d",
        "--from=2025-10-20T00:00:00Z",
        "--to=",
        "--block_hours=6",
        "--job_name=kpis",
        "--input=gs://b/a/*.ndjson s3://c/2025",
    ]
    assert template.make_command(given) == [
        "backfill", "--runner=dataflow", "--output=gs://b/t", "--output=bigquery://p/d",
        "--from=2025-10-20T00:00:00Z", "--block-hours=6", "--input=gs://b/a/*.ndjson", "--input=s3://c/2025",
        "--", "--job_name=kpis",
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


@pytest.mark.parametrize(("command", "first"), [("stream", []), ("backfill", ["--input=gs://b/a"])])
def test_the_settings_of_a_template_are_read_by_the_command(
    command: str, first: list[str], template: Any
) -> None:
    names = sorted(set(PARAMETERS[command]) & set(Settings.model_fields))
    given = {name: example(command, name) for name in names}
    arguments = [*first, *(f"--{name}={value}" for name, value in given.items())]
    words, invocation = cli.split(template.make_command(arguments))
    assert (words, invocation.flags) == ([command, "--runner=dataflow", *first], given)


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
    for command, options in OPTIONS.items():
        (shown,) = re.findall(rf"^kpiflow {command} (.*?)\n```", text, re.MULTILINE | re.DOTALL)
        own, _, of_the_job = shown.partition(" -- ")
        assert {flag.replace("-", "_") for flag in re.findall(r"--([a-z-]+)", own)} <= options
        assert set(re.findall(r"--([a-z_]+)", of_the_job)) - {"max_num_workers"} == set(NEEDED)


def test_the_readme_names_the_counters_of_a_run() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    metric = run_metrics.MESSAGES.metric_name
    names = (run_metrics._ROWS, run_metrics._MICROSECONDS, run_metrics._INCOMPLETE)
    assert [each for each in (metric.namespace, metric.name, *names) if f"`{each}`" not in text] == []
