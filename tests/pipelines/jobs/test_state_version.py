"""What checkpoints hold may not change unless GRAPH_VERSION does, so that no job misreads an older one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.coders import BytesCoder, Coder, VarIntCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec

from pipelines.jobs.stream_job import GRAPH_VERSION
from runners.pipeline import make_pipeline
from tests.pipelines.jobs.checkpoint_state import (
    FIX,
    RECORDED,
    describe_graph,
    describe_state,
    record,
    translate_stream,
)


def test_what_checkpoints_hold_changes_only_with_the_version(tmp_path: Path) -> None:
    version, *recorded = RECORDED.read_text(encoding="utf-8").splitlines()
    found = list(describe_state(translate_stream(tmp_path)))
    gone, new = set(recorded) - set(found), set(found) - set(recorded)
    changes = [*(f"- {line}" for line in sorted(gone)), *(f"+ {line}" for line in sorted(new))]
    assert (version, changes) == (f"version {GRAPH_VERSION}", []), "\n".join([*changes, FIX])


def test_the_graph_is_described_the_same_each_time(tmp_path: Path) -> None:
    first, second = (list(describe_state(translate_stream(tmp_path / name))) for name in ("one", "two"))
    assert first == second


def test_a_changed_state_is_not_recorded_under_the_same_version(tmp_path: Path) -> None:
    file = tmp_path / "state.txt"
    record(file, 4, ["a"])
    record(file, 4, ["a"])
    with pytest.raises(SystemExit, match="raise GRAPH_VERSION"):
        record(file, 4, ["b"])
    record(file, 5, ["b"])
    assert file.read_text() == "version 5\nb\n"


def describe_stateful(name: str, spec: Any, coder: Coder, element: type = bytes) -> set[str]:
    """What is recorded of a graph with one step that keeps state."""
    kept = beam.DoFn.StateParam(spec("rows", coder))

    class Keep(beam.DoFn):
        def process(self, element: Any, kept: Any = kept) -> None: ...

    pipeline = make_pipeline(FnApiRunner(), PipelineOptions([]))
    keyed = pipeline | beam.Impulse() | beam.Map(lambda _: (1, b"")).with_output_types(tuple[int, element])
    _ = keyed | name >> beam.ParDo(Keep())
    return set(describe_graph(pipeline.to_runner_api()))


class Other(Coder):
    """A coder of this module, which is pickled."""


@pytest.mark.parametrize(
    "change",
    [
        lambda: describe_stateful("Keep all", BagStateSpec, BytesCoder()),
        lambda: describe_stateful("Keep", ReadModifyWriteStateSpec, BytesCoder()),
        lambda: describe_stateful("Keep", BagStateSpec, VarIntCoder()),
        lambda: describe_stateful("Keep", BagStateSpec, Other()),
        lambda: describe_stateful("Keep", BagStateSpec, BytesCoder(), str),
    ],
    ids=["step", "kind", "coder", "class", "element"],
)
def test_a_change_of_state_is_seen(change: Callable[[], set[str]]) -> None:
    before = describe_stateful("Keep", BagStateSpec, BytesCoder())
    assert "state Keep rows: bag of Bytes" in before
    assert describe_stateful("Keep", BagStateSpec, BytesCoder()) == before
    assert change() != before
