"""Outputs whose tables an earlier version of kpiflow derived, which did not have all of them."""

import shutil
from pathlib import Path

import pytest

from pipelines.cli import run
from pipelines.queries.registry import QUERIES
from pipelines.settings import Settings
from schemas.tables import REPORTS
from tests.builders import NOON
from tests.outputs import open_output
from tests.transforms.derived.outputs import MINUTE, make_report, write
from transforms.derived.registry import DERIVED

COMMANDS = [
    ("trends", ["trends"]),
    ("recommendations", ["recommend"]),
    ("data_quality", ["quality"]),
    ("data_quality", ["quality", "--rule", "task_unknown"]),
    ("features", ["features", "--output", "features.parquet"]),
    ("features", ["compare", "experiment"]),
    *(
        (each.table.name, ["query", name])
        for name, query in QUERIES.items()
        for each in query.inputs
        if each.table.name in DERIVED and not any(one.required for one in query.parameters)
    ),
]


@pytest.mark.parametrize(("table", "words"), COMMANDS)
def test_what_reads_a_table_that_is_missing_names_the_command_that_makes_it(
    table: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "out"
    open_output(output, Settings(), create=True)
    write(output, REPORTS, [make_report(n, NOON + n * MINUTE, 0 * MINUTE, n) for n in range(2)])
    assert run(["derive", str(output)]) == 0
    shutil.rmtree(output / table)
    capsys.readouterr()
    assert run([words[0], str(output), *words[1:]]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{output} has no table {table} `kpiflow derive {output}` makes it" in said
    assert run(["derive", str(output)]) == 0
    run([words[0], str(output), *words[1:]])
    assert "has no table" not in capsys.readouterr().err
