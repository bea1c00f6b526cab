"""Targets in LLVM's words, and the questions about a target that several templates ask."""

from __future__ import annotations

from functools import cache

import tvm

from optc.ir.targets.target import Arch, Target

# Features in Linux's names that a CPU name alone may not switch on, and LLVM's attribute for each.
_ATTRIBUTES = {
    "avx512_vnni": "+avx512vnni",
    "avx_vnni": "+avxvnni",
    "avx512_bf16": "+avx512bf16",
    "asimddp": "+dotprod",
    "asimdhp": "+fullfp16",
    "i8mm": "+i8mm",
    "bf16": "+bf16",
    "sve": "+sve",
    "neon": "+neon",
    "vfpv4": "+vfp4",
    "f16c": "+f16c",
    "fma": "+fma",
}


@cache
def llvm_target(target: Target) -> tvm.target.Target:
    """The CPU as TVM's LLVM backend wants it; for a CUDA target, its host."""
    cpu = "x86-64-v3" if target.arch is Arch.CUDA else target.cpu
    arch, system = target.triple.split("-", 1)
    config: dict[str, object] = {
        "kind": "llvm",
        # LLVM reads `arm-linux-gnueabihf` as the vendor "linux" without a system, and then calls
        # helper functions by names that ARM's ABI does not have.
        "mtriple": f"{arch}-unknown-{system}",
        "mcpu": cpu,
        "num-cores": target.cores,
    }
    attributes = [_ATTRIBUTES[name] for name in target.features if name in _ATTRIBUTES]
    if target.arch is Arch.X86_64 and target.vector_bits == 512:
        # Neutral AVX-512 CPU models prefer half the width, which halves their peak.
        attributes.append("-prefer-256-bit")
    if attributes:
        config["mattr"] = attributes
    if target.arch is Arch.AARCH64 and target.vector_bits > 128:
        config["cl-opt"] = [f"-aarch64-sve-vector-bits-min:uint={target.vector_bits}"]
    if target.arch is Arch.ARMV7:
        config["mfloat-abi"] = "hard"
    return tvm.target.Target(config)
