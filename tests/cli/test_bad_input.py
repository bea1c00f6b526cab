"""Bad input: one coded diagnostic, exit code 1, nothing lost, nothing half-written."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import MLP, Optc

X = np.zeros((4, 16), dtype=np.float32)


@pytest.mark.parametrize(
    ("arguments", "code", "offer"),
    [
        (["compil"], "E0702", "compile"),
        (["compile", "m", "-o", "o", "--targte", "host"], "E0701", "--target"),
        (["compile", "m", "-o", "o", "--target", "cortexa76"], "E0140", "cortex-a76"),
        (["compile", "m", "-o", "o", "--target", "host:core=2"], "E0141", "cores"),
        (["compile", "m", "-o", "o", "-p", "fold-batchnorm"], "E0130", "fold-batch-norm"),
        (["compile", "m", "-o", "o", "-p", "fuse{max_node=3}"], "E0132", "max_nodes"),
        (["compile", "m", "-o", "o", "-p", "fuse,,"], "E0133", "-p"),
        (["compile", "m", "-o", "o", "--emit", "tosaa"], "E0703", "tosa"),
        (["compile", "m", "-o", "o", "--emit", "so,tosa"], "E0703", "--emit"),
        (["compile", "m", "-o", "o", "--shape", "batch=0"], "E0112", "m"),
        (["compile", "m"], "E0703", "--output"),
        (["passes", "fold-batchnorm"], "E0130", "fold-batch-norm"),
        (["targets", "znver9"], "E0140", "znver"),
        (["targets", "cuda-sm_90", "--measure"], "E0143", "targets host"),
        (["explain", "E0149"], "E0704", "E014"),
        (["opt", "missing.optc"], "E0112", "missing.optc"),
        (["inspect", "missing.pt2"], "E0112", "missing.pt2"),
        (["run", "missing", "--random", "0"], "E0510", "missing"),
        (["run", "missing"], "E0703", "--input"),
        (["bench", "missing"], "E0510", "missing"),
        (["bench", "missing", "--runs", "0"], "E0703", "--runs"),
    ],
)
def test_a_slip_of_the_pen_gets_the_nearest_names(
    optc: Optc, arguments: list[str], code: str, offer: str
) -> None:
    result = optc(*arguments)
    assert (result.code, result.diagnostics) == (1, [code])
    assert offer in result.err
    assert list(Path().iterdir()) == []


def test_dims_are_read_before_anything_else(optc: Optc, graph: Path) -> None:
    graph.with_suffix(".pt2").write_bytes(b"x")
    assert optc("compile", "mlp.pt2", "-o", "o", "--shape", "batch").diagnostics == ["E0703"]


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut", b"\x80\x04pickle"])
def test_a_model_that_is_no_archive(optc: Optc, content: bytes) -> None:
    Path("m.pt2").write_bytes(content)
    result = optc("compile", "m.pt2", "-o", "out")
    assert result.code == 1
    assert len(result.diagnostics) == 1
    assert result.diagnostics[0].startswith("E02")
    assert not Path("out").exists()


def test_text_that_does_not_parse(optc: Optc, graph: Path) -> None:
    graph.write_text(MLP.replace("relu(%up)", "relux(%up)"))
    result = optc("inspect", graph)
    assert (result.code, result.diagnostics) == (1, ["E0101"])
    assert "relu" in result.err
    assert "mlp.optc:12" in result.err


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        ({"z": X}, "E0520"),
        ({}, "E0520"),
        ({"x": X, "y": X}, "E0520"),
        ({"x": X[:2]}, "E0521"),
        ({"x": X.astype(np.float64)}, "E0522"),
        ({"x": X.astype(np.int32)}, "E0522"),
    ],
)
def test_inputs_that_do_not_fit(
    optc: Optc, artifact: Path, arrays: dict[str, np.ndarray], code: str
) -> None:
    np.savez("x.npz", **arrays)
    for command in ("run", "bench"):
        result = optc(command, artifact, "--input", "x.npz")
        assert (result.code, result.diagnostics) == (1, [code])


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x05\x06" + bytes(18)])
def test_inputs_that_are_no_npz(optc: Optc, artifact: Path, content: bytes) -> None:
    Path("x.npz").write_bytes(content)
    result = optc("run", artifact, "--input", "x.npz")
    assert result.code == 1
    assert result.diagnostics in (["E0710"], ["E0520"])


def test_pickled_inputs_are_not_unpickled(optc: Optc, artifact: Path) -> None:
    np.savez("x.npz", x=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert optc("run", artifact, "--input", "x.npz").diagnostics == ["E0710"]


def test_both_kinds_of_inputs(optc: Optc, artifact: Path) -> None:
    np.savez("x.npz", x=X)
    result = optc("run", artifact, "--input", "x.npz", "--random", 1)
    assert result.diagnostics == ["E0703"]


def test_an_output_below_a_file(optc: Optc, graph: Path) -> None:
    Path("file").write_text("keep me")
    result = optc("compile", graph, "-o", "file/out")
    assert (result.code, result.diagnostics) == (1, ["E0150"])
    assert Path("file").read_text() == "keep me"


def test_an_output_that_holds_something_else(optc: Optc, graph: Path) -> None:
    Path("out").mkdir()
    Path("out/thesis.tex").write_text("keep me")
    result = optc("compile", graph, "-o", "out")
    assert result.code == 1
    assert len(result.diagnostics) == 1
    assert Path("out/thesis.tex").read_text() == "keep me"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "optc.cli", *map(str, arguments)]


def test_a_full_disk_when_outputs_are_written(artifact: Path) -> None:
    """A limit on the size of files stands for the disk: the kernel refuses in the same way."""
    done = subprocess.run(
        command("run", artifact, "--random", 0, "-o", "y.npz"),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)),
    )
    assert done.returncode == 1
    assert "error[E0151]" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in Path().iterdir()} == {"artifact"}


def test_a_full_disk_when_an_artifact_is_written(graph: Path) -> None:
    """The weights are larger than the limit, all else is smaller."""
    graph.write_text(MLP.replace("16xf32", "16384xf32"))
    done = subprocess.run(
        command("compile", graph, "-o", "out", "--no-bench"),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )
    assert done.returncode == 1, done.stderr
    assert "error[E0151]" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in Path().iterdir()} == {"mlp.optc"}


def test_no_c_compiler(optc: Optc, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from optc.backends.aot import link

    monkeypatch.setattr(link.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(link.shutil, "which", lambda name: None)
    result = optc("compile", graph, "-o", "out")
    assert (result.code, result.diagnostics) == (1, ["E0501"])
    assert "pip install ziglang" in result.err
    assert not Path("out").exists()


def edit_manifest(artifact: Path, **changes: object) -> None:
    path = artifact / "manifest.json"
    manifest = json.loads(path.read_text())
    for key, value in changes.items():
        manifest[key] = {**manifest[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("what", ["cpu", "version", "program", "cut"])
def test_an_artifact_that_is_not_for_here(optc: Optc, artifact: Path, what: str) -> None:
    match what:
        case "cpu":
            edit_manifest(artifact, target={"triple": "s390x-linux-gnu"})
        case "version":
            edit_manifest(artifact, version=99)
        case "program":
            edit_manifest(artifact, format="a cake recipe")
        case "cut":
            text = (artifact / "manifest.json").read_text()
            (artifact / "manifest.json").write_text(text[: len(text) // 2])
    for name in ("run", "bench"):
        result = optc(name, artifact, *(["--random", 0] if name == "run" else []))
        assert result.code == 1
        assert len(result.diagnostics) == 1
        assert result.diagnostics[0].startswith("E05")


@pytest.mark.parametrize("name", ["weights.bin", "model.so"])
def test_a_damaged_artifact(optc: Optc, artifact: Path, name: str) -> None:
    data = bytearray((artifact / name).read_bytes())
    data[len(data) // 2] ^= 0x20
    (artifact / name).write_bytes(data)
    result = optc("run", artifact, "--random", 0)
    assert result.code == 1
    assert len(result.diagnostics) == 1
    assert result.diagnostics[0].startswith("E05")


def test_a_damaged_zip(optc: Optc, graph: Path) -> None:
    assert optc("compile", graph, "-o", "out.optc", "--no-bench").code == 0
    assert zipfile.is_zipfile("out.optc")
    assert optc("run", "out.optc", "--random", 0).code == 0
    data = Path("out.optc").read_bytes()
    Path("out.optc").write_bytes(data[: len(data) // 2])
    result = optc("run", "out.optc", "--random", 0)
    assert (result.code, result.diagnostics) == (1, ["E0510"])


def test_an_old_artifact_survives_a_failed_compile(optc: Optc, artifact: Path, graph: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in artifact.iterdir()}
    assert optc("compile", graph, "-o", artifact, "-p", "no-such-pass").code == 1
    assert {path.name: path.stat().st_mtime_ns for path in artifact.iterdir()} == before


@pytest.mark.parametrize("when", ["capture ...", "kernels ..."])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing(graph: Path, when: str, number: signal.Signals) -> None:
    # A shell starts background jobs with SIGINT ignored, and children inherit that.
    running = subprocess.Popen(
        command("compile", graph, "-o", "out"),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert running.stderr is not None
    for line in running.stderr:
        if line.startswith(when):
            break
    running.send_signal(number)
    rest = running.stderr.read()
    code = running.wait(60)
    assert code == (130 if number is signal.SIGINT else 143), rest
    assert "Traceback" not in rest
    assert {path.name for path in Path().iterdir()} == {"mlp.optc"}


def test_a_bug_of_ours_is_70_with_a_file_that_reproduces_it(
    optc: Optc, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optc.passes.canonicalize import remove_dead

    def broken(self: object, module: object, ctx: object) -> object:
        raise ZeroDivisionError("a slip of ours")

    monkeypatch.setattr(remove_dead.RemoveDead, "run", broken)
    result = optc("compile", graph, "-o", "out")
    assert (result.code, result.diagnostics) == (70, ["E0790"])
    assert "out-bug.optc" in result.err
    kept = Path("out-bug.optc").read_text()
    assert "ZeroDivisionError" in kept
    monkeypatch.undo()
    monkeypatch.chdir(graph.parent)
    again = optc("opt", "out-bug.optc", "-p", "remove-dead")
    assert again.code == 0
    assert again.out == MLP


def test_a_closed_pipe_is_quiet() -> None:
    line = f"{sys.executable} -m optc.cli ops --ir | head -1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_an_error_without_better_advice_has_its_page(optc: Optc) -> None:
    Path("folder").mkdir()
    found = optc("tune", "--import", "folder", "--export", "e.jsonl", "--records", "r.jsonl")
    assert (found.code, found.diagnostics) == (1, ["E0112"])
    assert "help: optc explain E0112" in found.err
