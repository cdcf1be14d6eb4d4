"""What the launcher of a Flex Template runs: a template's parameters as the command line that means the same job.

    python template.py --redis=redis://10.0.0.3:6379 --stream="eu us" --output=bigquery://my-project/kpis --job_name=kpis ...
    kpiflow stream --runner=dataflow --redis=... --stream=eu --stream=us --output=... -- --job_name=kpis ...

Parameters are those of metadata.json. The launcher adds options of Dataflow and of Beam, which follow the `--`. It needs this
program to end once the job is handed over, which `kpiflow stream` does on Dataflow.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields

from pipelines import cli
from pipelines.settings import Settings
from runners.dataflow.launch import Dataflow

OF_THE_COMMAND = ("redis", "stream", "output", "group", "live")
"""Parameters that are options of `kpiflow stream`."""
MANY = ("stream", "output")
"""Parameters that hold several values, with a space between them."""
_SWITCHES = {"live": False} | {field.name: field.default for field in fields(Dataflow) if field.type is bool}
_ALSO_CALLED = {"worker_machine_type": "machine_type", "label": "labels"}
_DECIDED = ("runner", "streaming")


def command(arguments: Sequence[str]) -> list[str]:
    """The words after `kpiflow` for the launcher's arguments, each of which is `--name=value` or `--name`; an empty value is none.

    Raises:
        ValueError: a switch is neither true nor false.
    """
    own, handed_on = ["stream", "--runner=dataflow"], []
    for argument in arguments:
        given, equals, value = argument.removeprefix("--").partition("=")
        name = _ALSO_CALLED.get(given, given)
        if name in OF_THE_COMMAND or name in Settings.model_fields:
            own += _flags(name, name.replace("_", "-"), value)
        elif name not in _DECIDED:
            handed_on += _flags(name, name, value) if equals else [argument]
    return [*own, "--", *handed_on]


def _flags(name: str, flag: str, value: str) -> Iterator[str]:
    if name in _SWITCHES:
        if value.lower() not in ("", "true", "false"):
            raise ValueError(f"{name} is {value!r}; it can be true or false")
        if (wanted := value.lower() != "false") is not _SWITCHES[name]:
            yield f"--{flag}" if wanted else f"--no_{flag}"
    else:
        yield from (f"--{flag}={each}" for each in _values(name, value) if each)


def _values(name: str, value: str) -> list[str]:
    if name in MANY:
        return value.split()
    if name == "labels" and value.startswith("{"):  # as the launcher gives them
        return [f"{key}={each}" for key, each in json.loads(value).items()]
    return [value]


if __name__ == "__main__":
    try:
        words = command(sys.argv[1:])
    except ValueError as error:
        raise SystemExit(str(error)) from None
    cli.main(words)
