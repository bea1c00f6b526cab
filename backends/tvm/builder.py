"""Which kernel builder serves a target."""

from __future__ import annotations

from optc.backends.tvm.cuda.kernel import CudaKernelBuilder
from optc.backends.tvm.kernel import KernelBuilder
from optc.ir.targets.target import Arch, Target


def kernel_builder(target: Target) -> KernelBuilder | CudaKernelBuilder:
    """A new builder for the target."""
    return CudaKernelBuilder(target) if target.arch is Arch.CUDA else KernelBuilder(target)
