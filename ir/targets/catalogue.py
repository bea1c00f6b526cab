"""The named targets. A row is all it takes to add one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from optc.ir.dtype import DType
from optc.ir.targets.target import Arch, MemorySpace, Target

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

V2 = ("sse4_2", "popcnt", "ssse3")
V3 = (*V2, "avx2", "fma", "f16c", "bmi2")
V4 = (*V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
VNNI = (*V4, "avx512_vnni")
BF16 = (*VNNI, "avx512_bf16")
ASIMD = ("fp", "asimd")
DOT = (*ASIMD, "atomics", "asimdhp", "asimddp")


def _caches(l1: int, l2: int, l3: int = 0) -> tuple[MemorySpace, ...]:
    spaces = (MemorySpace("l1", l1 * KIB), MemorySpace("l2", l2 * KIB), MemorySpace("l3", l3 * KIB))
    return tuple(space for space in spaces if space.size)


def _x86(
    name: str,
    cpu: str,
    features: tuple[str, ...],
    bits: int,
    cores: int,
    caches: tuple[MemorySpace, ...],
    text: str,
) -> Target:
    registers = 32 if bits == 512 else 16
    fma = "fma" in features
    triple = "x86_64-linux-gnu"
    return Target(
        name,
        Arch.X86_64,
        triple,
        cpu,
        features,
        bits,
        registers,
        cores,
        caches,
        fma,
        description=text,
    )


def _arm(
    name: str,
    cpu: str,
    features: tuple[str, ...],
    cores: int,
    caches: tuple[MemorySpace, ...],
    text: str,
) -> Target:
    triple = "aarch64-linux-gnu"
    return Target(
        name,
        Arch.AARCH64,
        triple,
        cpu,
        features,
        128,
        32,
        cores,
        caches,
        description=text,
        activations=DType.I8,
    )


def _cuda(arch: int, name: str, processors: int, l2: int, memory: int) -> Target:
    spaces = (
        MemorySpace("shared", (64 if arch < 80 else 100) * KIB),
        MemorySpace("l2", l2 * MIB),
        MemorySpace("global", memory * GIB),
    )
    text = f"NVIDIA GPU of compute capability {arch // 10}.{arch % 10} ({name})"
    triple = "x86_64-linux-gnu"
    return Target(
        f"cuda-sm_{arch}",
        Arch.CUDA,
        triple,
        f"sm_{arch}",
        (),
        128,
        255,
        processors,
        spaces,
        description=text,
        activations=DType.I8,
    )


_ROWS: tuple[Target, ...] = (
    _x86("x86-64-v2", "x86-64-v2", V2, 128, 4, _caches(32, 256), "any x86 since 2009: SSE4.2"),
    _x86("x86-64-v3", "x86-64-v3", V3, 256, 4, _caches(32, 512), "any x86 since 2013: AVX2, FMA"),
    _x86("x86-64-v4", "x86-64-v4", V4, 512, 4, _caches(32, 1024), "AVX-512 (F BW CD DQ VL)"),
    _x86("skylake-avx512", "skylake-avx512", V4, 512, 8, _caches(32, 1024), "Intel Skylake-SP"),
    _x86("cascadelake", "cascadelake", VNNI, 512, 8, _caches(32, 1024), "Intel Cascade Lake"),
    _x86("icelake-server", "icelake-server", VNNI, 512, 8, _caches(48, 1280), "Intel Ice Lake-SP"),
    _x86("sapphirerapids", "sapphirerapids", BF16, 512, 8, _caches(48, 2048),
         "Intel Sapphire Rapids"),
    _x86("alderlake", "alderlake", (*V3, "avx_vnni"), 256, 8, _caches(48, 1280, 30720),
         "Intel Alder Lake: AVX2 with VNNI"),
    _x86("znver2", "znver2", V3, 256, 8, _caches(32, 512, 16384), "AMD Zen 2"),
    _x86("znver3", "znver3", V3, 256, 8, _caches(32, 512, 32768), "AMD Zen 3"),
    _x86("znver4", "znver4", BF16, 512, 8, _caches(32, 1024, 32768), "AMD Zen 4"),
    _x86("znver5", "znver5", BF16, 512, 8, _caches(48, 1024, 32768), "AMD Zen 5"),
    _arm("aarch64", "generic", ASIMD, 4, _caches(32, 256), "any 64-bit ARM"),
    _arm("cortex-a53", "cortex-a53", ASIMD, 4, _caches(32, 512), "ARM Cortex-A53 (Raspberry Pi 3)"),
    _arm("cortex-a72", "cortex-a72", ASIMD, 4, _caches(32, 1024),
         "ARM Cortex-A72 (Raspberry Pi 4)"),
    _arm("cortex-a76", "cortex-a76", DOT, 4, _caches(64, 512, 2048),
         "ARM Cortex-A76 (Raspberry Pi 5)"),
    _arm("neoverse-n1", "neoverse-n1", DOT, 4, _caches(64, 1024, 32768),
         "AWS Graviton2, Ampere Altra"),
    _arm("neoverse-v1", "neoverse-v1", (*DOT, "i8mm", "bf16", "sve"), 4,
         _caches(64, 1024), "AWS Graviton3"),
    replace(
        _arm("a64fx", "a64fx", (*ASIMD, "atomics", "asimdhp", "sve", "sve512"), 12,
             _caches(64, 8192), "Fujitsu A64FX: SVE of 512 bits"),
        vector_bits=512,
    ),
    _arm("apple-m1", "apple-m1", DOT, 4, _caches(128, 12288), "Apple M1, under Linux"),
    Target(
        "armv7", Arch.ARMV7, "arm-linux-gnueabihf", "cortex-a7", ("neon", "vfpv4"), 128, 16, 4,
        _caches(32, 512), description="32-bit ARM with NEON and VFPv4 (Cortex-A7 and later)",
        activations=DType.I8,
    ),
    _cuda(75, "T4, RTX 20", 40, 4, 16),
    _cuda(80, "A100", 108, 40, 40),
    _cuda(86, "RTX 30, A10", 72, 6, 24),
    _cuda(89, "L4, RTX 40", 58, 48, 24),
    _cuda(90, "H100, H200", 132, 50, 80),
)  # fmt: skip

TARGETS: Mapping[str, Target] = MappingProxyType({row.name: row for row in _ROWS})
