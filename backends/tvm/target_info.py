"""What the schedules need to know of a CPU: vector shape, register file, caches, how to call LLVM."""

from __future__ import annotations

from dataclasses import dataclass

import tvm

KIB = 1024


@dataclass(frozen=True, slots=True)
class CpuTarget:
    """One CPU as kernels see it. Sizes are bytes; caches are per core except `l3_bytes`.

    `vector_registers` counts architectural registers of `vector_bytes` each; `fma` tells whether a
    multiply-add is one instruction; `features` are LLVM attributes such as `+dotprod`.
    """

    triple: str
    cpu: str
    vector_bytes: int
    vector_registers: int
    fma: bool = True
    cores: int = 1
    l1_bytes: int = 32 * KIB
    l2_bytes: int = 512 * KIB
    l3_bytes: int = 0
    features: tuple[str, ...] = ()

    def lanes(self, element_bytes: int = 4) -> int:
        """Elements of that size in one vector register."""
        return max(1, self.vector_bytes // element_bytes)

    @property
    def is_x86(self) -> bool:
        """True for x86-64."""
        return self.triple.startswith("x86_64")

    @property
    def llvm(self) -> tvm.target.Target:
        """The same machine in TVM's words."""
        config: dict[str, object] = {
            "kind": "llvm",
            "mtriple": self.triple,
            "mcpu": self.cpu,
            "num-cores": self.cores,
        }
        if self.features:
            config["mattr"] = list(self.features)
        if self.triple.startswith("arm"):
            config["mfloat-abi"] = "hard"
        return tvm.target.Target(config)


X86_64_V2 = CpuTarget("x86_64-linux-gnu", "x86-64-v2", 16, 16, fma=False)
X86_64_V3 = CpuTarget("x86_64-linux-gnu", "x86-64-v3", 32, 16)
X86_64_V4 = CpuTarget("x86_64-linux-gnu", "x86-64-v4", 64, 32, l2_bytes=1024 * KIB)
AARCH64 = CpuTarget("aarch64-linux-gnu", "generic", 16, 32)
ARMV7 = CpuTarget("arm-linux-gnueabihf", "cortex-a9", 16, 16, features=("+neon",))
