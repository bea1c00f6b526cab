"""What the table of ARM kernels promises of innermost loops: nothing is spilled."""

from __future__ import annotations

import shutil

import pytest

from benchmarks.arm_kernels import disassembled, hottest
from benchmarks.kernel_cases import task
from optc.backends.kernel import Job
from optc.backends.tvm.kernel import build
from optc.ir.dtype import DType
from optc.ir.ops import Conv, Task
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType

pytestmark = pytest.mark.skipif(
    not (shutil.which("llvm-objdump") or shutil.which("aarch64-linux-gnu-objdump")),
    reason="no disassembler of ARM's instructions is installed",
)


@pytest.mark.parametrize("target", ["aarch64", "cortex-a53", "neoverse-v1"])
@pytest.mark.parametrize(
    ("size", "channels", "dtype", "template"),
    [
        (56, 64, DType.F32, "winograd"),  # ten rows of two vectors spilled here,
        (28, 128, DType.F32, "winograd"),  # and seven of three
        (28, 128, DType.I8, "conv"),
    ],
)
def test_sums_of_convolutions_stay_in_registers(
    target: str, size: int, channels: int, dtype: DType, template: str
) -> None:
    op = Conv((1, 1), ((1, 1), (1, 1)), (1, 1), 1, True)
    image = TensorType((1, size, size, channels), dtype)
    node = task(op, image, TensorType((channels, channels, 3, 3), dtype))
    assert isinstance(node.op, Task)
    kernel = build(Job(node.op.body, frozenset((1,))), find_target(target))
    assert template in kernel.template
    loop = hottest(disassembled(kernel.object))
    assert loop.products >= 20
    assert loop.spills == 0
    # Spills may go by another register than the stack's: no more loads than what is multiplied.
    assert loop.loads <= loop.products / 2
