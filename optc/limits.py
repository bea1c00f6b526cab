"""What this machine can do at most: multiply-adds per second, and bytes per second by cache level.

Measured by a small C program that keeps every FMA unit busy, or streams through a buffer of each
cache level's size; the best of several short runs counts. The result is kept per machine, so that
only the first `optc bench` pays for it (about a second).
"""

from __future__ import annotations

import ctypes
import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from optc.backends.aot.link import find_toolchain
from optc.ir.diagnostics import OptcError
from optc.ir.output import replace_file
from optc.ir.targets.target import Arch, Target

VERSION = 1  # of the measurement: raised when it changes, so that kept results are not reused
REPEATS = 7
SOURCE = Path(__file__).with_name("limits.c")


@dataclass(frozen=True, slots=True)
class Level:
    """A level of memory: how many bytes fit, and how many bytes per second it gives all threads."""

    name: str
    size: int
    bandwidth: float


@dataclass(frozen=True, slots=True)
class Limits:
    """f32 operations per second and memory levels, for `threads` threads together."""

    threads: int
    flops: float
    levels: tuple[Level, ...]

    def bandwidth(self, nbytes: int) -> float:
        """Bytes per second of the nearest level that holds `nbytes`."""
        return next(
            (lv.bandwidth for lv in self.levels if lv.size >= nbytes), self.levels[-1].bandwidth
        )

    def seconds(self, flops: int, nbytes: int) -> float:
        """The least time for these operations and bytes: the roofline (Williams et al. 2009)."""
        return max(flops / self.flops, nbytes / self.bandwidth(nbytes) if nbytes else 0.0)

    def better(self, other: Limits) -> Limits:
        """The higher of two measurements of the same machine, number by number."""
        pairs = zip(self.levels, other.levels, strict=True)
        levels = tuple(replace(a, bandwidth=max(a.bandwidth, b.bandwidth)) for a, b in pairs)
        return Limits(self.threads, max(self.flops, other.flops), levels)

    @staticmethod
    def unknown(threads: int) -> Limits:
        """Of a machine that was not measured: every kernel could take no time at all."""
        return Limits(threads, math.inf, (Level("memory", 1 << 62, math.inf),))

    @property
    def known(self) -> bool:
        """Whether they say anything."""
        return math.isfinite(self.flops)

    def bound(self, flops: int, nbytes: int) -> str:
        """`compute` or `memory`: what the least time comes from; empty when that is unknown."""
        if not self.known:
            return ""
        return "compute" if flops / self.flops >= nbytes / self.bandwidth(nbytes) else "memory"


def limits_of(target: Target, threads: int, cache: Path, *, again: bool = False) -> Limits:
    """This machine's limits, measured now unless `cache` has them; raises E0501 (no C compiler).

    `target` is the host; `cache` is a folder that is made when it is missing and may be unwritable.
    `again` measures once more and keeps the better: what was measured on a busy machine is too low.
    """
    kept = cache / "limits.json"
    key = f"{VERSION} {target.description} {target.vector_bits} {threads}"
    table = _kept(kept)
    known = _limits(table[key]) if key in table else None
    if known is not None and not again:
        return known
    found = measure(target, threads, cache)
    best = found if known is None else known.better(found)
    _keep(kept, {**table, key: asdict(best)})
    return best


def _limits(row: Mapping[str, Any]) -> Limits:
    return Limits(row["threads"], row["flops"], tuple(Level(**level) for level in row["levels"]))


def measure(target: Target, threads: int, cache: Path | None = None) -> Limits:
    """Measure the machine this runs on; takes about a second."""
    with tempfile.TemporaryDirectory() as name:
        library = _build(target, Path(name), cache)
        flops = max(library.optc_limits_fma(threads) for _ in range(REPEATS))
        levels = []
        for space in target.memory:
            size = _buffer(space.name, space.size, target)
            best = max(library.optc_limits_read(threads, size) for _ in range(REPEATS))
            held = space.size * (threads if space.name in ("l1", "l2") else 1)
            levels.append(Level(space.name, held, best))
    return Limits(threads, flops, tuple(levels))


def _buffer(name: str, size: int, target: Target) -> int:
    """Bytes each thread reads: half a cache, so that it stays there; four last caches for DRAM."""
    if name != "dram":
        shared = target.cores if name == "l3" else 1
        return max(4096, size // 2 // shared)
    return 4 * max((space.size for space in target.memory if space.name != "dram"), default=1 << 25)


def _build(target: Target, folder: Path, cache: Path | None) -> ctypes.CDLL:
    features = {512: "avx512f,fma", 256: "avx2,fma", 128: "sse4.2"}[target.vector_bits]
    if target.vector_bits == 512 and target.arch is not Arch.X86_64:
        features = ""
    attribute = f'__attribute__((target("{features}")))' if target.arch is Arch.X86_64 else ""
    text = SOURCE.read_text()
    defines = f"#define VECTOR_BYTES {target.vector_bits // 8}\n#define TARGET {attribute}\n"
    (folder / "limits.c").write_text(defines + text)
    toolchain = find_toolchain(target.triple, cache)
    objects = toolchain.compile(("limits.c",), folder)
    toolchain.share(objects, ("optc_limits_fma", "optc_limits_read"), "limits.so", folder)
    library = ctypes.CDLL(str(folder / "limits.so"))
    library.optc_limits_fma.restype = library.optc_limits_read.restype = ctypes.c_double
    library.optc_limits_read.argtypes = (ctypes.c_int, ctypes.c_size_t)
    return library


def _kept(path: Path) -> Mapping[str, Any]:
    try:
        table = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def _keep(path: Path, table: Mapping[str, object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as aside:
            aside.write_text(json.dumps(table, indent=1))
    except (
        OSError,
        OptcError,
    ):  # a cache that cannot be written costs a second next time, nothing else
        return
