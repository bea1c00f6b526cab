"""Tables of kernels, rankings, compile times and tuning, from numbers made up here."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import kernels, ranking, scaling, tuning
from benchmarks.kernel_cases import cases, conv, linear
from optc.ir.dtype import DType

CELL = kernels.Cell("gemm", "3", "64x64", "gemm/1", 2e-6, 1e-6, "compute", 1e9, "2026-01-02")


def test_a_grid_has_a_row_for_each_m_and_a_list_names_what_binds() -> None:
    other = replace(CELL, column="17x17", seconds=4e-6)
    single = replace(CELL, family="conv", row="7x7", column="f32", bound="memory")
    text = kernels.markdown([CELL, other, single])
    assert "| 3 | 50% | 25% |" in text
    assert "| 7x7 | gemm/1 | 2.00 | 1.0 | 50% | memory |" in text
    assert "All together, by time: 33%." in text


def test_cells_measured_later_replace_earlier_ones(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    other = replace(CELL, column="17x17")
    kernels.merged(path, [CELL, other])
    later = replace(CELL, seconds=1e-6)
    assert kernels.merged(path, [later]) == [later, other]


def test_every_case_has_a_job_of_its_own_cost() -> None:
    for case in cases(("gemv", "conv", "depthwise")):
        work = kernels.work_of(case)
        assert case.job.constants == {1}
        assert work.flops > 0
        assert 0 < work.weights < work.read
    narrow = kernels.Case("x", "", "", linear(4, 8, 16, DType.I8))
    assert kernels.work_of(narrow).dtype in (DType.I8, DType.U8)
    assert kernels.work_of(kernels.Case("x", "", "", conv(4, 8, 8, 1, 1))).flops == 2 * 16 * 64


def test_places_are_spread_from_first_to_last() -> None:
    assert ranking.spread(3, 10) == [0, 1, 2]
    assert ranking.spread(100, 4) == [0, 33, 66, 99]


def test_a_ranking_in_the_order_of_time_is_one() -> None:
    times = {"0": 2e-6, "4": 3e-6, "9": 5e-6}
    row = ranking.Ranked("gemm", "1x2x3", "gemm/1", 10, times, "2026-01-02")
    assert row.spearman == pytest.approx(1.0)
    assert row.first_over_best == 1.0
    worse = replace(row, seconds={"0": 4e-6, "4": 3e-6, "10": 2e-6})
    assert worse.times[-1] == (10, 2e-6)
    assert worse.spearman == pytest.approx(-1.0)
    assert worse.first_over_best == pytest.approx(2.0)
    assert "| gemm/1 | 2 | 0.00 | 1.50 | 2.00 |" in ranking.markdown([row, worse])


@pytest.mark.parametrize("family", scaling.FAMILIES)
@pytest.mark.parametrize("nodes", [50, 500])
def test_graphs_have_about_as_many_nodes_as_asked_for(family: str, nodes: int) -> None:
    graph = scaling.FAMILIES[family](nodes)
    assert abs(len(graph.nodes) - nodes) < 0.1 * nodes


def test_the_exponent_of_n_log_n_is_one(tmp_path: Path) -> None:
    rows = [
        scaling.Sample("chain", n, n, {"passes": 1e-6 * n * math.log(n)}) for n in (1400, 14000)
    ]
    assert scaling.exponent(rows) == pytest.approx(1.0)
    square = [replace(row, seconds={"passes": 1e-6 * row.nodes**2}) for row in rows]
    assert scaling.exponent(square) > 1.6
    assert scaling.merged(tmp_path / "s.json", rows[1:]) == rows[1:]
    assert scaling.merged(tmp_path / "s.json", rows[:1]) == rows
    assert "(n log n)^1.00" in scaling.markdown(rows)


PIECE = tuning.Piece(
    "net", "2026-01-02", "a CPU", 20.0, 8, ((0, 5.0, 10e-3), (4, 10.0, 6e-3), (8, 20.0, 5.9e-3)), ""
)


def test_pieces_stand_one_behind_the_other() -> None:
    later = replace(PIECE, points=((0, 3.0, 5.9e-3), (2, 9.0, 5.0e-3)), trials=2, elapsed=9.0)
    points = tuning.curve([PIECE, later])
    assert points[3:] == [(8, 23.0, 5.9e-3), (10, 29.0, 5.0e-3)]
    assert tuning.stopped_paying(points) == points[-1]
    assert tuning.stopped_paying(tuning.curve([PIECE])) == (4, 10.0, 6e-3)
    text = tuning.markdown([PIECE, later], [9e-3, 6e-3])
    assert "From 10.000 to 5.000 ms, 2.000 times as fast" in text
    assert "1.500 times as fast" in text
