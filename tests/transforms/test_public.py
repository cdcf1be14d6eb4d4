"""The docstring of `transforms` names what is public: it is there, and its program runs."""

import importlib
import json
import re
import textwrap
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

import transforms
from tests.builders import report

DOC = transforms.__doc__ or ""
PUBLIC = re.findall(r"^\| `(transforms\.[a-z_.]+)\.(\w+)` \|", DOC, re.MULTILINE)


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_each_transform_is_there_and_says_what_it_does(module: str, name: str) -> None:
    transform = getattr(importlib.import_module(module), name)
    assert issubclass(transform, beam.PTransform)
    assert transform.__doc__


def test_the_program_flags_the_reports_of_an_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = re.findall(r"\n\n((?:    .*\n)+)", DOC)
    names = {name: getattr(importlib.import_module(module), name) for module, name in PUBLIC}
    lines = [json.dumps(report(number)) for number in range(3)]
    (tmp_path / "reports.ndjson").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(textwrap.dedent(program), {"beam": beam, "FnApiRunner": FnApiRunner} | names)
    assert "3 reports" in capsys.readouterr().out
