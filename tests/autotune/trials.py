"""Real tasks for measuring, and candidates that misbehave in every way a kernel can."""

from __future__ import annotations

import tempfile
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from optc.autotune.builders import build_kernel
from optc.autotune.measurer_trials import Pace
from optc.autotune.task import TuningTask
from optc.backends.aot.link import find_toolchain
from optc.backends.kernel import Job
from optc.backends.kernel import Kernel as KernelLike
from optc.backends.tvm.kernel import Kernel
from optc.backends.tvm.templates import match
from optc.backends.tvm.templates.plan import Knobs, Problem
from optc.ir.builder import Builder
from optc.ir.cost import Cost
from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.ops import Conv, MatMul
from optc.ir.targets.target import Target
from optc.ir.types import TensorType

QUICK = Pace(seconds=0.005, rounds=6, patience=2.0)


def gemm(m: int = 24, n: int = 64, k: int = 48) -> Graph:
    build = Builder("gemm")
    x = build.input(TensorType((m, k), DType.F32))
    w = build.input(TensorType((k, n), DType.F32))
    return build.build([build.emit(MatMul(), x, w)])


def conv() -> Graph:
    build = Builder("conv")
    x = build.input(TensorType((1, 12, 12, 16), DType.F32))
    w = build.input(TensorType((32, 16, 3, 3), DType.F32))
    op = Conv(
        stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=1, channels_last=True
    )
    return build.build([build.emit(op, x, w)])


def task_of(body: Graph, target: Target) -> TuningTask:
    """The body as a task whose second input is a weight."""
    job = Job(body, frozenset({1}))
    plan, _ = match(Problem(body, job.constants, target))
    return TuningTask(f"key of {body.name}", body.name, job, plan, 1, Cost(1, 1, 1))


@dataclass(frozen=True, slots=True)
class Bad:
    """Knobs of a candidate whose kernel is the C function body `code`; its output is `out`."""

    code: str


SEGFAULT = Bad("*(volatile int *)8 = 1;")
ENDLESS = Bad('for (;;) __asm__ volatile ("");')
WRONG = Bad("for (int i = 0; i < 4; ++i) ((float *)out)[i] = 1e3f;")
STATUS = Bad("return 5;")
UNLINKABLE = Bad("extern int of_no_library(void); return of_no_library();")
SILENT = Bad("")  # returns 0 and writes nothing
UNBUILDABLE = Bad("#error")
# Crashes on its third call: it passes the first look, and breaks while it is timed.
LATE = Bad("static int calls; if (++calls == 3) *(volatile int *)8 = 1;")


class FakeBuilders:
    """Builds in this process; misbehaving candidates by the C compiler."""

    def __init__(self) -> None:
        self.closed = False

    def submit(self, job: Job, target: Target, knobs: Knobs) -> Future[KernelLike]:
        future: Future[KernelLike] = Future()
        if knobs == UNBUILDABLE:
            future.set_exception(RuntimeError("LLVM ERROR: out of registers\nstack: ..."))
        elif isinstance(knobs, Bad):
            future.set_result(c_kernel(knobs, target.triple))
        else:
            future.set_result(build_kernel(job, target, knobs))
        return future

    def close(self) -> None:
        self.closed = True


@cache
def c_kernel(bad: Bad, triple: str) -> Kernel:
    """A kernel of two inputs and one output that does what the code says."""
    symbol = f"bad_{abs(hash(bad.code))}"
    text = f"int {symbol}(void *x, void *w, void *out) {{ (void)x, (void)w, (void)out; "
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bad.c").write_text(f"{text}{bad.code} return 0; }}\n")
        find_toolchain(triple).compile(("bad.c",), folder)
        data = (folder / "bad.o").read_bytes()
    return Kernel(symbol, data, {}, (), "bad/1", repr(bad))
