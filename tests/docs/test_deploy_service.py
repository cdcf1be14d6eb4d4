"""What deploys the service starts commands with flags that exist, and probes that are open."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipelines.service.routes import ROUTES
from pipelines.settings import Settings
from tests.docs.test_service import find_command

DEPLOY = Path(__file__).parents[2] / "deploy" / "service"


def list_deployed() -> Iterator[list[str]]:
    """What each file of deploy/service runs, from `kpiflow` on."""
    unit = (DEPLOY / "kpiflow-serve.service").read_text(encoding="utf-8").replace("\\\n", " ")
    (started,) = re.findall(r"^ExecStart=\S*/(kpiflow .*)$", unit, flags=re.MULTILINE)
    yield shlex.split(started)[1:]
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    _, deployment = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    yield [*yaml.safe_load(entry)[1:], *container["args"]]


@pytest.mark.parametrize("words", list(list_deployed()), ids=["systemd", "kubernetes"])
def test_what_is_deployed_has_flags_that_exist(words: list[str]) -> None:
    known = {flag for parameter in find_command(words[0]).params for flag in parameter.opts}
    known |= {f"--{name.replace('_', '-')}" for name in Settings.model_fields}
    assert {word for word in words if word.startswith("--")} <= known


def test_the_probes_ask_routes_that_need_no_certificate() -> None:
    _, deployment = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    paths = {container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")}
    assert paths <= {route.path for route in ROUTES if route.is_open}
