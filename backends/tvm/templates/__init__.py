"""Expert schedules: each matches a Task or says why it does not. The first that matches wins."""

from __future__ import annotations

from optc.backends.tvm.templates.attention import Attention
from optc.backends.tvm.templates.batch_matmul import BatchMatMul
from optc.backends.tvm.templates.byte_sums import ByteSums
from optc.backends.tvm.templates.conv import Convolution
from optc.backends.tvm.templates.depthwise import Depthwise
from optc.backends.tvm.templates.gemm import Gemm
from optc.backends.tvm.templates.generic import Generic
from optc.backends.tvm.templates.paired_conv import PairedConvolution
from optc.backends.tvm.templates.plan import Miss, Plan, Problem, Template
from optc.backends.tvm.templates.pool import Pooling
from optc.backends.tvm.templates.rows import Rows
from optc.backends.tvm.templates.scalable import at_its_width
from optc.backends.tvm.templates.tap_words import TapWords
from optc.backends.tvm.templates.weight_only import WeightOnly
from optc.backends.tvm.templates.winograd import Winograd
from optc.ir.dtype import DType

GENERIC = Generic.name
# Ordered from the most particular to the one that takes everything.
TEMPLATES: tuple[Template, ...] = (
    WeightOnly(),
    Gemm(),
    TapWords(),
    Depthwise(),
    Winograd(),
    PairedConvolution(),
    Convolution(),
    Pooling(),
    Attention(),
    BatchMatMul(),
    Rows(),
    ByteSums(),
    Generic(),
)


def match(problem: Problem) -> tuple[Plan, tuple[tuple[str, Miss], ...]]:
    """The plan of the first template that takes the task, and why those before it did not."""
    misses: list[tuple[str, Miss]] = []
    problem = at_its_width(problem)
    halves = any(value.type.dtype is DType.I4 for value in problem.body.inputs)
    for template in TEMPLATES:
        # Two integers in a byte have no addresses of their own: only packed they can be read.
        apart = halves and template.name not in (WeightOnly.name, GENERIC)
        answer = Miss("it reads no half bytes") if apart else template.match(problem)
        if not isinstance(answer, Miss):
            return answer, tuple(misses)
        misses.append((template.name, answer))
    raise AssertionError("the last template takes everything")
