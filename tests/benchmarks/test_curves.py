"""The model of what a backfill costs finds what made the costs, and its pictures and tables show it."""

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.benchmarks.bench import Run, archive
from tests.benchmarks.curve_pictures import draw
from tests.benchmarks.curve_tables import Empty, Results, markdown
from tests.benchmarks.curves import (
    MEMORY,
    START,
    TIME,
    Measured,
    Model,
    Point,
    costs,
    factors,
    fit,
    nonnegative,
    sizes,
    without_start,
)
from tests.benchmarks.scale import keep, kept, middle, on, points, shuffle

WEIGHTS = (2.0, 9.0, 40.0, 2.5, 4.0)
BYTES = (200.0, 150.0, 1200.0, 500.0, 900.0, 60.0)
TRUE = Model(TIME, dict(zip((term.name for term in TIME), WEIGHTS)), both=0.6)
TRUE_MIB = Model(MEMORY, dict(zip((term.name for term in MEMORY), BYTES)))
POINTS = points(1.0)
USUAL = next(point for point in POINTS if point.case == "base")
STAGES = {"validate": 6.0, "history": 1.0, "write kpi_reports": 2.0, "write kpi_aggregations": 1.0}


def measured(point: Point) -> Measured:
    """A point as the true models have it."""
    seconds, cpu = TRUE.of(point), replace(TRUE, both=0.0).of(point)
    return Measured(point, seconds, seconds, seconds, cpu, TRUE_MIB.of(point), round(point.windows), STAGES)


NO_KERNELS = [
    Empty(name, seconds, seconds - 0.5, seconds)
    for name, seconds in (("graph", 1.5), ("loop", 1.0), ("import", 0.75))
]
MEASURED = [measured(point) for point in POINTS]


def test_the_weights_that_made_the_costs_are_found_again() -> None:
    found = costs(MEASURED)
    assert found.seconds.weights == pytest.approx(TRUE.weights, rel=1e-6)
    assert found.seconds.both == pytest.approx(0.6)
    assert found.cpu.weights == pytest.approx(TRUE.weights, rel=1e-6)
    assert found.mib.weights == pytest.approx(TRUE_MIB.weights, rel=1e-6)


def test_a_point_held_out_is_not_looked_at() -> None:
    spoilt = [
        replace(each, seconds=1e6, cpu=1e6, mib=1e6) if each.point.held_out else each for each in MEASURED
    ]
    assert sum(each.point.held_out and each.point.runner == "direct" for each in MEASURED) == 5
    assert costs(spoilt) == costs(MEASURED)


def test_a_term_that_adds_next_to_nothing_is_left_out_by_name() -> None:
    faint = replace(TRUE, weights=TRUE.weights | {"a rejected message, in addition": 0.1})
    found = fit(TIME, POINTS, [faint.of(point) for point in POINTS], (0.6,))
    assert found.left_out == ["a rejected message, in addition"]
    assert [found.of(point) for point in POINTS] == pytest.approx(
        [faint.of(point) for point in POINTS], rel=0.01
    )


def test_no_weight_is_below_zero() -> None:
    matrix = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    assert np.linalg.lstsq(matrix, np.array([3.0, 2.0, 1.0]))[0].min() < 0
    assert nonnegative(matrix, np.array([3.0, 2.0, 1.0])).tolist() == pytest.approx([2.0, 0.0])
    assert nonnegative(matrix, np.array([-1.0, -2.0, -3.0])).tolist() == [0.0, 0.0]


def test_a_weight_goes_to_one_of_two_terms_that_are_the_same() -> None:
    twice = np.array([[1.0, 1.0], [2.0, 2.0]])
    assert nonnegative(twice, np.array([3.0, 6.0])).tolist() == pytest.approx([3.0, 0.0])


def test_a_second_core_halves_what_it_shares_and_not_the_start() -> None:
    one, two = (replace(USUAL, cores=cores) for cores in (1, 2))
    start = TRUE.weights[START]
    assert TRUE.of(two) - start == pytest.approx((TRUE.of(one) - start) * 0.7)


def test_rows_of_windows_are_at_most_one_for_each_report_and_each_window() -> None:
    assert replace(USUAL, agents=10_000_000).windows == pytest.approx(3 * 980_000, rel=0.01)
    assert replace(USUAL, agents=1).windows == pytest.approx(48 * (720 + 60 + 1), rel=0.001)
    assert replace(USUAL, agents=1, hours=1).windows == pytest.approx(720 + 60 + 1, rel=0.001)
    assert replace(USUAL, dirty=0.98).windows == pytest.approx(0, abs=1e-6)


def test_a_block_of_a_point_is_that_of_its_run() -> None:
    def part(**others: Any) -> float:
        return replace(USUAL, **others).part

    assert part() == part(messages=3_000_000) == 6 / 48  # four blocks for each worker
    assert part(cores=1) == 12 / 48
    assert part(messages=10_000_000) == 2 / 48  # of 500,000 reports at most
    assert part(messages=10_000_000, hours=1) == 1 / 20  # shards of an hour


def test_files_are_those_of_the_tables() -> None:
    assert USUAL.files == 48 * (4 * 1 + 4 * 2)
    assert replace(USUAL, dirty=0.05).files == 48 * (4 * 1 + 5 * 2)
    assert replace(USUAL, messages=10_000_000, hours=1).files == 4 * 1 + 4 * 60


def test_the_least_run_of_an_engine_is_its_start() -> None:
    of_flink = [each for each in MEASURED if each.point.runner == "flink"]
    least, large = sorted(of_flink, key=lambda each: each.point.messages)
    assert without_start(large, MEASURED) == large.seconds - least.seconds
    on_one = next(each for each in MEASURED if each.point.case == "1 core")
    assert without_start(on_one, MEASURED) == pytest.approx(
        on_one.seconds - TRUE.of(replace(USUAL, messages=100, hours=1, cores=1))
    )


def test_curves_and_bars_show_what_differs_in_one_thing() -> None:
    assert [each.point.messages for each in sizes(MEASURED)] == [
        100_000,
        1_000_000,
        3_000_000,
        5_000_000,
        10_000_000,
    ]
    bars = ["base", "10 agents", "100,000 agents", "20 % dirty", "shuffled", "1 hour", "1 core"]
    assert [each.point.case for each in factors(MEASURED)] == bars


@pytest.mark.threads  # charts are drawn by a library with threads
def test_pictures_are_small_and_on_white(tmp_path: Path) -> None:
    drawn = draw(MEASURED, tmp_path)
    assert [path.name for path in drawn] == ["scale-seconds.svg", "scale-memory.svg", "scale-factors.svg"]
    for path in drawn:
        picture = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        assert path.stat().st_size < 40_000
        assert picture[0].get("fill") == "white"
    texts = ["".join(ElementTree.fromstring(path.read_text(encoding="utf-8")).itertext()) for path in drawn]
    assert "measured, held out" in texts[0]
    assert "Peak MiB" in texts[1]
    assert "100,000 agents" in texts[2]


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results = Results("a machine", MEASURED, [Empty("import of Beam", 1.0, 0.9, 1.1)])
    keep(results, tmp_path / "scale.json")
    assert kept(tmp_path / "scale.json") == results


def test_the_tables_tell_what_was_foretold_and_how_wrong() -> None:
    third = next(each for each in MEASURED if each.point.case == "3,000,000 messages")
    slower = [replace(each, seconds=2 * each.seconds) if each is third else each for each in MEASURED]
    lines = list(markdown(Results("a machine", slower, NO_KERNELS)))
    told = next(line for line in lines if line.startswith("| 3,000,000 messages | held out |"))
    assert [cell.strip() for cell in told.split("|")][5] == "-50.0 %"
    assert any("validate 60%; write kpi_reports 20%; history 10%" in line for line in lines)
    assert any("0.50 s of running and 0.75 s of import" in line for line in lines)


def test_the_ratios_are_of_times_without_start() -> None:
    def slow(each: Measured) -> Measured:
        """On Flink the start takes 20 s, and what follows half as long again."""
        after = 0.0 if each.point.messages == 100 else 1.5 * without_start(each, MEASURED)
        return replace(each, seconds=20 + after) if each.point.runner == "flink" else each

    lines = "\n".join(markdown(Results("a machine", list(map(slow, MEASURED)), NO_KERNELS)))
    assert "5,000,000 messages: Flink takes 1.50 times as long as direct" in lines
    assert f"3,000,000 messages: one core takes {1 / (1 - TRUE.both / 2):.2f} times as long as two" in lines


def test_the_middle_run_counts_with_its_stages() -> None:
    def ended(seconds: float) -> Run:
        write = f"write kpi_aggregations  234,813  {seconds:.2f}  504,365"
        said = f" stage   rows  seconds  rows/s \n read\n {write} \n"
        return Run(100, seconds, seconds - 1, 2 * seconds, 300.0, said)

    found = middle(USUAL, [ended(5.0), ended(3.0), ended(4.0)])
    assert (found.fastest, found.seconds, found.slowest, found.cpu) == (3.0, 4.0, 5.0, 8.0)
    assert (found.windows, found.stages) == (234_813, {"write kpi_aggregations": 4.0})


def test_a_shuffled_archive_holds_the_same_lines_in_another_order(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "truth.json").write_text('{"complete": true}', encoding="utf-8")
    for hour in range(4):
        (made / f"{hour}.ndjson").write_text(
            "".join(f"{hour}-{line}\r\u2028\n" for line in range(100)), encoding="utf-8"
        )
    shuffle(made, tmp_path / "shuffled")
    folders = (made, tmp_path / "shuffled")
    before, after = (
        [file.read_bytes().split(b"\n")[:-1] for file in sorted(folder.glob("*.ndjson"))]
        for folder in folders
    )
    assert sorted(chain(*after)) == sorted(chain(*before))
    assert all(60 < len(lines) < 140 and len({line[:1] for line in lines}) == 4 for lines in after)
    assert all(lines != sorted(lines) for lines in after)


def test_an_archive_that_is_there_is_taken_by_what_is_unusual_about_it(tmp_path: Path) -> None:
    for name in ("archive-100", "archive-100-10-0.2", "archive-100-1h"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "truth.json").write_text("{}", encoding="utf-8")
    assert archive(tmp_path, 100) == tmp_path / "archive-100"
    assert archive(tmp_path, 100, hours=1) == tmp_path / "archive-100-1h"
    assert archive(tmp_path, 100, agents=10, dirty=0.2) == tmp_path / "archive-100-10-0.2"


def test_more_cores_than_there_are_end_the_benchmark() -> None:
    with pytest.raises(SystemExit, match="there are"):
        on(10_000)
