"""Every program of examples/ runs and prints something."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import cli

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = sorted(path for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh"))
SLOW = {"backfill.sh", "train_success.py"}


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small `tour/archive` and `tour/tables`, and with the program `kpiflow` in `bin`."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        small = ["--reports", "3000", "--agents", "2", "--seed", "1", "--span", "3h"]
        assert cli.run(["generate", *small, "--output", "tour/archive"]) == 0
        assert cli.run(["backfill", "--input", "tour/archive", "--output", "tour/tables"]) == 0
    program = folder / "bin" / "kpiflow"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m pipelines.cli "$@"\n')
    program.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(path, id=path.name, marks=[pytest.mark.slow] if path.name in SLOW else [])
        for path in PROGRAMS
    ],
)
def test_every_example_runs(program: Path, tour: Path) -> None:
    interpreter = sys.executable if program.suffix == ".py" else "sh"
    path = {
        "PATH": f"{tour / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(EXAMPLES.parent),
    }
    done = subprocess.run(
        [interpreter, program], cwd=tour, env=os.environ | path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_page_of_the_examples_lists_them_all() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [program.name for program in PROGRAMS if f"| `{program.name}` |" not in page] == []
