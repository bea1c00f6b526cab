"""Model files: what is taken, what is refused and how, and that nothing is unpickled unasked."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.export import export, save

from optc.backends.reference.evaluate import run
from optc.ir.capture import capture
from optc.ir.diagnostics import Diagnostic, OptcError
from tests.ir.capture.models import Nested, Net

X = torch.ones(2, 8)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`Net` as torch.export.save writes it."""
    path = tmp_path_factory.mktemp("files") / "net.pt2"
    save(export(Net().eval(), (X,)), path)
    return path


def code_of(path: Path, **options: Any) -> str:
    """The code of the error that capturing ends in."""
    with pytest.raises(OptcError) as caught:
        capture(path, **options)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.help
    return diagnostic.code


def rewritten(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of an archive with its model.json changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("models/model.json"):
                graph = json.loads(content)
                change(graph)
                content = json.dumps(graph).encode()
            new.writestr(name, content)
    return target


def test_archive_is_the_model(archive: Path) -> None:
    """Weights come from the file, and the result is torch's."""
    captured = capture(archive)
    program = torch.export.load(archive)
    found = run(captured, {"x": X}).outputs["output"]
    torch.testing.assert_close(found, program.module()(X))
    assert captured.name == "net"


def test_weights_are_mapped(archive: Path) -> None:
    """The arrays of weights lie in the mapped file."""
    (graph,) = capture(archive).graphs
    bases = []
    for item in graph.constants.values():
        array = item.array
        while isinstance(array.base, np.ndarray) and not isinstance(array, np.memmap):
            array = array.base
        bases.append(array)
    assert not any(item.array.flags.owndata for item in graph.constants.values())
    assert bases


def test_exported_program_named_pt(archive: Path, tmp_path: Path) -> None:
    """The content decides, not the name."""
    path = tmp_path / "net.pt"
    path.write_bytes(archive.read_bytes())
    assert capture(path).outputs[0].name == "output"


def test_user_classes_need_not_be_importable(tmp_path: Path) -> None:
    """Field names of a returned class are read from the file."""
    path = tmp_path / "nested.pt2"
    inputs = ({"input_ids": X, "pair": (X, X)},)
    save(export(Nested(), inputs, {"extra": [X]}), path)
    forgotten = rewritten(
        path,
        tmp_path / "forgotten.pt2",
        lambda graph: graph.update(
            json.loads(json.dumps(graph).replace("tests.Answer", "gone.Answer"))
        ),
    )
    assert [port.name for port in capture(forgotten).outputs] == ["score", "rest.0", "rest.1"]


def test_torchscript_is_refused(tmp_path: Path) -> None:
    """With the two lines that make a .pt2."""
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.trace(Net().eval(), X), path)
    assert code_of(path) == "E0203"
    with pytest.raises(OptcError, match=r"torch\.export\.save\(program"):
        capture(path)


def test_pickled_model_is_refused_unless_asked(tmp_path: Path) -> None:
    """--unsafe-load and examples take it, with a warning that says what it risks."""
    path = tmp_path / "model.pt"
    torch.save(Net(), path)
    assert code_of(path) == "E0203"
    found: list[Diagnostic] = []
    captured = capture(path, {"x": X.numpy()}, unsafe_load=True, diagnostics=found)
    assert captured.inputs[0].name == "x"
    assert [item.code for item in found] == ["W0242", "W0243"]


def test_nothing_is_unpickled_unasked(archive: Path, tmp_path: Path) -> None:
    """Sample inputs that would run code do not, though torch.export.load runs them."""
    ran = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (ran,))

    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            is_sample = name.endswith("sample_inputs/model.pt")
            new.writestr(name, pickle.dumps(Bomb()) if is_sample else old.read(name))
    capture(path)
    (tmp_path / "bomb.pt").write_bytes(pickle.dumps(Bomb()))
    assert code_of(tmp_path / "bomb.pt") == "E0203"
    assert not ran.exists()


def test_expressions_that_are_code_are_refused(archive: Path, tmp_path: Path) -> None:
    """torch would evaluate them."""
    ran = tmp_path / "ran"

    def change(graph: dict[str, Any]) -> None:
        values = graph["graph_module"]["graph"]["tensor_values"]
        size = {"as_expr": {"expr_str": f"open({str(ran)!r}, 'w')", "hint": {"as_int": 2}}}
        values["x"]["sizes"][0] = size

    assert code_of(rewritten(archive, tmp_path / "code.pt2", change)) == "E0205"
    assert not ran.exists()


def test_calls_of_anything_else_are_refused(archive: Path, tmp_path: Path) -> None:
    """A graph calls operators only."""

    def change(graph: dict[str, Any]) -> None:
        node = graph["graph_module"]["graph"]["nodes"][0]
        node["target"] = "torch.hub.load"

    assert code_of(rewritten(archive, tmp_path / "call.pt2", change)) in {"E0204", "E0205"}


def test_archive_of_a_newer_torch(archive: Path, tmp_path: Path) -> None:
    """Both versions are named."""

    def change(graph: dict[str, Any]) -> None:
        graph["schema_version"]["major"] += 1
        graph["torch_version"] = "9.9"

    path = rewritten(archive, tmp_path / "newer.pt2", change)
    assert code_of(path) == "E0204"
    with pytest.raises(OptcError, match=r"torch 9\.9"):
        capture(path)


def test_not_a_model(tmp_path: Path) -> None:
    """Text, nothing, no file, a zip of something else, weights."""
    (tmp_path / "text.pt2").write_text("hello")
    assert code_of(tmp_path / "text.pt2") == "E0201"
    (tmp_path / "empty.pt2").write_bytes(b"")
    assert code_of(tmp_path / "empty.pt2") == "E0201"
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as file:
        file.writestr("a/b", "c")
    assert code_of(tmp_path / "other.pt2") == "E0201"
    torch.save(Net().state_dict(), tmp_path / "weights.pt")
    assert code_of(tmp_path / "weights.pt", unsafe_load=True) == "E0207"
    with pytest.raises(OptcError, match="E0112"):
        capture(tmp_path / "absent.pt2")


@given(share=st.floats(0.01, 0.999))
def test_truncated_archive(archive: Path, share: float) -> None:
    """Wherever it ends, one diagnostic says so."""
    content = archive.read_bytes()
    path = archive.parent / "cut.pt2"
    path.write_bytes(content[: max(4, int(len(content) * share))])
    assert code_of(path) == "E0202"


@settings(max_examples=20)
@given(place=st.floats(0, 1), byte=st.integers(0, 255))
def test_damaged_archive(archive: Path, place: float, byte: int) -> None:
    """A flipped byte gives a model or a coded diagnostic, never another error."""
    content = bytearray(archive.read_bytes())
    content[int(place * (len(content) - 1))] = byte
    path = archive.parent / "flipped.pt2"
    path.write_bytes(bytes(content))
    try:
        capture(path)
    except OptcError as problem:
        assert problem.diagnostics[0].code.startswith("E02")  # noqa: PT017
