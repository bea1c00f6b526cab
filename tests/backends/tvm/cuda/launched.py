"""GPU kernels on this machine: bodies to CUDA C, run by the emulator, on torch tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from optc.backends.device import PREAMBLE
from optc.backends.kernel import Job
from optc.backends.reference.dtypes import TORCH_DTYPE
from optc.backends.tvm.cuda.kernel import CudaKernel, build
from optc.ir.graph import Graph
from optc.ir.targets.find import find_target
from optc.ir.targets.target import Target
from tests.backends.cuda_emulator import Order, emulate


class Launched:
    """The launches of some task bodies."""

    def __init__(self, bodies: Sequence[Graph], target: Target | None = None) -> None:
        target = target or find_target("cuda")
        self.bodies = bodies
        self.kernels: list[CudaKernel] = [build(Job(body, frozenset()), target) for body in bodies]
        # Equal bodies have equal symbols.
        sources = dict.fromkeys(kernel.source for kernel in self.kernels)
        self.emulated = emulate("\n".join([PREAMBLE, *sources]), target.cpu)

    def __call__(
        self,
        number: int,
        inputs: Sequence[Tensor],
        order: Order = Order.FORWARD,
        shift: int = 0,
    ) -> list[Tensor]:
        """Outputs of the `number`-th body; inputs are held to stay as they are.

        Everything lies `shift` bytes behind a multiple of 16.
        """
        kernel, body = self.kernels[number], self.bodies[number]
        held = [_bytes(tensor.clone()) for tensor in inputs]
        for array in held:
            array.flags.writeable = False
        outputs = [
            torch.zeros(value.type.shape, dtype=TORCH_DTYPE[value.type.dtype])
            for value in body.outputs
        ]
        scratch = [np.full(nbytes, 0xFF, np.uint8) for nbytes in kernel.workspaces]
        operands = [*held, *map(_bytes, outputs), *scratch]
        for launch in kernel.launches:
            arrays = [operands[place] for place in launch.operands]
            self.emulated.launch(launch.symbol, launch.grid, launch.block, arrays, 0, order, shift)
        return outputs


def _bytes(tensor: Tensor) -> np.ndarray:
    """The memory of a dense tensor."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
