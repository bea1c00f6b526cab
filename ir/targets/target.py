"""A target: a machine as data. Nothing here asks the machine it runs on; `detect` does."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from optc.ir.dtype import DType


class Arch(Enum):
    """Instruction set family."""

    X86_64 = "x86_64"
    AARCH64 = "aarch64"
    ARMV7 = "armv7"
    CUDA = "cuda"


@dataclass(frozen=True, slots=True)
class MemorySpace:
    """A level of memory: bytes; bytes per second and seconds of latency when known (0: unknown)."""

    name: str
    size: int
    bandwidth: float = 0.0
    latency: float = 0.0


BYTE_PRODUCTS = ("avx512_vnni", "avx_vnni", "asimddp", "i8mm")


@dataclass(frozen=True, slots=True)
class Target:
    """A machine to compile for.

    `triple` and `cpu` are LLVM's names (for CUDA, `cpu` is `sm_90` and the triple is the host's).
    `features` must be present where the artifact is loaded; their names are those of Linux's
    /proc/cpuinfo on x86 and of its hwcaps on ARM. `memory` goes from the nearest to the farthest.
    `vector_bits` is the width that kernels are written for. `cores` of a GPU are multiprocessors.
    `activations` is what 8-bit products take beside i8 weights: x86 multiplies u8 by i8 (vpdpbusd,
    vpmaddubsw), the others i8 by i8 (sdot, dp4a). Without `winograd` every convolution is computed
    by its definition.
    """

    name: str
    arch: Arch
    triple: str
    cpu: str
    features: tuple[str, ...]
    vector_bits: int
    vector_registers: int
    cores: int = 1
    memory: tuple[MemorySpace, ...] = ()
    fma: bool = True
    dtypes: frozenset[DType] = frozenset(DType)
    description: str = ""
    activations: DType = DType.U8
    winograd: bool = True

    @property
    def multiplies_bytes(self) -> bool:
        """Whether one instruction multiplies four bytes a lane and adds them up."""
        return self.arch is Arch.CUDA or any(name in self.features for name in BYTE_PRODUCTS)

    def lanes(self, dtype: DType) -> int:
        """Elements of `dtype` in one vector register."""
        return max(1, self.vector_bits // dtype.bits)

    def cache(self, name: str, default: int) -> int:
        """Bytes of the memory space called `name`, or `default` when the target does not say."""
        return next((space.size for space in self.memory if space.name == name), default)
