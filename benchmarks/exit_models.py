"""Early exits and routing on real data: what the artifact saves, and whether the budget holds.

    python -m benchmarks exits FOLDER [reviews] [fashion] [--drop 0.01] [--samples 4000]
    python -m benchmarks exits FOLDER reviews --measure    # again what was compiled before
    python -m benchmarks exits FOLDER reviews --route quantize   # small: these passes; large: none

FOLDER has the data packages unpacked and keeps trained weights (see `models/exiting.py`). Exits are
chosen on the calibration part; both artifacts then run every held-out sample in turns, one call
each, so that a machine's drift hits both alike.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import optc
from benchmarks.models.exiting import (
    TUNED,
    LastOnly,
    fashion,
    fashion_net,
    review_texts,
    reviews_net,
    tokenized,
)
from optc.contexts import pass_context
from optc.data.dataset import open_dataset
from optc.exits import END
from optc.ir.diagnostics import OptcError
from optc.ir.module import Module
from optc.ir.targets.find import find_target
from optc.passes.base import run_passes
from optc.passes.calibration import Batches
from optc.passes.early_exit.decision import Decision
from optc.passes.early_exit.insert_exits import InsertExits
from optc.passes.early_exit.route_to import RouteTo
from optc.passes.pipeline import Pipeline
from optc.passes.quality import Part
from optc.passes.standard import CANONICALIZE, LOWER, RAISE
from optc.quality.evidence import DataRequest, Evidence
from optc.quality.metrics import Accuracy
from optc.quality.runners import ports_of
from optc.quality.tally import Tally
from optc.runtime import Artifact

Arrays = Mapping[str, NDArray[Any]]
HEADER = (
    "| model | heads | decision | held-out | accuracy | with exits | lost (95 %) | mean ms "
    "| with exits | saved | p99 ms | worst path ms | left at each exit, end |\n" + "|---" * 13 + "|"
)
WARM = 50


def reviews(folder: Path, own: bool, samples: int) -> tuple[Module, Arrays, str]:
    """The tuned encoder, reviews it has not seen, and the output that counts."""
    net = reviews_net(folder)
    texts = review_texts(folder)[TUNED:][:samples]
    ids, mask = tokenized([text for text, _ in texts])
    labels = np.array([label for _, label in texts])
    example = (torch.from_numpy(ids[:1]), torch.from_numpy(mask[:1]))
    module = optc.capture(net if own else LastOnly(net), example)
    names = [port.name for port in module.inputs]
    arrays = dict(zip(names, (ids, mask), strict=True))
    return module, {**arrays, "labels": labels}, module.outputs[-1].name


def images(folder: Path, own: bool, samples: int) -> tuple[Module, Arrays, str]:
    """The convolutional net, the 10,000 test images, and the output that counts."""
    net = fashion_net(folder)
    (more, kinds), (pictures, classes) = fashion(folder)
    pictures = np.concatenate([pictures, more[50_000:]])[:samples]
    classes = np.concatenate([classes, kinds[50_000:]])[:samples]
    module = optc.capture(net if own else LastOnly(net), (torch.from_numpy(pictures[:1]),))
    (port,) = module.inputs
    return module, {port.name: pictures, "labels": classes}, module.outputs[-1].name


MODELS = {"reviews": reviews, "fashion": images}


def measure(
    name: str, folder: Path, own: bool, decisions: Sequence[str], drop: float, samples: int
) -> None:
    """Choose exits and compile, then print a row for each decision."""
    module, data, output = MODELS[name](folder, own, samples)
    evidence = Evidence(module, DataRequest(dict(data), None, f"accuracy@{output}", drop))
    target = find_target("host")
    context = pass_context(target, evidence=evidence)
    raised = run_passes(module, (*CANONICALIZE, *RAISE), context)
    kept = folder / "compiled" / f"{name}-{samples}"
    optc.compile(module, target, out=kept / "plain")
    for decision in decisions:
        context.exits.clear()
        start = time.perf_counter()
        cut = run_passes(raised, (InsertExits(decision=Decision(decision)),), context)
        if cut is raised:
            print(f"| {name} | {'own' if own else 'fitted'} | {decision} | no exit holds |")
            continue
        spent = time.perf_counter() - start
        optc.compile(cut, target, out=kept / decision)
        print(f"<!-- insert-exits took {spent:.0f} s; {context.exits[0].exits} -->", flush=True)
    show(name, folder, own, decisions, samples)


def show(name: str, folder: Path, own: bool, decisions: Sequence[str], samples: int) -> None:
    """Run what was compiled, and print a row for each decision."""
    module, data, output = MODELS[name](folder, own, samples)
    ports = ports_of(module.inputs)
    batches = open_dataset(data, ports).part(Part.HELD_OUT)
    kept = folder / "compiled" / f"{name}-{samples}"
    with optc.load(kept / "plain") as plain:
        for decision in decisions:
            if (kept / decision).exists():
                with optc.load(kept / decision) as artifact:
                    heads = "own" if own else "fitted"
                    print(row(name, heads, decision, plain, artifact, batches, output), flush=True)


def route(
    name: str, folder: Path, passes: Sequence[str], drop: float, samples: int, measured: bool
) -> None:
    """What `optc route` makes of a model: smaller by passes, with itself behind, and a row each."""
    module, data, output = MODELS[name](folder, False, samples)
    target = find_target("host")
    kept = folder / "compiled" / f"{name}-{samples}"
    if not measured:
        evidence = Evidence(module, DataRequest(dict(data), None, f"accuracy@{output}", drop))
        optc.compile(module, target, out=kept / "large")
        context = pass_context(target, evidence=evidence)
        raised = run_passes(module, (*CANONICALIZE, *RAISE), context)
        for text in passes:
            small = (*Pipeline.parse(text).passes, RouteTo(module, output), *LOWER)
            try:
                routed = run_passes(raised, small, context)
            except OptcError as refused:
                print(f"<!-- {text}: {refused} -->", flush=True)
                continue
            optc.compile(routed, target, out=kept / _folder_of(text))
            said = [item.message for item in context.diagnostics if item.code == "N0340"]
            print(f"<!-- {said[-1]} -->", flush=True)
    batches = open_dataset(data, ports_of(module.inputs)).part(Part.HELD_OUT)
    with optc.load(kept / "large") as large:
        for text in passes:
            if not (kept / _folder_of(text)).exists():
                continue
            with optc.load(kept / _folder_of(text)) as artifact:
                print(row(name, f"small: `{text}`", "energy", large, artifact, batches, output))


def _folder_of(passes: str) -> str:
    return "route-" + "".join(sign if sign.isalnum() else "-" for sign in passes)


def row(
    name: str,
    heads: str,
    decision: str,
    plain: Artifact,
    artifact: Artifact,
    batches: Batches,
    output: str,
) -> str:
    """Run every held-out sample on both, in turns."""
    tally, rule = Tally(Accuracy(output)), Accuracy(output)
    place = [port.name for port in plain.outputs].index(output)
    times: tuple[list[int], list[int]] = ([], [])
    first = next(iter(batches)).inputs
    for _ in range(WARM):
        plain(**first), artifact(**first)
    before = artifact.exit_runs()
    ways: list[str] = []
    for batch in batches:
        start = time.perf_counter_ns()
        answer = artifact(**batch.inputs)
        middle = time.perf_counter_ns()
        original = plain(**batch.inputs)
        end = time.perf_counter_ns()
        after = artifact.exit_runs()
        ways.append(next((e for e in after if after[e] > before[e]), END))
        before = after
        times[0].append(end - middle)
        times[1].append(middle - start)
        original = original[place] if isinstance(original, tuple) else original
        assert batch.labels is not None
        rows = [rule.rows({output: array}, batch.labels) for array in (answer, original)]
        tally.add(rows[0], rows[1])
    found = tally.difference()
    slow, fast = (np.array(part, np.float64) * 1e-6 for part in times)
    # A call that something else on the machine interrupted says nothing of either.
    kept = (slow < 5 * np.median(slow)) & (fast < 5 * np.median(slow))
    slow, fast = slow[kept], fast[kept]
    late = np.array(ways)[kept] == END
    counts = [ways.count(way) / len(ways) for way in (*artifact.exits, END)]
    cells = (
        name,
        heads,
        decision,
        str(len(ways)),
        f"{found.before.value:.4f}",
        f"{found.after.value:.4f}",
        str(found).replace(" points", ""),
        f"{slow.mean():.3f}",
        f"{fast.mean():.3f}",
        f"{1 - fast.mean() / slow.mean():.0%}",
        f"{np.percentile(fast, 99):.3f}",
        f"{np.median(fast[late]) if late.any() else float('nan'):.3f}",
        ", ".join(f"{share:.1%}" for share in counts),
    )
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--drop", type=float, default=0.01)
    parser.add_argument("--samples", type=int, default=1 << 20)
    parser.add_argument("--decision", action="append")
    parser.add_argument("--fitted", action="store_true", help="fit heads, as if there were none")
    parser.add_argument("--measure", action="store_true", help="run what is compiled already")
    parser.add_argument("--route", action="append", help="passes that make the small model")
    options = parser.parse_args(arguments)
    decisions = options.decision or [decision.value for decision in Decision]
    print(HEADER)
    for name in options.models:
        if options.route:
            passes = options.route
            route(name, options.folder, passes, options.drop, options.samples, options.measure)
            continue
        if options.measure:
            show(name, options.folder, not options.fitted, decisions, options.samples)
            continue
        measure(name, options.folder, not options.fitted, decisions, options.drop, options.samples)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
