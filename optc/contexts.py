"""The context that passes run in, in a compilation and outside of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optc.ir.constant import Constant
from optc.ir.graph import Graph
from optc.ir.ops import Op
from optc.ir.targets.target import Target
from optc.passes.base import PassContext
from optc.payoff import modelled_latency

if TYPE_CHECKING:
    from optc.kernel_times import KernelTimes
    from optc.quality.evidence import Evidence


def pass_context(
    target: Target,
    *,
    exact: bool = False,
    seed: int = 0,
    evidence: Evidence | None = None,
    cache: Path | None = None,
) -> PassContext:
    """A context whose kernel builder and evaluator are loaded when a pass first asks them.

    `evidence` is the user's data, where there is any. Runtimes of kernels that a pass has timed are
    kept in `cache`.
    """
    refusals: list[Callable[[Graph, frozenset[int]], str | None]] = []

    def accepts(body: Graph, constants: frozenset[int]) -> str | None:
        from optc.backends.tvm.builder import kernel_builder

        if not refusals:
            refusals.append(kernel_builder(target).refusal)
        return refusals[0](body, constants)

    def supports(op: Op) -> bool:
        from optc.backends.tvm.lower.table import LOWER

        return type(op) in LOWER

    def evaluate(graph: Graph, inputs: Sequence[Constant]) -> Sequence[Constant]:
        from optc.backends.reference.fold import evaluate_constants

        return evaluate_constants(graph, inputs)

    watches: list[KernelTimes] = []

    def stopwatch(graphs: Sequence[Graph]) -> Sequence[float] | str:
        from optc.kernel_times import KernelTimes

        if not watches:
            plain = PassContext(target, accepts=accepts, supports=supports, evaluate=evaluate)
            watches.append(KernelTimes(plain, cache))
        return watches[0](graphs)

    return PassContext(
        target,
        exact=exact,
        seed=seed,
        accepts=accepts,
        supports=supports,
        evaluate=evaluate,
        latency=modelled_latency(target),
        stopwatch=stopwatch,
        calibration=evidence.calibration if evidence is not None else None,
        judge=evidence.judge if evidence is not None else None,
    )
