"""Measures this machine: what it computes by dtype, what it moves by level, what a fork-join costs.

A small C program keeps every unit busy with the instructions a target allows, or goes round a
buffer of each cache level's size; the fastest of several short repeats counts, since others are
disturbed ones. It is compiled by the toolchain that links artifacts, with their own thread pool.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path

from optc.backends.aot.link import find_toolchain
from optc.ir.dtype import DType
from optc.ir.targets.target import Arch, Target
from optc.roofline import CROWDED, Level, Limits

SOURCE = Path(__file__).with_name("limits.c")
EXPORTS = tuple(f"optc_limits_{name}" for name in ("count", "compute", "move", "fork_join"))
DTYPES = (DType.F32, DType.F16, DType.BF16, DType.I8)  # in the order of limits.c
# Short repeats, many of them: of a busy machine's time some stretches are undisturbed.
ROUNDS, COMPUTED = 100_001, 100  # of a computing kernel: 0.2 ms; odd, as f16 wants it
REPEATS = 7
PASSES = 3  # over everything: what disturbs one lasts longer than a repeat
MOVED = 1 << 25  # bytes of a repeat for caches; memory takes one round of four last caches
FORKED_SECONDS, FORKS = 10e-6, 2000  # of work in each thread, so that all take part

# Linux's names of CPU features: the compiler's name, and what limits.c may then do.
_X86 = {
    "fma": ("fma", ""),
    "avx2": ("avx2", ""),
    "avx512f": ("avx512f", ""),
    "avx512bw": ("avx512bw", ""),
    "avx512vl": ("avx512vl", ""),
    "avx512_vnni": ("avx512vnni", "DOT8"),
    "avx512_bf16": ("avx512bf16", "BF16"),
    "avx512_fp16": ("avx512fp16", "F16"),
}
_ARM = {
    "asimdhp": ("fp16", "F16"),
    "asimddp": ("dotprod", "DOT8"),
    "i8mm": ("i8mm", "MATRIX8"),
    "bf16": ("bf16", "BF16"),
}


def measure(target: Target, threads: int, cache: Path | None = None) -> Limits:
    """Measure the machine this runs on with the target's instructions; about four seconds.

    `target.memory` are this machine's caches. Raises E0501 where there is no C compiler.
    """
    with tempfile.TemporaryDirectory() as name:
        library = build(target, Path(name), cache)
        return reduce(Limits.better, (_pass(library, target, threads) for _ in range(PASSES)))


def _pass(library: ctypes.CDLL, target: Target, threads: int) -> Limits:
    peaks = {
        dtype.value: speed
        for index, dtype in enumerate(DTYPES)
        if (speed := library.optc_limits_compute(index, threads, ROUNDS, COMPUTED))
    }
    levels = tuple(_levels(library, target, threads))
    forked = library.optc_limits_fork_join(threads, FORKED_SECONDS, FORKS) if threads > 1 else 0.0
    return Limits(threads, peaks.pop(DType.F32.value), levels, peaks, forked)


def _levels(library: ctypes.CDLL, target: Target, threads: int) -> Iterator[Level]:
    def speed(how: int, size: int) -> float:
        rounds = max(1, MOVED // size)
        return float(library.optc_limits_move(how, threads, size, rounds, REPEATS))

    for space in target.memory:
        size, own = _buffer(space.name, space.size, target), space.name in ("l1", "l2")
        read, written, copied = (speed(how, size) for how in range(3))
        each = space.size // (1 if own else threads)
        more = () if space.name == "dram" else CROWDED
        crowded = tuple(speed(0, max(4096, int(part * each))) for part in more)
        held = space.size * (threads if own else 1)
        yield Level(space.name, held, read, written, copied, crowded)


def _buffer(name: str, size: int, target: Target) -> int:
    """Bytes each thread moves: half a cache, so that it stays there; four last caches for DRAM."""
    if name != "dram":
        shared = target.cores if name == "l3" else 1
        return max(4096, size // 2 // shared)
    return 4 * max((space.size for space in target.memory if space.name != "dram"), default=1 << 25)


def source(target: Target) -> str:
    """The C program for a target, complete."""
    known: Mapping[str, tuple[str, str]] = _X86 if target.arch is Arch.X86_64 else _ARM
    has = [known[feature] for feature in target.features if feature in known]
    if target.arch is Arch.ARMV7:
        has = []
    width = target.vector_bits // 8
    if width < 64 and target.arch is Arch.X86_64:  # those kernels are written for 512 bits
        has = [(name, "") for name, _ in has]
    names = _attribute(target.arch, [name for name, _ in has])
    defines = [f"VECTOR_BYTES {width}", f"TARGET {names}", *(does for _, does in has if does)]
    return "".join(f"#define {line}\n" for line in defines) + SOURCE.read_text()


def _attribute(arch: Arch, features: Sequence[str]) -> str:
    if arch is Arch.X86_64:
        return f'__attribute__((target("{",".join(("sse4.2", *features))}")))'
    return (
        f'__attribute__((target("{"+".join(("arch=armv8.2-a", *features))}")))' if features else ""
    )


def build(target: Target, folder: Path, cache: Path | None) -> ctypes.CDLL:
    """Compile the program in `folder` and load it; raises E0501 where there is no C compiler."""
    toolchain = find_toolchain(target.triple, cache)
    (folder / "limits.c").write_text(source(target))
    pool = toolchain.runtime(cache)["pool.o"]
    (folder / "pool.o").write_bytes(pool)
    objects = (*toolchain.compile(("limits.c",), folder), "pool.o")
    toolchain.share(objects, EXPORTS, "limits.so", folder)
    library = ctypes.CDLL(str(folder / "limits.so"))
    arguments: Mapping[str, tuple[type, ...]] = {
        "optc_limits_count": (ctypes.c_int, ctypes.c_int64),
        "optc_limits_compute": (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int),
        "optc_limits_move": (
            ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_int64, ctypes.c_int,
        ),
        "optc_limits_fork_join": (ctypes.c_int, ctypes.c_double, ctypes.c_int),
    }  # fmt: skip
    for name, types in arguments.items():
        function = getattr(library, name)
        function.restype, function.argtypes = ctypes.c_double, types
    return library
