"""What the packager writes for a GPU: images, sources, manifest, and the same bytes each time."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from optc.backends.aot import nvrtc
from optc.backends.aot.build import Emit
from optc.backends.aot.check_program import check_program
from optc.backends.aot.nvrtc import DeviceCompiler, find_device_compiler
from optc.backends.aot.package import write_artifact
from optc.backends.program import Call, DeviceCode, Launch, Program, Segment
from optc.ir.diagnostics import InternalError, OptcError
from tests.backends.aot import cuda_programs as programs
from tests.backends.aot.cuda_programs import ARENA, IN, OUT, SOURCE

pytestmark = pytest.mark.needs("package:nvidia")
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_images_of_every_architecture(architecture: str) -> None:
    code = DeviceCode(architecture, SOURCE)
    images = find_device_compiler().compile(code)
    assert images.cubin[:4] == b"\x7fELF"
    assert images.cubin[49] == int(architecture[3:])  # the architecture in the header's flags
    assert f".target {architecture}".encode() in images.ptx
    assert b".entry reverse(" in images.ptx
    assert find_device_compiler().compile(code) == images


def test_bfloat16_has_its_header() -> None:
    source = (
        '#include <cuda_bf16.h>\nextern "C" __global__ void f(__nv_bfloat16 *x)'
        "{ x[0] = __float2bfloat16(2.0f * __bfloat162float(x[0])); }"
    )
    assert find_device_compiler().compile(DeviceCode("sm_80", source)).ptx


def test_nvcc_serves_without_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = shutil.which("nvcc")
    if not nvcc:
        pytest.skip("nvcc is not installed")
    monkeypatch.setattr(nvrtc.importlib.util, "find_spec", lambda name: None)
    assert find_device_compiler() == DeviceCompiler(nvcc=nvcc)
    code = DeviceCode("sm_80", SOURCE)
    images = find_device_compiler().compile(code)
    assert images.cubin[49] == 80
    assert b".target sm_80" in images.ptx
    assert find_device_compiler().compile(code) == images
    with pytest.raises(InternalError, match="nvcc refused"):
        find_device_compiler().compile(DeviceCode("sm_80", "this is no C"))


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(nvrtc.shutil, "which", lambda name: None)
    with pytest.raises(OptcError, match="neither NVRTC nor nvcc") as caught:
        find_device_compiler()
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E0504"
    assert diagnostic.help == "pip install 'optc[cuda]'"


def test_a_broken_library_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "libnvrtc.so.13"
    path.write_text("nothing")
    with pytest.raises(OptcError, match=r"E0504.*cannot be loaded"):
        DeviceCompiler(path).compile(DeviceCode("sm_80", SOURCE))


def test_source_that_does_not_compile_is_our_bug() -> None:
    with pytest.raises(InternalError, match=r"NVRTC refused.*\n.*model.cu\(2\): error"):
        find_device_compiler().compile(DeviceCode("sm_80", "\nthis is no C"))


def test_equal_programs_give_equal_bytes(cache: Path, tmp_path: Path) -> None:
    emit = (Emit.SHARED, Emit.ARCHIVE, Emit.OBJECTS, Emit.SOURCE)
    files = []
    for name in ("one", "two"):
        out = write_artifact(programs.adder(), tmp_path / name, emit=emit, cache=cache).path
        paths = sorted(path for path in out.rglob("*") if path.is_file())
        files.append({path.relative_to(out).as_posix(): path.read_bytes() for path in paths})
    assert files[0] == files[1]
    raw = files[0]["model.so"]
    assert files[0]["source/model.cubin"] in raw
    assert files[0]["source/model.ptx"] in raw
    assert files[0]["source/model.cu"].decode() == SOURCE
    assert "objects/cuda.o" in files[0]
    target = json.loads(files[0]["manifest.json"])["target"]
    assert target["gpu"] == {"architecture": "sm_75", "compute_capability": "7.5"}


def test_other_kernels_are_not_taken_from_a_cache(cache: Path, tmp_path: Path) -> None:
    """The compiler's cache sees the text of model.c; the images come in behind its back."""
    device = DeviceCode("sm_75", SOURCE.replace("2.0f * x[i]", "3.0f * x[i]"))
    for name, program in (("a", programs.adder()), ("b", replace(programs.adder(), device=device))):
        emit = (Emit.SHARED, Emit.SOURCE)
        out = write_artifact(program, tmp_path / name, emit=emit, cache=cache).path
        image = (out / "source" / "model.cubin").read_bytes()
        assert image in (out / "model.so").read_bytes()


def test_the_driver_reads_as_calls(cache: Path, tmp_path: Path) -> None:
    emit = (Emit.SOURCE,)
    out = write_artifact(programs.adder(), tmp_path / "out", emit=emit, cache=cache).path
    text = (out / "source" / "model.c").read_text()
    operands = "m->inputs[0], weights + 4096, arena + 0"
    assert f"OPTC_RT_LAUNCH(m, kernel_add, (4, 1, 1), (256, 1, 1), 0, {operands});" in text


def test_the_cpu_runtime_has_no_part_of_it(adder: Program, cache: Path, tmp_path: Path) -> None:
    emit = (Emit.SOURCE, Emit.OBJECTS)
    out = write_artifact(adder, tmp_path / "out", emit=emit, cache=cache).path
    assert not [path for path in out.rglob("*") if "cuda" in path.name]


SIZES = ((1, 1, 1), (1, 1, 1))


@pytest.mark.parametrize(
    ("launch", "sentence"),
    [
        (Launch("add", (0, 1, 1), (1, 1, 1), (0,)), "grid (0, 1, 1) is not within"),
        (Launch("add", (1, 65536, 1), (1, 1, 1), (0,)), "grid (1, 65536, 1) is not within"),
        (Launch("add", (1, 1, 1), (1, 1, 65), (0,)), "block (1, 1, 65) is not within"),
        (Launch("add", (1, 1, 1), (64, 32, 1), (0,)), "a block has 2048 threads"),
        (Launch("add", *SIZES, (2,)), "operand 2 of 2"),
        (Launch("add", *SIZES, (0,) * 257), "257 operands, more than 256"),
        (Launch("add", *SIZES, (0,), 1 << 20), "1048576 bytes of shared memory"),
        (Launch("a b", *SIZES, (0,)), "it is no name of a kernel"),
    ],
)
def test_a_launch_that_no_gpu_takes_is_refused(launch: Launch, sentence: str) -> None:
    program = programs.program("bad", Call("c", (IN, OUT), launches=(launch,)))
    assert any(sentence in problem for problem in check_program(program))


def test_cpu_and_gpu_are_not_mixed(adder: Program) -> None:
    good = programs.adder()
    assert check_program(good) == []
    assert "a program for a GPU has CPU kernels" in check_program(replace(good, objects=(b"",)))
    assert "c is not launched" in check_program(programs.program("p", Call("c", (ARENA,))))[0]
    launched = Segment("main", (programs.launch("add", IN, IN, OUT),))
    assert "there is no code" in check_program(replace(adder, segments=(launched,)))[0]
    strange = replace(good, device=DeviceCode("sm80", SOURCE))
    assert "is not a GPU architecture" in check_program(strange)[0]
