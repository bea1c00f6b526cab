"""Compile, run, bench, inspect, diff: what a person does, from a graph to numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import MLP, Optc

X = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)


def weights(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.standard_normal(shape, dtype=np.float32)


def test_compile_writes_an_artifact_and_ends_with_the_table(optc: Optc, graph: Path) -> None:
    result = optc("compile", graph, "-o", "out")
    assert (result.code, result.diagnostics) == (0, [])
    files = {path.name for path in Path("out").iterdir()}
    assert {"model.so", "model.h", "weights.bin", "manifest.json", "report.html"} <= files
    for label in ("ops", "parameters", "multiply-adds", "peak memory", "size on disk"):
        assert label in result.out
    assert "p50" in result.out
    assert "capture ..." in result.err
    assert {path.name for path in Path().iterdir()} == {"mlp.optc", "out"}


def test_run_gives_what_numpy_gives(optc: Optc, compiled: Path) -> None:
    np.savez("x.npz", x=X)
    assert optc("run", compiled, "--input", "x.npz", "--output", "y.npz").code == 0
    found = np.load("y.npz")
    hidden = np.maximum(X @ weights(1, (32, 16)).T, 0)
    np.testing.assert_allclose(found["hidden"], hidden, atol=1e-5)
    np.testing.assert_allclose(found["y"], hidden @ weights(2, (8, 32)).T, atol=1e-4)


def test_run_with_random_inputs_repeats(optc: Optc, compiled: Path) -> None:
    first, again, other = (optc("run", compiled, "--random", seed).out for seed in (1, 1, 2))
    assert first == again != other


def test_bench_shows_percentiles_kernels_and_limits(optc: Optc, compiled: Path) -> None:
    result = optc("bench", compiled, "--runs", 20, "--threads", 1)
    assert result.code == 0
    for word in ("p50", "p90", "p99", "min", "mean", "% of limit", "linear", "model.py:12"):
        assert word in result.out


def test_bench_as_json(optc: Optc, compiled: Path) -> None:
    result = optc("bench", compiled, "--runs", 5, "--json")
    report = json.loads(result.out)
    assert report["whole"]["runs"] == 5
    assert report["whole"]["least"] <= report["whole"]["p50"] <= report["whole"]["p99"]
    assert sum(row["share"] for row in report["kernels"]) == pytest.approx(1.0)


def test_inspect_a_graph(optc: Optc, graph: Path) -> None:
    facts = json.loads(optc("inspect", graph, "--json").out)
    assert facts["parameters"] == 32 * 16 + 8 * 32
    assert facts["macs"] == 4 * (32 * 16 + 8 * 32)
    assert facts["ops"] == {"linear": 2, "relu": 1}
    assert facts["nodes"][0]["place"] == "model.py:12 (up)"
    shown = optc("inspect", graph, "--memory")
    assert "model.py:13" in shown.out
    assert "activations" in shown.out


def test_inspect_an_artifact(optc: Optc, compiled: Path) -> None:
    shown = optc("inspect", compiled, "--memory")
    for word in ("x: 4x16xf32", "hidden: 4x32xf32", "weights.bin", "arena", "model.py:14"):
        assert word in shown.out
    assert json.loads(optc("inspect", compiled, "--json").out)["name"] == "mlp"


def test_dry_run_compiles_and_writes_nothing(optc: Optc, graph: Path) -> None:
    result = optc("compile", graph, "-o", "out", "--dry-run")
    assert result.code == 0
    assert "fuse" in result.out
    assert not Path("out").exists()


def test_exact_drops_what_rounds(optc: Optc, graph: Path) -> None:
    plan = optc("compile", graph, "-o", "out", "--dry-run", "--exact").out
    assert "dropped by --exact" in plan


def test_dumps_can_be_read_again(optc: Optc, graph: Path) -> None:
    assert optc("compile", graph, "-o", "out", "--dump-passes", "dumps", "--no-bench").code == 0
    last = max(Path("dumps").glob("*.optc"))
    result = optc("diff", graph, last)
    assert (result.code, result.diagnostics) == (0, [])


def test_opt_prints_a_graph_that_parses(optc: Optc, graph: Path) -> None:
    result = optc("opt", graph, "-p", "remove-dead,merge-equal", "--print-changed")
    assert result.code == 0
    assert "// remove-dead: no change" in result.err
    assert result.out == MLP
    assert optc("opt", graph).out == MLP


def test_opt_writes_a_file(optc: Optc, graph: Path) -> None:
    assert optc("opt", graph, "-p", "fuse", "-o", "fused.optc", "--time-passes").code == 0
    assert "task(" in Path("fused.optc").read_text()


def test_diff_agrees(optc: Optc, graph: Path, compiled: Path) -> None:
    for other in (graph, compiled):
        result = optc("diff", graph, other)
        assert (result.code, result.diagnostics) == (0, [])
        assert "agrees" in result.out
    assert optc("diff", compiled, compiled).code == 0


def test_diff_names_the_node_that_differs(optc: Optc, graph: Path) -> None:
    Path("other.optc").write_text(MLP.replace("= relu(", "= gelu("))
    result = optc("diff", graph, "other.optc")
    assert (result.code, result.diagnostics) == (1, ["E0720"])
    assert "model.py:13" in result.err
    assert "%act = gelu(%up)" in result.err


def test_diff_sees_an_artifact_of_another_model(optc: Optc, graph: Path, compiled: Path) -> None:
    Path("other.optc").write_text(MLP.replace("seed=2", "seed=3"))
    result = optc("diff", "other.optc", compiled)
    assert (result.code, result.diagnostics) == (1, ["E0723"])
    assert "made from another model" in result.err


def test_diff_of_models_with_other_ports(optc: Optc, graph: Path) -> None:
    Path("other.optc").write_text(
        MLP.replace("output hidden", "output h").replace(", hidden =", ", h =")
    )
    assert optc("diff", graph, "other.optc").diagnostics == ["E0724"]


def test_two_compilations_are_the_same_bytes(graph: Path) -> None:
    """In two processes whose hashes are seeded differently."""
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "optc.cli", "compile", graph, "-o", f"out{seed}", "--no-bench"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    first, second = (
        {
            path.relative_to(out): path.read_bytes()
            for path in Path(out).rglob("*")
            if path.is_file()
        }
        for out in ("out1", "out2")
    )
    assert first.keys() == second.keys()
    assert [str(name) for name, data in first.items() if second[name] != data] == []
