"""Runs CUDA C on the CPU, so that GPU kernels and whole CUDA artifacts are tested without a GPU.

    from tests.backends.cuda_emulator import Order, emulate

    kernels = emulate(source)                          # compiled once, kept by digest
    kernels.launch("add", (4, 1, 1), (256, 1, 1), [a, b, out])      # arrays are changed in place

The source is compiled as C++ with `emulated_cuda/device.h` in front. A launch raises `Misuse` where
a kernel reads or writes outside of an operand, divides an int by zero, uses a misaligned vector, or
waits at a barrier that some threads never reach, or has a race: two threads touch a byte, one of
them writes, and no barrier lies between, whatever the values are (`races.h`; looked for where
threads start forwards). Shared memory begins as NaN in every block. `Order.BACKWARD` starts blocks
and threads from the last to the first. Arrays that are not writeable must be left as they are.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent / "emulated_cuda"
CACHE = Path(tempfile.gettempdir()) / f"optc-emulated-cuda-{os.getuid()}"
ZIG = (sys.executable, "-m", "ziglang", "cc")
FLAGS = (
    "-x",
    "c++",
    "-std=c++20",
    "-nostdinc++",
    "-O2",
    "-g0",
    "-target",
    "x86_64-linux-gnu.2.17",
    "-mcpu=native",
    "-fPIC",
    "-shared",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-fsanitize=alignment,bounds,integer-divide-by-zero",
    "-fsanitize-trap=all",
    "-Xclang",
    "-fsanitize=thread",  # calls at each load and store: races.h has them
    "-mllvm",
    "-tsan-instrument-func-entry-exit=0",
    "-Wno-everything",
)
_KERNEL = re.compile(r"__global__[^;{}()]*?(?:__launch_bounds__\s*\([^)]*\)[^;{}()]*?)?(\w+)\s*\(")
_DYNAMIC = re.compile(
    r"extern\s+__shared__\s+(?:__align__\s*\(\s*\d+\s*\)\s*)?([\w\s:]+?)\s+(\w+)\s*\[\s*\]\s*;"
)
_SILENT = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"', re.DOTALL)


class Misuse(Exception):
    """A kernel did what a GPU would not survive, or would leave undefined."""


class Order(Enum):
    """In which order blocks and threads start."""

    FORWARD = 0
    BACKWARD = 1


@dataclass(frozen=True)
class Kernels:
    """The kernels of one source."""

    path: Path
    library: ctypes.CDLL = field(repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def launch(
        self,
        symbol: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arrays: Sequence[NDArray[Any]],
        shared_bytes: int = 0,
        order: Order = Order.FORWARD,
        shift: int = 0,
    ) -> None:
        """Runs a grid on `arrays`, dense ones; raises Misuse with a sentence.

        Operands lie `shift` bytes behind a multiple of 16.
        """
        count = self.library.emulated_operands(symbol.encode())
        if count != len(arrays):
            raise Misuse(f"{symbol} takes {count} operands, not {len(arrays)}; -1: no such kernel")
        text = ctypes.create_string_buffer(1024)
        with self.lock:
            places = [self._place(array, shift) for array in arrays]
            try:
                status = self.library.emulated_launch(
                    symbol.encode(),
                    (ctypes.c_uint * 3)(*grid),
                    (ctypes.c_uint * 3)(*block),
                    (ctypes.c_void_p * max(1, count))(*places),
                    ctypes.c_size_t(shared_bytes),
                    order.value,
                    text,
                    ctypes.c_size_t(len(text)),
                )
                if status:
                    raise Misuse(text.value.decode())
                for index, (array, place) in enumerate(zip(arrays, places, strict=True)):
                    self._take(symbol, index, array, place)
            finally:
                for place in places:
                    self.library.emulated_free(ctypes.c_void_p(place - shift))

    def _place(self, array: NDArray[Any], shift: int) -> int:
        assert array.flags.c_contiguous, "a dense array is needed"
        size = ctypes.c_size_t(array.nbytes + shift)
        place = self.library.emulated_alloc(size, ctypes.c_size_t(16)) + shift
        ctypes.memmove(place, array.ctypes.data, array.nbytes)
        return int(place)

    def _take(self, symbol: str, index: int, array: NDArray[Any], place: int) -> None:
        if array.flags.writeable:
            ctypes.memmove(array.ctypes.data, place, array.nbytes)
            return
        after = np.frombuffer((ctypes.c_char * array.nbytes).from_address(place), np.uint8)
        if not np.array_equal(after, array.reshape(-1).view(np.uint8)):
            raise Misuse(f"{symbol} writes to operand {index}, which is read only")


def emulate(source: str, architecture: str = "sm_80") -> Kernels:
    """The kernels of a CUDA C source; raises Misuse with the compiler's text."""
    path = library(source, architecture)
    loaded = ctypes.CDLL(str(path))
    loaded.emulated_alloc.restype = ctypes.c_void_p
    return Kernels(path, loaded)


def library(source: str, architecture: str = "sm_80") -> Path:
    """Compiles a source, or finds what was compiled before; the emulated driver loads it too."""
    text = _prepared(source)
    key = hashlib.sha256(repr((FLAGS, architecture, text)).encode())
    for header in sorted(HERE.rglob("*.h")):
        key.update(header.read_bytes())
    path = CACHE / f"{key.hexdigest()[:32]}.so"
    if path.exists():
        return path
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        (folder / "kernels.cu").write_text(text)
        macro = f"-D__CUDA_ARCH__={architecture.removeprefix('sm_')}0"
        includes = (f"-I{HERE}", f"-I{HERE / 'include'}", macro)
        command = (*ZIG, *FLAGS, *includes, "kernels.cu", "-lm", "-o", "kernels.so")
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Misuse(f"the source does not compile:\n{done.stderr[-8000:]}")
        (folder / "kernels.so").rename(path)
    return path


def _prepared(source: str) -> str:
    """The source with its shared memory by kernel, and a table of its kernels behind it."""
    visible = _SILENT.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), source)
    heads = [(match.start(), match[1]) for match in _KERNEL.finditer(visible)]
    defined = [(at, name) for at, name in heads if _has_body(visible, at)]
    pieces, end = ['#include "device.h"\n#define EMULATED_SHARED static\n#line 1 "source.cu"\n'], 0
    for number, (at, _) in enumerate(defined):
        line = source.count("\n", 0, at) + 1
        pieces += [
            source[end:at],
            f"\n#undef EMULATED_SHARED\n#define EMULATED_SHARED {_section(number)}\n",
            f'#line {line} "source.cu"\n',
        ]
        end = at
    pieces.append(source[end:])
    text = _DYNAMIC.sub(r"static \1 *&\2 = (\1 *&)emulated_dynamic;", "".join(pieces))
    table = ['\n#include "blocks.h"']
    table += [
        f'extern "C" __attribute__((weak, visibility("hidden"))) unsigned char '
        f"__start_shared_{number}[], __stop_shared_{number}[];"
        for number in range(len(defined))
    ]
    table.append("const emulated::Kernel emulated_kernels[] = {")
    for number, (_, name) in enumerate(defined):
        table.append(
            f'    {{"{name}", emulated::call<{name}>, emulated::count({name}), '
            f"__start_shared_{number}, __stop_shared_{number}}},"
        )
    return text + "\n".join([*table, "    {},\n};\n"])


def _section(number: int) -> str:
    return f'static __attribute__((section("shared_{number}")))'


def _has_body(text: str, at: int) -> bool:
    brace, semicolon = text.find("{", at), text.find(";", at)
    return brace >= 0 and (semicolon < 0 or brace < semicolon)
