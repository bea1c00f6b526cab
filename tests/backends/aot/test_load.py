"""What a person sees who loads and calls an artifact from Python, rightly or wrongly."""

from __future__ import annotations

import gc
import hashlib
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optc.backends.aot.package import write_artifact
from optc.backends.program import Call, Operand, Port, Program, RunSegment, Segment, Space
from optc.ir.diagnostics import OptcError
from optc.ir.dtype import DType
from optc.runtime import Artifact, load

X = (np.arange(1024) % 17).astype(np.float32)
Y = 2 * (X + np.arange(1024, dtype=np.float32))


@pytest.fixture(scope="module")
def artifact(adder_folder: Path) -> Artifact:
    """The adder, loaded once: no test changes it."""
    return load(adder_folder)


def test_it_runs_by_position_and_by_name(artifact: Artifact) -> None:
    assert np.array_equal(artifact(X), Y)
    assert np.array_equal(artifact(x=X), Y)
    assert artifact(X).ctypes.data % 64 == 0


@pytest.mark.parametrize("count", [128, 129, 1300])
def test_a_segment_of_many_calls_makes_each_once(
    adder: Program, tmp_path: Path, cache: Path, count: int
) -> None:
    # In parts from 129 calls on, and without the C compiler's optimiser from 1001.
    places = [
        Operand(Space.INPUT, 0),
        *(Operand(Space.ARENA, 4096 * (i % 2)) for i in range(count)),
    ]
    places[-1] = Operand(Space.OUTPUT, 0)
    weights = Operand(Space.WEIGHTS, 4096)
    calls = tuple(
        Call("k_add", (a, weights, b), f"call {i}", 1, 1)
        for i, (a, b) in enumerate(pairwise(places))
    )
    many = replace(adder, segments=(Segment("main", calls),), arena_bytes=8192)
    written = write_artifact(many, tmp_path / "out", cache=cache)
    with load(written.path) as artifact:
        assert np.array_equal(artifact(X), X + count * np.arange(1024, dtype=np.float32))
        assert len(artifact.profile(X, runs=1).kernels) == count


def test_fewer_runs_than_none_are_refused_in_c(artifact: Artifact) -> None:
    run = artifact._library.functions.adder_bench
    nothing = (None,) * 2
    assert run(artifact._instance, *nothing, 0, None) == 0
    assert run(artifact._instance, *nothing, -1, None) == 1  # OPTC_BAD_ARGUMENT
    assert run(None, *nothing, 0, None) == 1


def test_a_call_does_not_write_into_earlier_results(artifact: Artifact) -> None:
    first = artifact(X)
    second = artifact(X + 1)
    assert np.array_equal(first, Y)
    assert np.array_equal(second, Y + 2)


@pytest.mark.parametrize(
    "view",
    [
        np.stack([X, X], axis=1)[:, 0],  # strided
        np.frombuffer(b"\0" + X.tobytes(), np.uint8)[1:].view(np.float32),  # not aligned
        X.astype(">f4"),  # the other byte order
    ],
)
def test_any_memory_layout_is_taken(artifact: Artifact, view: np.ndarray) -> None:
    assert np.array_equal(artifact(view), Y)


def test_other_libraries_arrays_are_taken(artifact: Artifact) -> None:
    class Interface:
        __array_interface__ = X.__array_interface__

    class Capsule:
        def __dlpack__(self, **options: Any) -> Any:
            return X.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return X.__dlpack_device__()

    assert np.array_equal(artifact(Interface()), Y)
    assert np.array_equal(artifact(Capsule()), Y)


@pytest.mark.parametrize(
    ("call", "code", "sentence"),
    [
        (lambda a: a(), "E0520", r"'x' is missing; the inputs are: x: 1024xf32"),
        (lambda a: a(X, X), "E0520", "2 positional arrays for 1 inputs"),
        (lambda a: a(X, x=X), "E0520", "'x' is given twice"),
        (lambda a: a(y=X), "E0520", "no input is called 'y', 'x' is missing"),
        (lambda a: a({"x": X, "z": X}), "E0520", "2 positional arrays"),
        (lambda a: a(X[1:]), "E0521", "has shape 1023, expected x: 1024xf32"),
        (lambda a: a(X[None]), "E0521", "has shape 1x1024"),
        (lambda a: a(np.float32(1)), "E0521", "has shape scalar"),
        (lambda a: a(X.astype(np.float64)), "E0522", "dtype f64, expected f32"),
        (lambda a: a(X.view(np.int32)), "E0522", "dtype i32, expected f32"),
        (lambda a: a("text"), "E0523", "is a str, expected an array of x: 1024xf32"),
        (lambda a: a(None), "E0520", "'x' is missing"),
        (lambda a: a.bench(X, runs=-1), "E0523", "runs must be a whole number"),
        (lambda a: a.set_threads(1.5), "E0523", "threads must be a whole number"),
        (lambda a: a.state("cache"), "E0526", "no state 'cache'; its states: none"),
    ],
)
def test_a_wrong_call_is_one_sentence(
    artifact: Artifact, call: Callable[[Artifact], object], code: str, sentence: str
) -> None:
    with pytest.raises(OptcError, match=sentence) as caught:
        call(artifact)
    assert [d.code for d in caught.value.diagnostics] == [code]


def test_a_closed_artifact_says_so(adder_folder: Path) -> None:
    with load(adder_folder) as artifact:
        artifact(X)
    with pytest.raises(OptcError, match="E0523"):
        artifact(X)
    artifact.close()


def test_instances_come_and_go(adder_folder: Path) -> None:
    for _ in range(50):
        assert np.array_equal(load(adder_folder).another()(X), Y)
    gc.collect()


def test_weights_can_be_copied_or_trusted(adder_folder: Path) -> None:
    assert np.array_equal(load(adder_folder, copy=True)(X), Y)
    assert np.array_equal(load(adder_folder, verify=False)(X), Y)


def test_a_zip_is_unpacked_once(adder: Program, tmp_path: Path, cache: Path) -> None:
    path = write_artifact(adder, tmp_path / "adder.optc", cache=cache).path
    store = tmp_path / "store"
    assert np.array_equal(load(path, cache=store)(X), Y)
    (folder,) = store.iterdir()
    stamp = (folder / "model.so").stat().st_mtime_ns
    assert np.array_equal(load(path, cache=store)(X), Y)
    assert (folder / "model.so").stat().st_mtime_ns == stamp
    (folder / "weights.bin").unlink()  # someone cleaned up: it is unpacked again
    assert np.array_equal(load(path, cache=store)(X), Y)


def test_bench_and_profile_count_every_run(artifact: Artifact) -> None:
    times = artifact.bench(X, runs=30)
    assert times.shape == (30,)
    assert times.min() > 0
    profile = artifact.profile(X, runs=7)
    assert [kernel.calls for kernel in profile.kernels] == [7, 7]
    assert profile.kernels[0].label == "add bias @ model.py:3"
    assert profile.kernels[1].kernel == "k_double"
    assert all(k.total_ns >= 7 * k.fastest_ns > 0 for k in profile.kernels)
    assert profile.segment_runs == {"main": 7}


def test_nested_inputs_and_outputs(adder: Program, tmp_path: Path, cache: Path) -> None:
    a, b, y = (Operand(Space.INPUT, 0), Operand(Space.INPUT, 1), Operand(Space.OUTPUT, 0))
    call = Call("k_add", (a, b, y), "add")
    double = Call("k_double", (b, Operand(Space.OUTPUT, 1)), "double")
    ports = [Port(name, (32, 32), DType.F32) for name in ("pair.a", "pair.b", "s", "d")]
    program = replace(
        adder,
        inputs=tuple(ports[:2]),
        outputs=tuple(ports[2:]),
        segments=(Segment("main", (call, double)),),
        flow=(RunSegment("main"),),
        output_tree={"dict": {"sum": 0, "rest": {"list": [{"tuple": [1, None]}, 0]}}},
    )
    artifact = load(write_artifact(program, tmp_path / "out", cache=cache).path)
    square = X.reshape(32, 32)
    for result in (
        artifact(pair={"a": square, "b": square}),
        artifact((square, square)),
        artifact(square, **{"pair.b": square}),
    ):
        assert np.array_equal(result["sum"], 2 * square)
        assert np.array_equal(result["rest"][0][0], 2 * square)
        assert result["rest"][0][1] is None
        assert result["rest"][1] is result["sum"]
    plain = replace(program, output_tree=None)
    pair = load(write_artifact(plain, tmp_path / "plain", cache=cache).path)(square, square)
    assert isinstance(pair, tuple)
    assert len(pair) == 2


def test_bf16_is_its_bits(adder: Program, tmp_path: Path, cache: Path) -> None:
    port = Port("x", (2048,), DType.BF16)
    program = replace(adder, inputs=(port,), outputs=(Port("y", (2048,), DType.BF16),))
    artifact = load(write_artifact(program, tmp_path / "out", cache=cache).path)
    bits = X.view(np.uint16)
    assert np.array_equal(artifact(bits).view(np.float32), Y)
    with pytest.raises(OptcError, match=r"E0522(.|\n)*ml_dtypes"):
        artifact(np.zeros(2048, np.float16))
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert np.array_equal(artifact(bits.view(ml_dtypes.bfloat16)).view(np.float32), Y)


def test_loading_needs_neither_torch_nor_tvm(adder_folder: Path) -> None:
    code = (
        "import sys, numpy as np, optc\n"
        f"y = optc.load({str(adder_folder)!r})(np.zeros(1024, np.float32))\n"
        "assert y[3] == 6\n"
        "heavy = {'torch', 'tvm', 'torch_mlir', 'click', 'rich', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run((sys.executable, "-c", code), check=True)


# An artifact that cannot be loaded


@pytest.fixture
def folder(adder_folder: Path, tmp_path: Path) -> Path:
    """A copy of the adder to be damaged."""
    return Path(shutil.copytree(adder_folder, tmp_path / "adder"))


def refused(path: Path, code: str, sentence: str) -> None:
    """Loading `path` fails with exactly this."""
    with pytest.raises(OptcError, match=sentence) as caught:
        load(path)
    assert [d.code for d in caught.value.diagnostics] == [code]


def edit(folder: Path, **changes: Any) -> None:
    """Overwrite entries of the manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_no_artifact(tmp_path: Path) -> None:
    refused(tmp_path, "E0510", "has no readable manifest.json")
    refused(tmp_path / "nowhere", "E0510", "no such file")
    (tmp_path / "x.optc").write_text("hello")
    refused(tmp_path / "x.optc", "E0510", "neither a folder nor a zip")
    (tmp_path / "manifest.json").write_text('{"name": "another program"}')
    refused(tmp_path, "E0510", "another program's")


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("inputs", {"shape": [1]}),
        ("outputs", {"shape": [1]}),
        ("outputs", {"dtype": "u8"}),
        ("inputs", {"name": "other"}),
        ("states", None),
    ],
)
def test_ports_that_are_not_the_library_s(
    folder: Path, kind: str, change: dict[str, Any] | None
) -> None:
    """Buffers are made by the manifest: the library would write past them."""
    manifest = json.loads((folder / "manifest.json").read_text())
    ports = manifest[kind]
    wrong = [{**ports[0], **change}, *ports[1:]] if change else [*ports, manifest["inputs"][0]]
    edit(folder, **{kind: wrong})
    refused(folder, "E0514", f"not its library's: it tells of {kind}")


def test_a_manifest_that_lacks_what_is_read_says_what(folder: Path) -> None:
    edit(folder, target={})
    refused(folder, "E0514", "damaged: 'triple' is missing")


def test_a_newer_format(folder: Path) -> None:
    edit(folder, version=2)
    refused(folder, "E0511", "format 2, this optc reads formats up to 1")


def test_another_cpu(folder: Path) -> None:
    triple = "aarch64-linux-gnu" if platform.machine() == "x86_64" else "x86_64-linux-gnu"
    edit(folder, target={"triple": triple, "cpu": "", "features": []})
    refused(folder, "E0512", f"compiled for {triple.split('-')[0]}, this machine is")


def test_missing_features(adder: Program, tmp_path: Path, cache: Path) -> None:
    needs = replace(adder, features=("from_the_future", "and_another"))
    path = write_artifact(needs, tmp_path / "out", cache=cache).path
    refused(path, "E0513", "lacks: from_the_future, and_another")


def test_features_that_are_there(adder: Program, tmp_path: Path, cache: Path) -> None:
    known = {"sse2", "sse4_2", "popcnt", "avx2", "fma", "f16c", "avx512f", "avx512bw", "bmi2"}
    known |= {"avx512_vnni", "avx512_bf16", "fp", "asimd", "neon", "asimddp"}
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next(line for line in lines if line.startswith(("flags", "Features"))).split()
    there, absent = sorted(known & set(flags)), sorted(known - set(flags))
    path = write_artifact(replace(adder, features=tuple(there)), tmp_path / "a", cache=cache).path
    assert np.array_equal(load(path)(X), Y)
    both = replace(adder, features=(*there, *absent))
    path = write_artifact(both, tmp_path / "b", cache=cache).path
    refused(path, "E0513", ", ".join(absent))


def test_weights_with_one_flipped_bit(folder: Path) -> None:
    path = folder / "weights.bin"
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    refused(folder, "E0514", "weights.bin is damaged: its bytes do not match")


def test_weights_that_end_early(folder: Path) -> None:
    path = folder / "weights.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-64])
    refused(folder, "E0514", "should have 8256 bytes and has 8192")
    path.write_bytes(whole[:10])
    refused(folder, "E0514", "not a weights file")
    path.write_bytes(b"")
    refused(folder, "E0514", "not a weights file")
    path.write_bytes(b"X" + whole[1:])
    refused(folder, "E0514", "not a weights file")
    path.unlink()
    refused(folder, "E0510", "cannot open .*weights.bin: No such file")


def test_weights_of_another_model(
    folder: Path, adder: Program, tmp_path: Path, cache: Path
) -> None:
    weight = adder.weights[1]
    changed = replace(weight, load=lambda: weight.load() + 1)
    other = replace(adder, weights=(adder.weights[0], changed))
    path = write_artifact(other, tmp_path / "other", cache=cache).path
    shutil.copy(path / "weights.bin", folder / "weights.bin")
    refused(folder, "E0514", "holds the weights of another model than adder")


def test_a_damaged_library(folder: Path) -> None:
    path = folder / "model.so"
    path.write_bytes(path.read_bytes()[:-100])
    refused(folder, "E0514", "model.so is damaged")
    path.unlink()
    refused(folder, "E0514", "model.so is damaged or missing")


def test_a_library_that_the_system_refuses(folder: Path) -> None:
    data = b"\x7fELF nonsense"
    (folder / "model.so").write_bytes(data)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files["model.so"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(folder, files=files)
    refused(folder, "E0515", "cannot be loaded")


def test_an_artifact_for_linking_only(folder: Path) -> None:
    files = json.loads((folder / "manifest.json").read_text())["files"]
    del files["model.so"]
    edit(folder, files=files)
    refused(folder, "E0510", "for linking, not for loading")
