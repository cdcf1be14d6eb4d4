"""Commands, typed in this process."""

import pytest

from pipelines.cli import run
from tests.integration.archives import Typed


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    """Runs one command: its exit code, what it said on stdout, and on stderr."""

    def type_(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(word) for word in words])
        return code, *capsys.readouterr()

    return type_
