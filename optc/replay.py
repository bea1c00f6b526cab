"""An artifact's compilation, again: the module after every pass, and its kernels a few at a time.

The passes come from the artifact's lock, so a module is captured once and every stage between it
and the kernels can be judged. Kernels get inputs from the reference, so the first wrong one is the
culprit and not the victim of an earlier one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from optc.backends.reference.trace import trace
from optc.contexts import pass_context
from optc.diff import BUDGET, Arrays, Culprit, Gap, measure
from optc.inputs import call
from optc.ir.diagnostics import error
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module, module_of
from optc.ir.ops import Reshape
from optc.ir.targets.find import find_target
from optc.ir.targets.target import Target
from optc.passes.base import Effect, Pass, run_passes
from optc.passes.early_exit.route_to import RouteTo
from optc.passes.pipeline import Pipeline
from optc.roughness import of_kernel, of_values
from optc.runtime import load

if TYPE_CHECKING:
    from optc.quality.evidence import Evidence

CHUNK = 32  # kernels that are built and run together


@dataclass(frozen=True, slots=True)
class Stage:
    """The module as it was after a pass; the first stage is the capture itself."""

    name: str
    module: Module
    lossy: bool = False


def read_lock(folder: Path) -> Mapping[str, Any]:
    """An artifact's lock; raises E0725 where none can be read, E0729 where it has two models."""
    try:
        lock = json.loads((folder / "lock.json").read_text())
        if isinstance(lock["passes"], list) and isinstance(lock["target"]["name"], str):
            return _of_one_model(folder, dict(lock))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise error(
        "E0725", f"{folder} has no lock.json that says how it was made", help="compile it again"
    )


def _of_one_model(folder: Path, lock: dict[str, Any]) -> Mapping[str, Any]:
    if any(str(text).startswith(f"{RouteTo.name}{{") for text in lock["passes"]):
        raise error(
            "E0729",
            f"{folder} answers with two models: its passes cannot be run again on one of them",
            help=f"optc eval {folder} --data DATA --against MODEL",
        )
    return lock


def target_of(lock: Mapping[str, Any]) -> Target:
    """The target that the artifact was compiled for; raises E0726 if that was another host."""
    target = replace(
        find_target(lock["target"]["name"]),
        cores=int(lock["cores"]),
        winograd=bool(lock.get("winograd", True)),
    )
    if list(target.features) != lock["target"]["features"]:
        raise error(
            "E0726",
            "the artifact was compiled for the host it was compiled on, which is not this machine",
            help="compile it again here, or for a named target",
        )
    return target


@dataclass(frozen=True, slots=True)
class Given:
    """The data that a user says an artifact was made with, in the texts of the command line."""

    data: str | None = None
    labels: str | None = None
    calibration_data: str | None = None
    calibration_labels: str | None = None


def evidence_of(module: Module, lock: Mapping[str, Any], given: Given) -> Evidence | None:
    """The data that lossy passes of the artifact learnt from; None where there are none.

    Raises E0728 when it is not given, or when other data is.
    """
    from optc.quality.evidence import DataRequest, Evidence

    known = lock.get("data")
    if known is None or all(step.effect is not Effect.LOSSY for step in passes_of(lock)):
        return None
    separate = known.get("calibration_data")
    sets = [("--data", given.data, known)]
    sets += [("--calibration-data", given.calibration_data, separate)] if separate else []
    help = " ".join(f"{option} {made['source']}" for option, _, made in sets)
    for _, text, made in sets:
        if text is None:
            raise error("E0728", f"the artifact was compiled with {made['source']}", help=help)
    split = known["split"]
    asked = (known["metric"], known["accuracy_drop"], known["limit"], split["seed"])
    beside = (given.calibration_data, given.calibration_labels) if separate else (None, None)
    assert given.data is not None
    request = DataRequest(given.data, given.labels, *asked, split["calibration"], *beside)
    found = Evidence(module, request)
    record = found.record()
    digests = record["digest"], record.get("calibration_data", {}).get("digest")
    for (_, text, made), digest in zip(sets, digests, strict=False):
        if digest != made["digest"]:
            message = f"the artifact was compiled with other samples than those of {text}"
            raise error("E0728", message, help=help)
    return found


def passes_of(lock: Mapping[str, Any]) -> list[Pass]:
    """The passes that made the artifact, in order."""
    return [step for text in lock["passes"] for step in Pipeline.parse(text).passes]


def stages(
    module: Module, lock: Mapping[str, Any], target: Target, evidence: Evidence | None = None
) -> list[Stage]:
    """Run the passes of the lock on a captured module; a stage for each that changed something."""
    found = [Stage("capture", module)]
    context = pass_context(target, seed=int(lock["seed"]), evidence=evidence)

    class Watch:
        """Keeps what a pass made."""

        def before(self, step: Pass, module: Module) -> None:
            """Nothing to note."""

        def after(self, step: Pass, before: Module, after: Module) -> None:
            """Keep a changed module."""
            if after is not before:
                found.append(Stage(str(step), after, step.effect is Effect.LOSSY))

    run_passes(module, passes_of(lock), context, (Watch(),))
    return found


def stretches(history: Sequence[Stage]) -> list[list[Stage]]:
    """The stages that compute one function each: the capture's, and that of every lossy pass.

    A stretch begins with the stage that made its function; exact and rounding passes follow.
    """
    found: list[list[Stage]] = []
    for stage in history:
        if stage.lossy or not found:
            found.append([])
        found[-1].append(stage)
    return found


@dataclass(frozen=True)
class Rebuild:
    """How kernels are made again and judged: `knobs` are those of tuned kernels, by task key.

    `scale` multiplies the tolerances; compiled runtimes are kept in `cache`.
    """

    target: Target
    knobs: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0
    cache: Path | None = None


def rebuild_of(lock: Mapping[str, Any], scale: float = 1.0, cache: Path | None = None) -> Rebuild:
    """As the artifact of this lock was made; raises E0726."""
    knobs = lock.get("tuned", {}).get("knobs", {})
    return Rebuild(target_of(lock), knobs, scale, cache)


def bad_kernel(
    module: Module,
    rebuild: Rebuild,
    inputs: Arrays,
    progress: Callable[[int, int], None] | None = None,
) -> Culprit | None:
    """The first kernel of a fused module that differs from the reference; None: all are right."""
    nodes = [node for graph in module.graphs for node in graph.nodes]
    rough = {v: r for n in nodes for v, r in zip(n.outputs, of_kernel(n), strict=True)}
    return _first_wrong(module, rebuild, inputs, progress, rough, behind=False)


def first_drift(
    module: Module,
    rebuild: Rebuild,
    inputs: Arrays,
    progress: Callable[[int, int], None] | None = None,
) -> Culprit | None:
    """The first kernel whose result is wrong when each is given what those before it computed.

    As in the artifact, but with memory of its own for every value. None: the outputs are right.
    """
    return _first_wrong(module, rebuild, inputs, progress, of_values(module), behind=True)


def _first_wrong(
    module: Module,
    rebuild: Rebuild,
    inputs: Arrays,
    progress: Callable[[int, int], None] | None,
    rough: Mapping[Value, float],
    *,
    behind: bool,
) -> Culprit | None:
    """`rough` are the least tolerances; with `behind`, each kernel reads what those before made."""
    total = sum(len(graph.nodes) for graph in module.graphs)
    done = 0
    for graph in module.graphs:
        own: dict[Value, NDArray[Any]] | None = {} if behind else None
        for nodes in _chunks(graph):
            if progress is not None:
                progress(done, total)
            gaps = _run_chunk(module, graph, nodes, rebuild, inputs, rough, own)
            for node in nodes:
                gap = next((gaps[v] for v in node.outputs if v in gaps and not gaps[v].ok), None)
                if gap is not None:
                    return Culprit(graph, node, gap)
            done += len(nodes)
    return None


def _chunks(graph: Graph) -> Iterator[Sequence[Node]]:
    part: list[Node] = []
    size = 0
    for node in graph.nodes:
        nbytes = sum(value.type.nbytes for value in (*node.inputs, *node.outputs))
        if part and (len(part) == CHUNK or size + nbytes > BUDGET):
            yield part
            part, size = [], 0
        part.append(node)
        size += nbytes
    if part:
        yield part


def _run_chunk(
    module: Module,
    graph: Graph,
    nodes: Sequence[Node],
    rebuild: Rebuild,
    inputs: Arrays,
    rough: Mapping[Value, float],
    own: dict[Value, NDArray[Any]] | None,
) -> Mapping[Value, Gap]:
    """Build and run a few nodes as a program whose outputs are all their values.

    Each reads what the reference computes; with `own`, what earlier nodes made, and adds to it.
    """
    made = {v for node in nodes if not isinstance(node.op, Reshape) for v in node.outputs}
    read = {value for node in nodes for value in node.inputs}
    right: dict[Value, NDArray[Any]] = {}
    trace(module, inputs, {*read, *made} - set(graph.constants), right.setdefault)
    part, taken, results = _apart(graph, nodes) if own is None else _behind(graph, nodes)
    given = right if own is None else {**right, **own}
    arrays = _execute(part, rebuild, [given[value] for value in taken])
    found = dict(zip(results, arrays, strict=True))
    if own is not None:
        own |= found
        _add_reshapes(nodes, {**given, **own}, own)
    return {
        v: measure(v.hint, right[v], a, v.type.dtype, rebuild.scale, rough.get(v, 0.0))
        for v, a in found.items()
    }


_Part = tuple[Module, Sequence[Value], Sequence[Value]]  # to run; its inputs and outputs in `graph`


def _apart(graph: Graph, nodes: Sequence[Node]) -> _Part:
    """The nodes with nothing between them: what one makes, another takes as an input."""
    work = [node for node in nodes if not isinstance(node.op, Reshape)]
    fresh = {value: Value(value.type, value.hint) for node in work for value in node.outputs}
    renamed = (replace(node, outputs=tuple(fresh[v] for v in node.outputs)) for node in work)
    read = dict.fromkeys(value for node in work for value in node.inputs)
    return _part(graph, tuple(renamed), read, fresh), *_ends(graph, read, fresh)


def _behind(graph: Graph, nodes: Sequence[Node]) -> _Part:
    """The nodes one behind the other."""
    made = {v: v for node in nodes if not isinstance(node.op, Reshape) for v in node.outputs}
    inside = {value for node in nodes for value in node.outputs}
    read = dict.fromkeys(v for node in nodes for v in node.inputs if v not in inside)
    return _part(graph, tuple(nodes), read, made), *_ends(graph, read, made)


def _part(
    graph: Graph, nodes: tuple[Node, ...], read: Mapping[Value, None], made: Mapping[Value, Value]
) -> Module:
    constants = {value: item for value, item in graph.constants.items() if value in read}
    taken = tuple(value for value in read if value not in constants)
    return module_of(Graph(graph.name, taken, nodes, tuple(made.values()), constants))


def _ends(
    graph: Graph, read: Mapping[Value, None], made: Mapping[Value, Value]
) -> tuple[Sequence[Value], Sequence[Value]]:
    return [value for value in read if value not in graph.constants], list(made)


def _add_reshapes(
    nodes: Sequence[Node],
    known: dict[Value, NDArray[Any]],
    own: dict[Value, NDArray[Any]],
) -> None:
    """No kernel makes what a reshape gives: the same bytes."""
    for node in nodes:
        if isinstance(node.op, Reshape) and node.inputs[0] in known:
            known[node.output] = own[node.output] = known[node.inputs[0]].reshape(node.output.shape)


def _execute(
    module: Module, rebuild: Rebuild, inputs: Sequence[NDArray[Any]]
) -> list[NDArray[Any]]:
    from optc.autotune.choice import Locked
    from optc.backends.aot.package import write_artifact
    from optc.backends.assemble import assemble
    from optc.backends.tvm.builder import kernel_builder
    from optc.backends.tvm.kernel import KernelBuilder

    target = rebuild.target
    builder = kernel_builder(target)
    if isinstance(builder, KernelBuilder):
        builder.choose = Locked(rebuild.knobs, target)
    program = assemble(module, lambda jobs: builder.build(jobs, lambda done: None), target)
    with tempfile.TemporaryDirectory(prefix="optc-diff-") as folder:
        written = write_artifact(program, Path(folder, "part"), cache=rebuild.cache)
        with load(written.path, threads=target.cores) as artifact:
            names = [port.name for port in artifact.inputs]
            return list(call(artifact, dict(zip(names, inputs, strict=True))).values())
