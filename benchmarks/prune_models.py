"""Every model pruned as it is: what went, that it computes what masking does, that it compiles.

    python -m benchmarks.prune_models [MODEL ...] [--ratio 0.3] [--align N] [--why]
                                      [--keep FOLDER] [--both] [--out FILE] | --time FOLDER

Each pass runs on the raised module; the pruned module must verify, and its outputs must be those of
the module before with the removed positions masked (`masking`: the difference as a share of the
output's range). Then the model is compiled with both passes, and the artifact compared with the
reference (`artifact`, likewise). `--why` lists the remarks of what stays, `--keep` keeps artifacts,
with `--both` those of the models as they are, too; `--time` then times pairs of them in turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import optc
from benchmarks.models import MODELS
from optc.backends.reference.evaluate import run
from optc.backends.reference.fold import evaluate_constants
from optc.backends.reference.masked import run_masked
from optc.driver import Options, compile_module
from optc.inputs import call, random_arrays
from optc.ir.cost import FLOPS
from optc.ir.module import Module
from optc.ir.ops import CONTRACTION
from optc.ir.targets.catalogue import find_target
from optc.ir.targets.detect import host
from optc.ir.targets.target import Target
from optc.passes.base import PassContext, run_passes
from optc.passes.calibration import Calibration
from optc.passes.pipeline import Pipeline
from optc.passes.prune.prune_channels import PruneChannels
from optc.passes.prune.prune_heads import PruneHeads
from optc.passes.prune.selection import select
from optc.passes.quality import Judge
from optc.passes.standard import CANONICALIZE, RAISE

HEADER = (
    "| model | pass | parameters | MACs | families pruned | pinned | masking | artifact | s |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
TURNS = 5  # of each artifact
TARGET = find_target("x86-64-v3")  # where nothing is compiled


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
            "",
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


def context(
    target: Target = TARGET, calibration: Calibration | None = None, judge: Judge | None = None
) -> PassContext:
    """What the driver gives to passes, without a backend."""
    return PassContext(target, evaluate=evaluate_constants, calibration=calibration, judge=judge)


def pruned(
    module: Module,
    inputs: Mapping[str, torch.Tensor],
    step: PruneChannels | PruneHeads,
    target: Target = TARGET,
) -> Row:
    """Run one pass and compare with masking; raises PassFailure when the result does not verify."""
    ctx = context(target)
    start = time.perf_counter()
    after = run_passes(module, (step,), ctx)
    seconds = time.perf_counter() - start
    remarks = tuple(f"{found.code} {found.message} -- {found.loc}" for found in ctx.diagnostics)
    if after is module:
        return Row(module, after, remarks, 0.0, seconds)
    kept = select(module, context(target), step.request)
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


def compiled(
    name: str, pipeline: str, folder: Path, after: Module, inputs: Mapping[str, torch.Tensor]
) -> float:
    """Compile a model with passes and run it; the largest difference to the reference.

    Raises OptcError when it does not compile.
    """
    model, example = MODELS[name].make()
    captured = optc.capture(model, example)
    compile_module(captured, host(), folder, Options(Pipeline.parse(pipeline)))
    with optc.load(folder) as artifact, torch.no_grad():
        found = call(artifact, {name: tensor.numpy() for name, tensor in inputs.items()})
        wanted = run(after, inputs).outputs
    return _error({key: torch.from_numpy(np.array(found[key])) for key in wanted}, wanted)


def measured(name: str, options: argparse.Namespace) -> Iterator[str]:
    """The lines of one model: each pass, then the artifact of both."""
    module, inputs = raised(name)
    after, steps = module, []
    for step in (
        PruneChannels(ratio=options.ratio, align=options.align),
        PruneHeads(ratio=options.ratio, align=options.align),
    ):
        row = pruned(after, inputs, step, host())
        if row.after is not after:
            steps.append(str(step))
            yield f"| {name} | {step.name} | {row} |"
        for line in row.remarks if options.why else ():
            yield f"    {line}"
        after = row.after
    if not steps:
        yield f"| {name} | nothing to prune | | | | | | | |"
        return
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(options.keep or folder, f"{name}-pruned")
        error = compiled(name, ",".join(steps), place, after, inputs)
        if options.both:
            compiled(name, "", Path(options.keep or folder, name), module, inputs)
    seconds = f"{time.perf_counter() - start:.0f}"
    cells = (_pair(parameters(module), parameters(after)), _pair(macs(module), macs(after)))
    yield f"| {name} | **together** | {cells[0]} | {cells[1]} | | | | {error:.1e} | {seconds} |"


def timed(folder: Path, names: Sequence[str]) -> Iterator[str]:
    """Milliseconds of the artifacts of `--both`, in turns, and their ratio."""
    yield "| model | as it is, ms | pruned, ms | ratio |\n|---|---|---|---|"
    for name in names:
        pair = (folder / name, folder / f"{name}-pruned")
        if not all(place.exists() for place in pair):
            continue
        loaded = [optc.load(place, verify=False) for place in pair]
        arrays = [random_arrays(artifact.inputs, 0) for artifact in loaded]
        best = [float("inf")] * 2
        for turn in range(2 * TURNS):
            artifact, given = loaded[turn % 2], arrays[turn % 2]
            runs = max(3, min(100, int(0.1 / best[turn % 2]))) if turn > 1 else 2
            times = artifact.bench(**given, runs=runs)
            best[turn % 2] = min(best[turn % 2], float(np.median(times)) * 1e-9)
        yield f"| {name} | {1e3 * best[0]:.3f} | {1e3 * best[1]:.3f} | {best[1] / best[0]:.1%} |"


def main() -> None:
    """Print a row per model and pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--align", type=int)
    parser.add_argument("--why", action="store_true")
    parser.add_argument("--both", action="store_true")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--time", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.time:
        for line in timed(options.time, options.models):
            print(line, flush=True)
        return
    lines = [HEADER]
    print(HEADER)
    for name in options.models:
        try:
            for line in measured(name, options):
                print(line, flush=True)
                lines.append(line)
        except Exception as problem:
            lines.append(f"| {name} | {type(problem).__name__}: {str(problem)[:200]} |")
            print(lines[-1], flush=True)
            traceback.print_exc(limit=-3)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
