"""The manifest of the service agrees with its image, its options and its routes, and its unit with what the
service reports."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cli import split
from pipelines.listening import parse_address
from pipelines.service.routes import ROUTES
from tests.docs.test_service import find_command

DEPLOY = Path(__file__).parents[2] / "deploy" / "service"
SERVICE, DEPLOYMENT = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
POD: dict[str, Any] = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
IMAGE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
UNIT = (DEPLOY / "kpiflow-serve.service").read_text(encoding="utf-8").replace("\\\n", " ")


def parse(words: list[str]) -> dict[str, Any]:
    """The options of `kpiflow serve` by the parser of the command. It must know all words."""
    arguments, _ = split(["serve", *words])
    found: dict[str, Any] = find_command("serve").make_context("serve", arguments[1:]).params
    return found


OPTIONS = parse(CONTAINER["args"])
UNIT_OPTIONS = parse(re.findall(r"^ExecStart=\S+/kpiflow serve (.*)$", UNIT, re.MULTILINE)[0].split())
MOUNTS = {each["mountPath"]: each for each in CONTAINER["volumeMounts"]}


@pytest.mark.parametrize("options", [OPTIONS, UNIT_OPTIONS], ids=["kubernetes", "systemd"])
def test_all_that_the_service_needs_is_given(options: dict[str, Any]) -> None:
    given = {name for name, value in options.items() if value}
    assert given >= {"output", "address", "certificate", "key", "client_ca", "roles", "audit"}


def test_ports_and_probes_are_those_of_the_service() -> None:
    (port,) = CONTAINER["ports"]
    host, number = parse_address(OPTIONS["address"], 0)
    assert (host, number) == ("0.0.0.0", port["containerPort"])
    assert SERVICE["spec"]["ports"] == [{"name": "https", "port": number, "targetPort": port["name"]}]
    assert SERVICE["spec"]["selector"] == DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    is_open = {route.path for route in ROUTES if route.is_open and route.method == "GET"}
    for name in ("livenessProbe", "readinessProbe"):
        asked = CONTAINER[name]["httpGet"]
        assert asked["path"] in is_open
        assert (asked["port"], asked["scheme"]) == (port["name"], "HTTPS")


def test_each_path_is_in_a_volume_and_only_the_audit_and_the_marks_can_be_written() -> None:
    paths = [OPTIONS[name] for name in ("output", "certificate", "key", "client_ca", "roles", "audit")]
    folders = {place for path in paths for place in MOUNTS if Path(path).is_relative_to(place)}
    assert folders | {f"{OPTIONS['output']}/_marks"} == set(MOUNTS)
    written = {place for place, mount in MOUNTS.items() if not mount.get("readOnly")}
    assert written == {str(OPTIONS["audit"]), f"{OPTIONS['output']}/_marks"}
    assert {mount["name"] for mount in MOUNTS.values()} == {each["name"] for each in POD["volumes"]}


def test_the_pod_runs_as_the_user_of_the_image() -> None:
    (user,) = re.findall(r"^USER (\d+)$", IMAGE, re.MULTILINE)
    assert re.search(rf"useradd --uid {user} ", IMAGE)
    secure = POD["securityContext"]
    assert {secure[name] for name in ("runAsUser", "runAsGroup", "fsGroup")} == {int(user)}
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]


def test_a_new_pod_can_continue_the_audit() -> None:
    assert OPTIONS["writer"]  # the name of its host is another one
    assert POD["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"  # mask.key stays its owner's


def test_the_image_has_every_package_of_the_code() -> None:
    root = DEPLOY.parents[1]
    packages = {each.parent.name for each in root.glob("*/__init__.py")} - {"tests"}
    assert set(re.findall(r"^COPY (\w+) \1$", IMAGE, re.MULTILINE)) >= packages & {
        "schemas", "transforms", "pipelines", "runners",
    }  # fmt: skip


def test_systemd_makes_the_folder_of_the_audit() -> None:
    (state,) = re.findall(r"^StateDirectory=(.*)$", UNIT, re.MULTILINE)
    assert str(UNIT_OPTIONS["audit"]) == f"/var/lib/{state}"
    assert "Type=notify" in UNIT
