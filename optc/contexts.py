"""The context that passes run in outside of a compilation, equal to the one inside it."""

from __future__ import annotations

from collections.abc import Sequence

from optc.ir.constant import Constant
from optc.ir.graph import Graph
from optc.ir.targets.target import Target
from optc.passes.base import PassContext


def pass_context(target: Target, *, exact: bool = False, seed: int = 0) -> PassContext:
    """A context whose kernel builder and evaluator are loaded when a pass first asks them."""
    builder: list[object] = []

    def accepts(body: Graph, constants: frozenset[int]) -> str | None:
        from optc.backends.tvm.kernel import KernelBuilder

        if not builder:
            builder.append(KernelBuilder(target))
        known = builder[0]
        assert isinstance(known, KernelBuilder)
        return known.refusal(body, constants)

    def evaluate(graph: Graph, inputs: Sequence[Constant]) -> Sequence[Constant]:
        from optc.backends.reference.fold import evaluate_constants

        return evaluate_constants(graph, inputs)

    return PassContext(target, exact=exact, seed=seed, accepts=accepts, evaluate=evaluate)
