"""The program of the Flex Templates: it turns a template's parameters into a command line and runs that.

    python template.py --redis=redis://10.0.0.3:6379 --stream="eu us" --output=bigquery://p/k --job_name=kpis
    kpiflow stream --runner=dataflow --redis=... --stream=eu --stream=us --output=... -- --job_name=kpis

    python template.py --input=gs://b/archive --output=bigquery://p/k --job_name=kpis
    kpiflow backfill --runner=dataflow --input=gs://b/archive --output=... -- --job_name=kpis

Google's launcher passes the parameters of metadata-stream.json or metadata-backfill.json and options of Beam,
which follow the `--`. It needs this program to end once the job is submitted, as both commands do on
Dataflow.
"""

import sys
from collections.abc import Sequence

from pipelines import cli
from pipelines.settings import Settings

COMMAND_OPTIONS = {
    "stream": ("redis", "stream", "encoding", "output", "group", "live"),
    "backfill": ("input", "output", "from", "to"),
}
"""Parameters that are options of each command. Only a backfill has `input`."""
LISTS = ("stream", "encoding", "input", "output")
"""Parameters that hold several values, separated by spaces."""
_DECIDED = ("runner", "streaming")


def make_command(arguments: Sequence[str]) -> list[str]:
    """The words after `kpiflow` for the launcher's arguments (`--name[=value]`). An empty value is none.

    Raises:
        ValueError: `live` is neither true nor false.
    """
    given = [argument.removeprefix("--").partition("=")[::2] for argument in arguments]
    command = "backfill" if any(name == "input" for name, _ in given) else "stream"
    own, for_beam = [command, "--runner=dataflow"], []
    for argument, (name, value) in zip(arguments, given):
        if name in COMMAND_OPTIONS[command] or name in Settings.model_fields:
            own += _make_flags(name, value)
        elif name not in _DECIDED:
            for_beam.append(argument)
    return [*own, "--", *for_beam]


def _make_flags(name: str, value: str) -> list[str]:
    if name == "live":
        if value.lower() not in ("", "true", "false"):
            raise ValueError(f"{name} is {value!r}; it can be true or false")
        return ["--live"] if value.lower() == "true" else []
    values = value.split() if name in LISTS else [value]
    return [f"--{name.replace('_', '-')}={each}" for each in values if each]


if __name__ == "__main__":
    try:
        words = make_command(sys.argv[1:])
    except ValueError as error:
        raise SystemExit(str(error)) from None
    cli.main(words)
