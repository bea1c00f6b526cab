"""Compiles CUDA C for a GPU: machine code for its architecture, and PTX for newer ones.

NVRTC, a wheel that pip installs, needs neither a CUDA toolkit nor a host compiler nor a GPU; where
it is missing, an installed `nvcc` serves. Equal input gives equal bytes from the same compiler.
"""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optc.backends.program import DeviceCode
from optc.ir.diagnostics import InternalError, error

_LANGUAGE = "--std=c++17"
_NAME = "model.cu"  # what the compilers are told; no path of the machine gets into the bytes


@dataclass(frozen=True, slots=True)
class DeviceImages:
    """What the driver loads: machine code for one major architecture, and PTX for those after."""

    cubin: bytes
    ptx: bytes


@dataclass(frozen=True, slots=True)
class DeviceCompiler:
    """NVRTC by its library, or nvcc by its path; `includes` is where NVRTC finds its headers."""

    nvrtc: Path | None = None
    includes: tuple[Path, ...] = ()
    nvcc: str = ""

    def compile(self, code: DeviceCode) -> DeviceImages:
        """Compiles for `code.architecture`; a source that does not compile is an InternalError."""
        if self.nvrtc is None:
            virtual = code.architecture.replace("sm_", "compute_")
            return DeviceImages(
                _nvcc(self.nvcc, code.source, ("-cubin", f"-arch={code.architecture}")),
                _nvcc(self.nvcc, code.source, ("-ptx", f"-arch={virtual}")),
            )
        include = [f"--include-path={path}" for path in self.includes]
        options = [_LANGUAGE, f"--gpu-architecture={code.architecture}", *include]
        return _Nvrtc(self.nvrtc).compile(code.source, options)


def find_device_compiler() -> DeviceCompiler:
    """NVRTC from the wheel, else nvcc from the path. Raises E0504 where there is neither."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(root) for root in (spec.submodule_search_locations or () if spec else ())]
    # nvidia/cu13/lib since CUDA 13, nvidia/cuda_nvrtc/lib before.
    found = sorted(path for root in roots for path in root.glob("*/lib/libnvrtc.so.[0-9]*"))
    if found:
        folders = sorted(folder for root in roots for folder in root.glob("*/include"))
        return DeviceCompiler(found[-1], tuple(folders))
    if nvcc := shutil.which("nvcc"):
        return DeviceCompiler(nvcc=nvcc)
    raise error(
        "E0504",
        "no compiler for CUDA C is installed: neither NVRTC nor nvcc",
        help="pip install 'optc[cuda]'",
    )


class _Nvrtc:
    """The functions of NVRTC that a compilation needs."""

    def __init__(self, path: Path) -> None:
        try:
            # NVRTC looks for its builtins by name; loaded before, from beside it, they are found.
            for builtins in sorted(path.parent.glob("libnvrtc-builtins.so.*")):
                ctypes.CDLL(str(builtins))
            self._library = ctypes.CDLL(str(path))
        except OSError as problem:
            raise error(
                "E0504",
                f"{path} cannot be loaded: {problem}",
                help="pip install --force-reinstall 'optc[cuda]'",
            ) from problem
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def compile(self, source: str, options: Sequence[str]) -> DeviceImages:
        """Both images of one compilation: the PTX is what the machine code was made from."""
        program = ctypes.c_void_p()
        handle = ctypes.byref(program)
        text, name = source.encode(), _NAME.encode()
        self._check("nvrtcCreateProgram", handle, text, name, ctypes.c_int(0), None, None)
        try:
            count = len(options)
            flags = (ctypes.c_char_p * count)(*(option.encode() for option in options))
            status = self._library.nvrtcCompileProgram(program, ctypes.c_int(count), flags)
            if status:
                log = self._read("nvrtcGetProgramLog", program).rstrip(b"\0")
                raise _refused("NVRTC", log.decode(errors="replace"), source)
            ptx = self._read("nvrtcGetPTX", program).rstrip(b"\0")
            return DeviceImages(self._read("nvrtcGetCUBIN", program), ptx)
        finally:
            self._library.nvrtcDestroyProgram(handle)

    def _read(self, function: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._check(f"{function}Size", program, ctypes.byref(size))
        data = ctypes.create_string_buffer(size.value)
        self._check(function, program, data)
        return data.raw

    def _check(self, function: str, *arguments: object) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            sentence = self._library.nvrtcGetErrorString(status).decode()
            raise InternalError(f"{function} answered {sentence}")


def _nvcc(nvcc: str, source: str, options: Sequence[str]) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / _NAME).write_text(source)
        command = (nvcc, _LANGUAGE, *options, "-o", "image", _NAME)
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode:
            raise _refused(nvcc, done.stderr or done.stdout, source)
        return (folder / "image").read_bytes()


def _refused(compiler: str, log: str, source: str) -> InternalError:
    lines = source.splitlines()
    numbered = "\n".join(f"{number:5} {line}" for number, line in enumerate(lines[:400], 1))
    return InternalError(f"{compiler} refused the generated kernels:\n{log.strip()}\n\n{numbered}")
