"""From a program to files in a folder: weights, header, driver, and what `emit` asks for."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path

from optc.backends.aot.driver import write_driver
from optc.backends.aot.header import RUNTIME, exported_symbols, write_header
from optc.backends.aot.launches import SOURCE, image_files
from optc.backends.aot.link import Toolchain
from optc.backends.aot.nvrtc import find_device_compiler
from optc.backends.aot.weights import write_weights
from optc.backends.program import Program


class Emit(Enum):
    """What an artifact holds beside model.h, weights.bin and manifest.json."""

    SHARED = "so"  # model.so: what optc.load and dlopen take
    ARCHIVE = "a"  # model.a: link with -lpthread -lm, for a GPU -ldl too
    OBJECTS = "obj"  # objects/: the driver's, the runtime's and the kernels' .o files
    SOURCE = "c"  # source/: model.c, the runtime's C and the kernels' .o files, with a Makefile


# Calls in a driver up to which a C compiler optimises it. Each gains a nanosecond by that; of a
# thousand, compiling would take longer than all else that is done for them.
_OPTIMIZED = 1000
_GPU_PART = "cuda.o"  # of the runtime: only programs for a GPU hold it

_MAKEFILE = """# Builds model.a for the target of the kernels: make CC=... AR=...
CFLAGS ?= -std=c11 -O2 -fPIC -D_FILE_OFFSET_BITS=64
SOURCES := $(wildcard *.c)

model.a: $(SOURCES:.c=.o) $(wildcard kernels/*.o)
\t$(AR) rcs $@ $^

clean:
\trm -f *.o model.a
"""


def build(
    program: Program, folder: Path, emit: Sequence[Emit], toolchain: Toolchain, cache: Path | None
) -> int:
    """Write the files of an artifact but its manifest; returns the digest of the weights."""
    images = find_device_compiler().compile(program.device) if program.device else None
    digest = write_weights(program, folder / "weights.bin")
    sources = {
        "model.c": write_driver(program, digest, images).encode(),
        "model.h": write_header(program).encode(),
        **_runtime(program),
        **(image_files(images) if images else {}),
    }
    kernels = _kernels(program)
    (folder / "model.h").write_bytes(sources["model.h"])
    if Emit.SOURCE in emit:
        _write(folder / "source", sources | {"Makefile": _MAKEFILE.encode()})
        if program.device:
            (folder / "source" / SOURCE).write_text(program.device.source)
        _write(folder / "source" / "kernels", kernels)
    if set(emit) - {Emit.SOURCE}:
        # Short relative names: nothing of where it was built gets into the bytes.
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            _write(work, sources | kernels)
            calls = sum(len(segment.calls) for segment in program.segments)
            toolchain.compile(("model.c",), work, optimize=calls <= _OPTIMIZED)
            compiled = toolchain.runtime(cache).items()
            runtime = {name: data for name, data in compiled if program.device or name != _GPU_PART}
            _write(work, runtime)
            objects = ["model.o", *runtime, *kernels]
            _link(program, work, objects, folder, emit, toolchain)
    return digest


def _link(
    program: Program,
    work: Path,
    objects: Sequence[str],
    folder: Path,
    emit: Sequence[Emit],
    toolchain: Toolchain,
) -> None:
    for kind in emit:
        match kind:
            case Emit.SHARED:
                libraries = ("-ldl",) if program.device else ()
                exports = exported_symbols(program)
                toolchain.share(objects, exports, "model.so", work, libraries)
                (folder / "model.so").write_bytes((work / "model.so").read_bytes())
                (folder / "model.so").chmod(0o755)
            case Emit.ARCHIVE:
                toolchain.archive(objects, "model.a", work)
                (folder / "model.a").write_bytes((work / "model.a").read_bytes())
            case Emit.OBJECTS:
                _write(folder / "objects", {name: (work / name).read_bytes() for name in objects})
            case Emit.SOURCE:
                pass


def _kernels(program: Program) -> dict[str, bytes]:
    """The kernels' objects by file name; equal ones once, since each defines its symbols."""
    unique = dict.fromkeys(program.objects)
    return {f"kernel_{index:04d}.o": data for index, data in enumerate(unique)}


def _runtime(program: Program) -> dict[str, bytes]:
    """The runtime's source; a program for the CPU knows nothing of GPUs."""
    gpu = Path(_GPU_PART).stem
    files = sorted(RUNTIME.iterdir())
    if program.device is None:
        files = [path for path in files if not path.name.startswith(gpu)]
    return {path.name: path.read_bytes() for path in files}


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
