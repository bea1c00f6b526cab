"""Every model pruned as it is: what went, that it computes what masking does, that it compiles.

    python -m benchmarks prune [MODEL ...] [--ratio 0.3] [--align N] [--both] [--again]
    python -m benchmarks prune --time [MODEL ...]
    python -m benchmarks prune --why [MODEL ...]

Each pass runs on the raised module; the pruned module must verify, and its outputs must be those of
the module before with the removed positions masked: in f64, where only a mistake is larger than
1e-9 of the output's range; the difference in f32 is beside it. Then the model is compiled with both
passes, and the artifact compared with the pruned module in f64. A model that is in the results is
not run again without `--again`. `--both` compiles models as they are, too, and `--time` times those
pairs in turns; `--why` lists the remarks of what stays, and compiles nothing.
"""

from __future__ import annotations

import argparse
import gc
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import torch

import optc
from benchmarks.models import MODELS
from benchmarks.prune_results import Pruned, Result, markdown, merge, read
from optc.backends.reference.doubled import doubled, doubled_inputs
from optc.backends.reference.evaluate import run
from optc.backends.reference.fold import evaluate_constants
from optc.backends.reference.masked import Keep, run_masked
from optc.driver import Options, compile_module
from optc.inputs import call, random_arrays
from optc.ir.cost import FLOPS
from optc.ir.module import Module
from optc.ir.ops import CONTRACTION
from optc.ir.targets.detect import host
from optc.ir.targets.find import find_target
from optc.ir.targets.target import Target
from optc.passes.base import PassContext, run_passes
from optc.passes.calibration import Calibration
from optc.passes.pipeline import Pipeline
from optc.passes.prune.prune_channels import PruneChannels
from optc.passes.prune.prune_heads import PruneHeads
from optc.passes.prune.selection import select
from optc.passes.quality import Judge
from optc.passes.standard import CANONICALIZE, RAISE

RESULTS = Path(__file__).parent / "results"
TURNS = 5  # of each artifact
TARGET = find_target("x86-64-v3")  # where nothing is compiled
NARROWER = (4, 1)  # steps of widths where the target's vectors let nothing go
Inputs = Mapping[str, torch.Tensor]
Step = PruneChannels | PruneHeads


@dataclass(frozen=True)
class Row:
    """What one pass did to one model; errors are shares of the output's range."""

    before: Module
    after: Module
    remarks: tuple[str, ...]
    error: float = 0.0  # in f64
    rounding: float = 0.0  # in f32
    seconds: float = 0.0


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


def raised(name: str) -> tuple[Module, Inputs]:
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


def pruned(module: Module, inputs: Inputs, step: Step, target: Target = TARGET) -> Row:
    """Run one pass and compare with masking; raises PassFailure when the result does not verify."""
    ctx = context(target)
    start = time.perf_counter()
    after = run_passes(module, (step,), ctx)
    seconds = time.perf_counter() - start
    remarks = tuple(f"{found.code} {found.message} -- {found.loc}" for found in ctx.diagnostics)
    if after is module:
        return Row(module, after, remarks, seconds=seconds)
    kept = select(module, context(target), step.request)
    separated = module.with_graphs(tuple(item.found.graph for item in kept))
    masks = {item.found.graph.name: item.mask for item in kept}
    rounding = _error(outputs(after, inputs), run_masked(separated, inputs, masks))
    wide, became = doubled(separated)
    became_of = {new: old for old, new in became.items()}
    wanted = run_masked(
        wide,
        doubled_inputs(inputs),
        {name: _renamed(mask, became_of) for name, mask in masks.items()},
    )
    error = _error(exact_outputs(after, inputs), wanted)
    return Row(module, after, remarks, error, rounding, seconds)


def _renamed(keep: Keep, became_of: Mapping[object, object]) -> Keep:
    return lambda value, axis: keep(became_of[value], axis)


def outputs(module: Module, inputs: Inputs) -> Inputs:
    """What a call gives, in the module's own dtypes."""
    with torch.no_grad():
        return run(module, inputs).outputs


def exact_outputs(module: Module, inputs: Inputs) -> Inputs:
    """What a call gives in f64."""
    return outputs(doubled(module)[0], doubled_inputs(inputs))


def _error(found: Inputs, wanted: Inputs) -> float:
    worst = 0.0
    for name, expected in wanted.items():
        a, b = found[name].double(), expected.double()
        if not torch.equal(a.isfinite(), b.isfinite()):
            return float("inf")
        span = max(float(b[b.isfinite()].abs().max()) if b.isfinite().any() else 0.0, 1e-30)
        worst = max(worst, float((a - b).nan_to_num(0).abs().max()) / span if a.numel() else 0.0)
    return worst


def steps_of(options: argparse.Namespace, align: int | None) -> tuple[Step, Step]:
    """The passes, with the ratio that was asked for."""
    return (
        PruneChannels(ratio=options.ratio, align=align),
        PruneHeads(ratio=options.ratio, align=align),
    )


def rows_of(
    module: Module, inputs: Inputs, options: argparse.Namespace
) -> tuple[list[tuple[Step, Row]], list[str]]:
    """What each pass did that removed something, at the widest step that lets one, and remarks."""
    remarks: list[str] = []
    for align in dict.fromkeys((options.align, *NARROWER)):
        found, after = [], module
        for step in steps_of(options, align):
            row = pruned(after, inputs, step, host())
            remarks += row.remarks
            if row.after is not after:
                found.append((step, row))
            after = row.after
        if found:
            return found, remarks
    return [], remarks


def measured(name: str, options: argparse.Namespace) -> Result:
    """One model: each pass, then the artifact of both."""
    module, inputs = raised(name)
    result = Result(name, options.ratio, str(date.today()))
    found, remarks = rows_of(module, inputs, options)
    if not found:
        return replace(result, why=_why(remarks))
    start = time.perf_counter()
    pipeline = ",".join(str(step) for step, _ in found)
    error = compiled(name, pipeline, options, found[-1][1].after, inputs)
    seconds = time.perf_counter() - start
    steps = tuple(_summary(step, row) for step, row in found)
    return replace(result, steps=steps, artifact=error, seconds=seconds)


def _why(remarks: Sequence[str]) -> str:
    """The reasons for which layers stay, each once."""
    said = [line.partition(" stay: ")[2].partition(" -- ")[0] for line in remarks]
    return "; ".join(dict.fromkeys(filter(None, said))) or "no layer has weights"


def _summary(step: Step, row: Row) -> Pruned:
    gone = sum(line.startswith("N0310") for line in row.remarks)
    return Pruned(
        step.name + (f"{{align={step.align}}}" if step.align else ""),
        (parameters(row.before), parameters(row.after)),
        (macs(row.before), macs(row.after)),
        gone,
        sum(line.startswith("N0311") for line in row.remarks),
        row.error,
        row.rounding,
        row.seconds,
    )


def place(options: argparse.Namespace, name: str, *, pruned: bool) -> Path:
    """Where an artifact is kept."""
    folder: Path = options.keep
    return folder / (f"{name}-{options.ratio:g}" if pruned else name)


def compiled(
    name: str, pipeline: str, options: argparse.Namespace, after: Module, inputs: Inputs
) -> float:
    """Compile a model with passes and run it; the largest difference to the pruned module in f64.

    Raises OptcError when it does not compile.
    """
    model, example = MODELS[name].make()
    captured = optc.capture(model, example)
    folder = place(options, name, pruned=True)
    compile_module(captured, host(), folder, Options(Pipeline.parse(pipeline)))
    if options.both and not (plain := place(options, name, pruned=False)).exists():
        compile_module(captured, host(), plain)
    with optc.load(folder) as artifact:
        found = call(artifact, {name: tensor.numpy() for name, tensor in inputs.items()})
    wanted = exact_outputs(after, inputs)
    return _error({key: torch.from_numpy(np.array(found[key])) for key in wanted}, wanted)


def timed(results: Sequence[Result], options: argparse.Namespace) -> Iterator[Result]:
    """Results with milliseconds of the artifacts of `--both`: in turns, the best of medians."""
    for result in results:
        pair = [place(options, result.model, pruned=pruned) for pruned in (False, True)]
        if not all(folder.exists() for folder in pair):
            continue
        loaded = [optc.load(folder, verify=False) for folder in pair]
        arrays = [random_arrays(artifact.inputs, 0) for artifact in loaded]
        best = [float("inf")] * 2
        for turn in range(2 * TURNS):
            artifact, given = loaded[turn % 2], arrays[turn % 2]
            runs = max(3, min(100, int(0.1 / best[turn % 2]))) if turn > 1 else 2
            times = artifact.bench(**given, runs=runs)
            best[turn % 2] = min(best[turn % 2], float(np.median(times)) * 1e-9)
        for artifact in loaded:
            artifact.close()
        yield replace(result, times=(1e3 * best[0], 1e3 * best[1]))


def run_models(options: argparse.Namespace) -> Iterator[Result]:
    """Results of the models that have none yet, one by one; a failure is a result."""
    for name in options.models:
        before = read(options.results / "prune.json").get(f"{name} {options.ratio:g}")
        if before is not None and before.is_done and not options.again:
            continue
        try:
            yield measured(name, options)
        except Exception as problem:
            traceback.print_exc(limit=-3)
            text = f"{type(problem).__name__}: {str(problem).splitlines()[0][:200]}"
            yield Result(name, options.ratio, str(date.today()), problem=text)
        gc.collect()


def explain(options: argparse.Namespace) -> None:
    """Print the remarks of each pass."""
    for name in options.models:
        module, inputs = raised(name)
        for step in steps_of(options, options.align):
            row = pruned(module, inputs, step, host())
            print(f"{name}, {step.name}:", *row.remarks, sep="\n    ", flush=True)
            module = row.after


def write(results: Mapping[str, Result], folder: Path) -> None:
    """The table beside the numbers."""
    machine = host()
    head = (
        "# Pruning: models as they are\n\n"
        f"{machine.description}, {machine.cores} cores; `python -m benchmarks prune`. Models are"
        " pruned unmodified; what stays is a multiple of the target's vectors, or of what the row "
        "says. `masking` is the "
        "largest difference to the model before with the removed positions masked, in f64 and in "
        "f32, `artifact` that of the compiled artifact of both passes to the pruned module in f64, "
        "each as a share of the output's range. Seconds of passes, and of compilation and check "
        "together, on a shared machine. Milliseconds (`--time`): in turns, best of "
        f"{TURNS} medians.\n\n"
    )
    (folder / "prune.md").write_text(head + markdown(results).rstrip() + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, or time, what was asked for; merge the results and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--align", type=int)
    parser.add_argument("--why", action="store_true")
    parser.add_argument("--both", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--keep", type=Path, default=Path("build/prune"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.why:
        explain(options)
        return 0
    path = options.results / "prune.json"
    known = read(path)
    chosen = [r for r in known.values() if r.model in options.models and r.ratio == options.ratio]
    for result in timed(chosen, options) if options.time else run_models(options):
        known = merge(path, result, list(MODELS))
        print(result, flush=True)
    write(known, options.results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
