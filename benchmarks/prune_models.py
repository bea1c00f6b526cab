"""Every model pruned as it is: what can go, what went, and that it computes what masking does.

    python -m benchmarks.prune_models [MODEL ...] [--ratio 0.3] [--align N] [--why]

Each pass runs on the raised module; the pruned module must verify, and its outputs must be those of
the module before with the removed positions masked. `--why` lists the remarks of what stays.
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass

import torch

import optc
from benchmarks.models import MODELS
from optc.backends.reference.evaluate import run
from optc.backends.reference.fold import evaluate_constants
from optc.backends.reference.masked import run_masked
from optc.ir.cost import FLOPS
from optc.ir.module import Module
from optc.ir.ops import CONTRACTION
from optc.ir.targets.catalogue import find_target
from optc.passes.base import PassContext, run_passes
from optc.passes.prune.prune_channels import PruneChannels
from optc.passes.prune.prune_heads import PruneHeads
from optc.passes.prune.selection import select
from optc.passes.standard import CANONICALIZE, RAISE

HEADER = (
    "| model | pass | parameters | MACs | families pruned | pinned | error | seconds |\n"
    "|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Row:
    """What one pass did to one model; `error` is a share of the output's range."""

    before: Module
    after: Module
    remarks: tuple[str, ...]
    error: float
    seconds: float

    def __str__(self) -> str:
        pruned = sum(line.startswith("N0310") for line in self.remarks)
        cells = [
            _pair(parameters(self.before), parameters(self.after)),
            _pair(macs(self.before), macs(self.after)),
            str(pruned),
            str(len(self.remarks) - pruned),
            f"{self.error:.1e}" if pruned else "",
            f"{self.seconds:.1f}",
        ]
        return " | ".join(cells)


def parameters(module: Module) -> int:
    """Numbers in the constants of a module, splats left out."""
    items = {id(c): c for graph in module.graphs for c in graph.constants.values()}
    return sum(item.type.elements for item in items.values() if item.splat is None)


def macs(module: Module) -> int:
    """Multiplications of all products, convolutions and attentions."""
    nodes = [n for graph in module.graphs for n in graph.nodes if isinstance(n.op, CONTRACTION)]
    return (
        sum(
            FLOPS[type(n.op)](
                n.op, tuple(v.type for v in n.inputs), tuple(v.type for v in n.outputs)
            )
            for n in nodes
        )
        // 2
    )


def raised(name: str) -> tuple[Module, Mapping[str, torch.Tensor]]:
    """A model as pruning passes get it, and its inputs."""
    model, inputs = MODELS[name].make()
    module = run_passes(optc.capture(model, inputs), (*CANONICALIZE, *RAISE), context())
    tensors = [x for x in torch.utils._pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor)]
    return module, dict(zip((port.name for port in module.inputs), tensors, strict=True))


def context() -> PassContext:
    """What the driver gives to passes, without a backend."""
    return PassContext(find_target("x86-64-v3"), evaluate=evaluate_constants)


def pruned(
    module: Module, inputs: Mapping[str, torch.Tensor], step: PruneChannels | PruneHeads
) -> Row:
    """Run one pass and compare with masking; raises PassFailure when the result does not verify."""
    ctx = context()
    start = time.perf_counter()
    after = run_passes(module, (step,), ctx)
    seconds = time.perf_counter() - start
    remarks = tuple(f"{found.code} {found.message} -- {found.loc}" for found in ctx.diagnostics)
    if after is module:
        return Row(module, after, remarks, 0.0, seconds)
    kept = select(module, context(), step.request)
    separated = module.with_graphs(tuple(item.found.graph for item in kept))
    wanted = run_masked(separated, inputs, {item.found.graph.name: item.mask for item in kept})
    with torch.no_grad():
        found = run(after, inputs).outputs
    return Row(module, after, remarks, _error(found, wanted), seconds)


def _error(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> float:
    worst = 0.0
    for name, expected in wanted.items():
        a, b = found[name].double(), expected.double()
        if not torch.equal(a.isfinite(), b.isfinite()):
            return float("inf")
        span = max(float(b[b.isfinite()].abs().max()) if b.isfinite().any() else 0.0, 1e-30)
        worst = max(worst, float((a - b).nan_to_num(0).abs().max()) / span if a.numel() else 0.0)
    return worst


def _pair(before: int, after: int) -> str:
    return f"{before / 1e6:.2f} M -> {after / before:.0%}" if before else "0"


def main() -> None:
    """Print a row per model and pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--align", type=int)
    parser.add_argument("--why", action="store_true")
    options = parser.parse_args()
    print(HEADER)
    for name in options.models:
        try:
            module, inputs = raised(name)
            for step in (
                PruneChannels(ratio=options.ratio, align=options.align),
                PruneHeads(ratio=options.ratio, align=options.align),
            ):
                row = pruned(module, inputs, step)
                if row.remarks or isinstance(step, PruneChannels):
                    print(f"| {name} | {step} | {row} |", flush=True)
                for line in row.remarks if options.why else ():
                    print(f"    {line}")
        except Exception as problem:
            print(f"| {name} | {type(problem).__name__}: {str(problem)[:200]} |", flush=True)
            traceback.print_exc(limit=-3)


if __name__ == "__main__":
    main()
