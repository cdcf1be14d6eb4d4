"""The program of a Flex Template: it turns the template's parameters into a command line and runs that.

    python template.py --redis=redis://10.0.0.3:6379 --stream="eu us" --output=bigquery://p/k --job_name=kpis
    kpiflow stream --runner=dataflow --redis=... --stream=eu --stream=us --output=... -- --job_name=kpis

Google's launcher passes the parameters of metadata.json and options of Beam, which follow the `--`. It needs
this program to end once the job is submitted, as `kpiflow stream` does on Dataflow.
"""

import sys
from collections.abc import Sequence

from pipelines import cli
from pipelines.settings import Settings

COMMAND_OPTIONS = ("redis", "stream", "output", "group", "live")
"""Parameters that are options of `kpiflow stream`."""
LISTS = ("stream", "output")
"""Parameters that hold several values, separated by spaces."""
_DECIDED = ("runner", "streaming")


def make_command(arguments: Sequence[str]) -> list[str]:
    """The words after `kpiflow` for the launcher's arguments (`--name[=value]`). An empty value is none.

    Raises:
        ValueError: `live` is neither true nor false.
    """
    own, for_beam = ["stream", "--runner=dataflow"], []
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        if name in COMMAND_OPTIONS or name in Settings.model_fields:
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
