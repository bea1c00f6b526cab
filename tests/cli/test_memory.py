"""`--memory`: a budget that holds as it is, one that takes streaming, one that cannot hold."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from optc.backends.program import Held
from optc.ir.diagnostics import OptcError
from optc.memory import culprits, parse_size
from optc.runtime import load
from tests.cli.conftest import Optc

WIDTH, LAYERS, ROWS = 512, 12, 20_000


def deep() -> str:
    """Rows of a table, then layer after layer: 10 MB and 12 MB of weights."""
    lines = [f"    %t = constant {{seed=99}} : {ROWS}x128xf32"]
    lines += [f"    %w{i} = constant {{seed={i}}} : {WIDTH}x{WIDTH}xf32" for i in range(LAYERS)]
    lines += [
        "    %e = take(%t, %i) : 4x128xf32",
        f"    %r = reshape(%e) {{shape=(1, {WIDTH})}} : 1x{WIDTH}xf32",
    ]
    before = "%r"
    for i in range(LAYERS):
        shape = f"1x{WIDTH}xf32"
        lines.append(
            f'    %l{i} = linear({before}, %w{i}) : {shape} @ "model.py":{i + 1} in "l{i}"'
        )
        lines.append(f"    %a{i} = tanh(%l{i}) : {shape}")
        before = f"%a{i}"
    body = "\n".join([*lines, f"    return {before}"])
    return (
        f"module @deep {{\n  input i : 4xi64\n  output y : 1x{WIDTH}xf32\n"
        f"  flow {{\n    y = run @main(i)\n  }}\n"
        f"  graph @main(%i: 4xi64) {{\n{body}\n  }}\n}}\n"
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The model's text."""
    path = tmp_path / "deep.optc"
    path.write_text(deep())
    return path


def test_a_budget_is_kept_by_streaming_and_the_bits_are_the_same(optc: Optc, model: Path) -> None:
    wide = optc("compile", model, "-o", "mapped", "--memory", "64MB", "--no-bench")
    assert (wide.code, wide.diagnostics) == (0, [])
    assert "fits: " in wide.out
    tight = optc("compile", model, "-o", "streamed", "--memory", "8MB", "--no-bench")
    assert tight.code == 0
    assert "weights streamed" in tight.out
    manifest = json.loads(Path("streamed/manifest.json").read_text())
    assert manifest["weights_bytes"] > 2 * manifest["peak_bytes"]
    assert manifest["peak_bytes"] + manifest["process_bytes"] <= 8_000_000
    np.savez("x.npz", i=np.array([5, 19_999, 5, 0]))
    for out in ("mapped", "streamed"):
        assert optc("run", out, "-i", "x.npz", "-o", f"{out}.npz", "--memory", "64MB").code == 0
    first, second = (np.load(f"{out}.npz")["y"] for out in ("mapped", "streamed"))
    assert np.array_equal(first, second)
    assert "window of weights" in Path("streamed/report.html").read_text()
    refused = optc("run", "mapped", "-i", "x.npz", "--memory", "8MB")
    assert (refused.code, refused.diagnostics) == (1, ["E0531"])
    assert optc("bench", "mapped", "--memory", "8MB", "--runs", 2).diagnostics == ["E0531"]
    data = ("--data", "x.npz", "--metric", "agreement")
    assert optc("eval", "mapped", *data, "--memory", "8MB").diagnostics == ["E0531"]


def test_a_budget_that_cannot_hold_names_the_least_and_what_sets_it(
    optc: Optc, model: Path
) -> None:
    result = optc("compile", model, "-o", "out", "--memory", "4.2MB")
    assert (result.code, result.diagnostics) == (1, ["E0530"])
    assert "the largest weights of one call are 131 kB" in result.err
    assert "model.py:" in result.err
    assert not Path("out").exists()
    size = result.err.partition("help: --memory ")[2].split()[0]
    assert optc("compile", model, "-o", "out", "--memory", size, "--no-bench").code == 0


def test_a_layer_larger_than_the_budget_is_streamed_in_parts(optc: Optc, tmp_path: Path) -> None:
    """As a language model's scores of its vocabulary are."""
    path = tmp_path / "wide.optc"
    path.write_text(
        "graph @main(%x: 2x256xf32) {\n  %w = constant {seed=1} : 30000x256xf32\n"
        "  %y = linear(%x, %w) : 2x30000xf32\n  return %y\n}\n"
    )
    assert optc("compile", path, "-o", "mapped", "--no-bench").code == 0
    result = optc("compile", path, "-o", "parts", "--memory", "8MB", "--no-bench", "--remarks")
    assert result.code == 0
    assert "N0323" in result.out + result.err
    np.savez("x.npz", x=np.random.default_rng(0).standard_normal((2, 256)).astype(np.float32))
    for out in ("mapped", "parts"):
        assert optc("run", out, "-i", "x.npz", "-o", f"{out}.npz").code == 0
    whole, parts = (np.load(f"{out}.npz")["y"] for out in ("mapped", "parts"))
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-4)


WIDE = """graph @main(%x: 1x16x96x96xf32) {
  %u = constant {seed=1} : 32x16x1x1xf32
  %v = constant {seed=2} : 512x32x3x3xf32
  %w = constant {seed=3} : 512x512x3x3xf32
  %a = conv(%x, %u) : 1x32x96x96xf32 @ "net.py":1
  %b = tanh(%a) : 1x32x96x96xf32
  %c = add(%b, %a) : 1x32x96x96xf32
  %d = mul(%c, %a) : 1x32x96x96xf32
  %m = max_pool(%d) {kernel=(24, 24), stride=(24, 24)} : 1x32x4x4xf32
  %n = conv(%m, %v) {padding=((1, 1), (1, 1))} : 1x512x4x4xf32 @ "net.py":2
  %y = conv(%n, %w) {padding=((1, 1), (1, 1))} : 1x512x4x4xf32 @ "net.py":3
  return %y
}
"""


def test_room_for_weights_is_what_the_program_leaves(optc: Optc, tmp_path: Path) -> None:
    """Unfused, activations take four values of 1.2 MB; in the program they take less than two."""
    path = tmp_path / "wide.optc"
    path.write_text(WIDE)
    result = optc("compile", path, "-o", "out", "--memory", "3MB")
    assert (result.code, result.diagnostics) == (1, ["E0530"])
    for words in ("activations take", "inputs and outputs 623 kB", "process and code 4."):
        assert words in result.err
    size = result.err.partition("help: --memory ")[2].split()[0]
    assert 5 < float(size.removesuffix("MB")) <= 9
    tight = optc("compile", path, "-o", "parts", "--memory", size, "--no-bench", "--remarks")
    assert (tight.code, tight.diagnostics) == (0, []), tight.err
    assert "N0323" in tight.err
    manifest = json.loads(Path("parts/manifest.json").read_text())
    assert manifest["peak_bytes"] + manifest["process_bytes"] <= parse_size(size)
    # Room for the largest layer, and nothing is cut.
    roomy = optc("compile", path, "-o", "whole", "--memory", "18MB", "--no-bench", "--remarks")
    assert (roomy.code, "N0323" in roomy.err) == (0, False)
    x = np.random.default_rng(0).standard_normal((1, 16, 96, 96)).astype(np.float32)
    np.savez("x.npz", x=x)
    for out in ("parts", "whole"):
        assert optc("run", out, "-i", "x.npz", "-o", f"{out}.npz").code == 0
    one, other = (np.load(f"{out}.npz")["y"] for out in ("parts", "whole"))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3 * float(abs(other).max()))


def test_a_gpu_cannot_stream_and_says_so(optc: Optc, model: Path) -> None:
    result = optc("compile", model, "-o", "out", "--memory", "8MB", "--target", "cuda")
    assert (result.code, result.diagnostics) == (1, ["E0530"])
    assert "cannot be streamed" in result.err


@pytest.mark.parametrize("text", ["", "many", "64XB", "-3MB", "0", "1e3"])
def test_a_size_that_cannot_be_read_is_refused(optc: Optc, model: Path, text: str) -> None:
    result = optc("compile", model, "-o", "out", "--memory", text)
    assert (result.code, result.diagnostics) == (1, ["E0703"])


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("64MB", 64_000_000), ("64 MiB", 64 << 20), ("1.5k", 1500), ("65536", 1 << 16)],
)
def test_sizes(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes
    with pytest.raises(OptcError):
        parse_size(text + "x")


def test_the_map_is_a_picture_of_what_the_manifest_says(optc: Optc, model: Path) -> None:
    assert optc("compile", model, "-o", "out", "--memory", "8MB", "--no-bench").code == 0
    shown = optc("inspect", "--memory", "out", "-o", "map.svg")
    assert shown.code == 0
    assert "a window, what stays, and picked rows" in shown.out
    root = ElementTree.parse("map.svg").getroot()
    names = [e.text or "" for e in root.iter("{http://www.w3.org/2000/svg}title")]
    manifest = json.loads(Path("out/manifest.json").read_text())
    facts = manifest["memory_map"]
    assert len(facts["window"]) == manifest["stream"]["blocks"] == LAYERS
    assert len(names) == len(facts["held"]) + 2 * len(facts["window"])
    assert any("linear_tanh" in name and "model.py:2" in name for name in names)
    for block in facts["window"]:
        assert 0 <= block["ahead"] <= block["step"] < len(facts["steps"])
        assert block["at"] + block["bytes"] <= manifest["stream"]["window_bytes"]
    assert optc("inspect", model, "-o", "map.svg").diagnostics == ["E0703"]


def test_culprits_are_those_of_the_worst_step() -> None:
    held = [Held("a", 0, 5, 0, 1), Held("b", 5, 9, 1, 2), Held("c", 0, 7, 2, 3)]
    assert [value.name for value in culprits(held)] == ["b", "c"]


def early() -> str:
    """Two stages of six layers each, and a way out between them."""
    kind = f"1x{WIDTH}xf32"

    def stage(name: str, seed: int, results: str, more: str = "") -> str:
        lines = [f"  graph @{name}(%a0: {kind}) {{"]
        for i in range(6):
            lines += [
                f"    %w{i} = constant {{seed={seed + i}}} : {WIDTH}x{WIDTH}xf32",
                f"    %l{i} = linear(%a{i}, %w{i}) : {kind}",
                f"    %a{i + 1} = tanh(%l{i}) : {kind}",
            ]
        return "\n".join([*lines, more, f"    return {results}", "  }"])

    leave = (
        "    %zero = constant {splat=0.0} : f32\n"
        "    %sum = reduce_sum(%a6) {axes=(0, 1)} : f32\n"
        "    %leave = greater(%sum, %zero) : bool"
    )
    return "\n".join(
        [
            "module @early {",
            f"  input x : {kind}",
            f"  output y : {kind}",
            "  flow {",
            "    h, leave, e = run @first(x)",
            "    exit_if leave return e",
            "    y = run @second(h)",
            "  }",
            stage("first", 0, "%a6, %leave, %a3", leave),
            stage("second", 50, "%a6"),
            "}",
        ]
    )


def test_the_window_follows_a_model_that_exits_early(optc: Optc, tmp_path: Path) -> None:
    path = tmp_path / "early.optc"
    path.write_text(early())
    for out, size in (("mapped", "64MB"), ("streamed", "8MB")):
        result = optc("compile", path, "-o", out, "--memory", size, "--no-bench")
        assert (result.code, result.diagnostics) == (0, [])
    with load("mapped") as mapped, load("streamed") as streamed:
        for seed in range(30):
            x = np.random.default_rng(seed).standard_normal((1, WIDTH)).astype(np.float32)
            assert np.array_equal(mapped(x), streamed(x))
        runs = streamed.segment_runs()
        assert runs == mapped.segment_runs()
        assert 0 < runs["second"] < runs["first"] == 30
