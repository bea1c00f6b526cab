"""Kernels for a GPU: a task to launches and their CUDA C."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tvm import te

from optc.backends.kernel import Job, PackLike
from optc.backends.program import Launch
from optc.backends.tvm.cuda.attention import emit_attention
from optc.backends.tvm.cuda.contraction import contraction_of, emit_contraction, tile_of
from optc.backends.tvm.cuda.handwritten import emit_handwritten
from optc.backends.tvm.cuda.rows import emit_rows
from optc.backends.tvm.cuda.schemes import elementwise, fold
from optc.backends.tvm.cuda.source import write_source
from optc.backends.tvm.cuda.task import Step, Task
from optc.backends.tvm.cuda.tensor_cores import TensorPlan, plan_of
from optc.backends.tvm.cuda.tensor_emission import emit_tensor_product
from optc.backends.tvm.cuda.vectors import elementwise_in_vectors
from optc.backends.tvm.dtypes import nbytes_of
from optc.backends.tvm.naming import symbol_of
from optc.backends.tvm.templates.plan import Miss
from optc.ir.diagnostics import Diagnostic
from optc.ir.graph import Graph
from optc.ir.targets.target import Target
from optc.passes.fusion.classify import ROLE, Role
from optc.passes.fusion.outline import outline

VERSION = "cuda/3"


@dataclass(frozen=True, slots=True)
class CudaKernel:
    """A task as `launches`, whose operands are inputs, outputs and `workspaces`, in order."""

    symbol: str
    source: str
    launches: tuple[Launch, ...]
    workspaces: tuple[int, ...]
    template: str = VERSION
    object: bytes = b""
    packs: Mapping[int, PackLike] = field(default_factory=dict)
    flops: int | None = None


def task_of(body: Graph, symbol: str, target: Target) -> Task:
    """The launches of a body, not yet printed."""
    task = Task(body, symbol)
    if emit_attention(task, body, target) is None or emit_rows(task):
        return task
    for step in task.steps():
        if isinstance(step.stage, te.ExternOp):
            emit_handwritten(task, step.stage)
        else:
            _emit(step, target)
        step.done()
    task.copy_results()
    return task


def _emit(step: Step, target: Target) -> None:
    if 0 in step.extents:
        return
    if step.fold is None:
        if isinstance(elementwise_in_vectors(step), Miss):
            elementwise(step)
        return
    contraction = contraction_of(step)
    if contraction is None:
        fold(step)
        return
    plan = plan_of(contraction, target)
    if isinstance(plan, TensorPlan):
        emit_tensor_product(plan)
    else:
        emit_contraction(contraction, tile_of(contraction, target.cores))


def build(job: Job, target: Target) -> CudaKernel:
    """Launches and source of one task."""
    symbol = symbol_of(job, target, VERSION)
    task = task_of(job.body, symbol, target)
    place = {buffer: number for number, buffer in enumerate(task.parameters)}
    launches = tuple(
        Launch(
            symbol=str(kernel.function.attrs["global_symbol"]),
            grid=(kernel.blocks, 1, 1),
            block=(kernel.threads, 1, 1),
            operands=tuple(place[buffer] for buffer in kernel.buffers),
        )
        for kernel in task.kernels
    )
    source = write_source(task.kernels, target)
    return CudaKernel(symbol, source, launches, tuple(map(nbytes_of, task.scratch)))


@dataclass
class CudaKernelBuilder:
    """Builds kernels for one GPU; notes what people should know."""

    target: Target
    diagnostics: list[Diagnostic] = field(default_factory=list)

    def refusal(self, body: Graph, constants: frozenset[int]) -> str | None:
        """Why these nodes would make no good kernel together; None when they do."""
        together = len(task_of(body, "probe", self.target).kernels)
        alone = len(task_of(_anchor_alone(body), "probe", self.target).kernels)
        if together > alone:
            return f"cuda: {together} launches instead of {alone}"
        return None

    def build(
        self, jobs: Sequence[Job], progress: Callable[[int], None] = lambda _: None
    ) -> list[CudaKernel]:
        """Kernels in the order of the jobs; `progress` is told how many are done."""
        kernels: list[CudaKernel] = []
        for number, job in enumerate(jobs, 1):
            kernels.append(build(job, self.target))
            progress(number)
        return kernels


def _anchor_alone(body: Graph) -> Graph:
    (anchor,) = (node for node in body.nodes if ROLE[type(node.op)] is Role.ANCHOR)
    return outline(body, (anchor,), set(anchor.outputs)).body
