"""`optc diff`: two models that should compute the same, and who is to blame where they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from numpy.typing import NDArray

from optc.cli.inputs import read_arrays
from optc.cli.options import cache_folder, capture_options, is_artifact, read_module
from optc.cli.progress import Progress
from optc.cli.terminal import console, plain_table
from optc.ir.diagnostics import NOWHERE, Diagnostic, OptcError, error

if TYPE_CHECKING:
    from optc.diff import Culprit, Gap
    from optc.ir.module import Module
    from optc.replay import Given, Stage

Arrays = Mapping[str, NDArray[Any]]


@click.command("diff")
@click.argument("a", metavar="A", type=click.Path(path_type=Path))
@click.argument("b", metavar="B", type=click.Path(path_type=Path))
@click.option(
    "--input",
    "-i",
    "source",
    type=click.Path(path_type=Path),
    metavar="FILE.npz",
    help="Inputs by name; without it they are random.",
)
@click.option(
    "--random",
    "seed",
    type=click.IntRange(0),
    default=0,
    metavar="SEED",
    help="Seed of random inputs.",
)
@click.option(
    "--scale",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    metavar="X",
    help="Multiply the tolerances: 1e-4 of a value's range for f32, 1e-2 for f16, 5e-2 for bf16.",
)
@click.option(
    "--data",
    metavar="DATA",
    help="The data that B was compiled with, where there was any: its passes learnt from it.",
)
@click.option("--labels", metavar="FILE", help="The labels beside that data.")
@click.option(
    "--calibration-data", metavar="DATA", help="The set of its own that its passes learnt from."
)
@click.option("--calibration-labels", metavar="FILE", help="The labels beside that set.")
@capture_options
def diff_command(
    a: Path,
    b: Path,
    source: Path | None,
    seed: int,
    scale: float,
    data: str | None,
    labels: str | None,
    calibration_data: str | None,
    calibration_labels: str | None,
    shape: str,
    unsafe_load: bool,
    example: Path | None,
) -> None:
    """Run A and B on the same inputs; where they differ, name the first node that is wrong.

    A is right by definition: a model (.pt2), a graph in text form, or an artifact. B is a graph or
    an artifact. With a model and the artifact made from it, the passes are replayed and bisected,
    then the kernels are run a few at a time, so the answer names the pass or the kernel, and your
    source line. What lossy passes changed is shown and blames nobody: what comes behind each of
    them is compared with what it made.
    """
    from optc.arrays import Tensor
    from optc.inputs import random_arrays
    from optc.replay import Given

    with Progress() as progress:
        progress("reading", 0, 0)
        if is_artifact(a):
            _diff_artifacts(a, b, source, seed, scale)
            return
        right = read_module(a, shape, unsafe_load, example)
        ports = [Tensor(port.name, port.type.shape, port.type.dtype.value) for port in right.inputs]
        inputs = _checked(ports, read_arrays(source)) if source else random_arrays(ports, seed)
        if is_artifact(b):
            given = Given(data, labels, calibration_data, calibration_labels)
            _diff_artifact(right, b, inputs, scale, progress, given)
        else:
            _diff_graphs(
                right, read_module(b, shape, unsafe_load, example), inputs, scale, progress
            )


def _checked(ports: Sequence[Any], arrays: Arrays) -> Arrays:
    from optc.arrays import bind

    return dict(zip((port.name for port in ports), bind(ports, (), arrays), strict=True))


def _diff_graphs(
    right: Module, other: Module, inputs: Arrays, scale: float, progress: Progress
) -> None:
    from optc.backends.reference.trace import trace
    from optc.diff import compare_outputs, locate

    _same_ports(right, other)
    progress("evaluating", 0, 0)
    gaps = compare_outputs(right, trace(right, inputs), trace(other, inputs), scale)
    _show(gaps)
    if all(gap.ok for gap in gaps):
        return
    progress("searching", 0, 0)
    raise _blame("E0720", "", gaps, locate(right, other, inputs, scale=scale))


def _diff_artifact(
    right: Module,
    path: Path,
    inputs: Arrays,
    scale: float,
    progress: Progress,
    given: Given,
) -> None:
    from optc.backends.reference.trace import trace
    from optc.bundle import open_bundle
    from optc.diff import compare_outputs
    from optc.inputs import call
    from optc.ir.structural import module_digest
    from optc.replay import (
        bad_kernel,
        evidence_of,
        first_drift,
        read_lock,
        rebuild_of,
        stages,
        stretches,
    )
    from optc.runtime import load

    folder = open_bundle(path, cache_folder() / "artifacts").folder
    progress("evaluating", 0, 0)
    wanted = trace(right, inputs)
    with load(path, cache=cache_folder() / "artifacts") as artifact:
        found = call(artifact, inputs)
    gaps = compare_outputs(right, wanted, found, scale)
    _show(gaps)
    if all(gap.ok for gap in gaps):
        return
    lock = read_lock(folder)
    rebuild = rebuild_of(lock, scale, cache_folder())
    progress("replaying passes", 0, 0)
    history = stages(right, lock, rebuild.target, evidence_of(right, lock, given))
    base = _right_passes(stretches(history), inputs, scale, gaps)
    lossy = [stage.name for stage in history if stage.lossy]
    if lossy:
        behind = compare_outputs(base, trace(base, inputs), found, scale)
        _show(behind)
        if all(gap.ok for gap in behind):
            _tell_lossy(lossy, path)
            return
        gaps = behind
    for search, code, where in (
        (bad_kernel, "E0722", " in its kernel"),
        (first_drift, "E0727", " when each kernel is given what those before it computed"),
    ):
        culprit = search(
            history[-1].module, rebuild, inputs, lambda done, all: progress("kernels", done, all)
        )
        if culprit is not None:
            raise _blame(code, where, gaps, culprit)
    if module_digest(right) != lock.get("model"):
        raise error(
            "E0723",
            f"{path} was made from another model: other weights, or another graph",
            help="compile this model, or compare with the one that the artifact was made from",
        )
    raise error(
        "E0723",
        "every pass and every kernel is right, also one behind the other, the artifact is not: its "
        "memory plan, its packed weights or its driver is wrong",
        help="compile the model again and compare once more",
    )


def _right_passes(
    history: Sequence[Sequence[Stage]], inputs: Arrays, scale: float, gaps: Sequence[Gap]
) -> Module:
    """What the last lossy pass made; raises E0721 where a pass behind one changed its function."""
    from optc.backends.reference.trace import trace
    from optc.diff import first_bad, locate

    for stretch in history:
        wanted = trace(stretch[0].module, inputs)
        index = first_bad([stage.module for stage in stretch], wanted, inputs, scale=scale)
        if index is not None:
            before, after = stretch[max(0, index - 1)], stretch[index]
            culprit = locate(before.module, after.module, inputs, scale=scale)
            raise _blame("E0721", f" after pass {after.name}", gaps, culprit)
    return history[-1][0].module


def _tell_lossy(passes: Sequence[str], path: Path) -> None:
    """Nobody is to blame: the user asked for another function."""
    asked = [name for name in passes if name != "integerize"] or list(passes)
    console().print(
        f"the first table is what {', '.join(asked)} cost{'s' if len(asked) == 1 else ''} on these "
        "inputs; the second compares with the model behind: every other pass and every kernel is "
        f"right. optc eval {path} --data DATA --against MODEL measures it"
    )


def _diff_artifacts(a: Path, b: Path, source: Path | None, seed: int, scale: float) -> None:
    from optc.diff import measure
    from optc.inputs import call, random_arrays
    from optc.ir.dtype import DType
    from optc.runtime import load

    if not is_artifact(b):
        raise error(
            "E0703", f"{a} is an artifact, so {b} must be one", help="optc diff model.pt2 out/"
        )
    cache = cache_folder() / "artifacts"
    with load(a, cache=cache) as first, load(b, cache=cache) as second:
        inputs = (
            _checked(first.inputs, read_arrays(source))
            if source
            else random_arrays(first.inputs, seed)
        )
        wanted, found = call(first, inputs), call(second, inputs)
        gaps = [
            measure(port.name, wanted[port.name], found[port.name], DType(port.dtype), scale)
            for port in first.outputs
            if port.name in found
        ]
    if len(gaps) < len(wanted):
        raise error("E0724", "the artifacts have different outputs", help=f"optc inspect {b}")
    _show(gaps)
    if not all(gap.ok for gap in gaps):
        raise error(
            "E0720",
            f"the artifacts differ: {_worst(gaps)}",
            help=f"compare each with its model: optc diff model.pt2 {b}",
        )


def _same_ports(right: Module, other: Module) -> None:
    for kind in ("inputs", "outputs"):
        mine, theirs = getattr(right, kind), getattr(other, kind)
        if mine != theirs:
            texts = [
                ", ".join(f"{p.name}: {p.type}" for p in ports) or "none"
                for ports in (mine, theirs)
            ]
            raise error("E0724", f"the {kind} differ: {texts[0]} and {texts[1]}")


def _show(gaps: Sequence[Gap]) -> None:
    table = plain_table(
        "output", "max error of range", "tolerance", "", numbers=("max error of range", "tolerance")
    )
    for gap in gaps:
        verdict = "agrees" if gap.ok else "differs"
        table.add_row(gap.name, f"{gap.error:.2e}", f"{gap.tolerance:.0e}", verdict)
    console().print(table)


def _blame(code: str, where: str, gaps: Sequence[Gap], culprit: Culprit | None) -> OptcError:
    if culprit is None:
        return error(
            code,
            f"{_worst(gaps)}{where}; no single node could be found",
            help=f"optc explain {code}",
        )
    node = culprit.node
    name = node.outputs[0].hint
    message = (
        f"%{name} ({node.op.name}) is the first that is wrong{where}: "
        f"off by {culprit.gap.error:.2e} of its range, {culprit.gap.tolerance:.0e} is allowed"
    )
    if culprit.suspects:
        message += (
            f"; {len(culprit.suspects)} nodes before it have no counterpart and may share the blame"
        )
    return OptcError(
        Diagnostic(
            code,
            message,
            loc=node.loc or NOWHERE,
            excerpt=culprit.excerpt,
            help=f"optc explain {code}",
        )
    )


def _worst(gaps: Sequence[Gap]) -> str:
    worst = max(gaps, key=lambda gap: gap.error - gap.tolerance)
    return f"output {worst.name} is off by {worst.error:.2e} of its range"
