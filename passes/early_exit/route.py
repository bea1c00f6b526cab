"""Two models behind one flow: the small one answers where it is sure, else the large one does.

E-LANG (Akbari et al. 2022): the energy of the small model's class scores decides. Nothing is
trained, and both models stay as they are; so a pruned or quantized model can have its original
behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from optc.ir.builder import Builder
from optc.ir.constant import splat
from optc.ir.diagnostics import error
from optc.ir.graph import Graph
from optc.ir.module import ExitIf, Flow, Module, Run, State, Step
from optc.ir.ops import ew
from optc.ir.types import TensorType
from optc.passes.early_exit.decision import Decision, add_decision, row_scores
from optc.passes.early_exit.packing import (
    Packing,
    add_order,
    has_rows,
    packed_steps,
    packing_of,
)
from optc.passes.early_exit.stages import THRESHOLD

NAME = "small"  # the exit that the small model's answer is


@dataclass(frozen=True, slots=True)
class Route:
    """Which output decides, by what, and from which score on the small model's answer counts."""

    output: str
    decision: Decision = Decision.ENERGY
    temperature: float = 1.0
    threshold: float = 0.0


def routed(small: Module, large: Module, route: Route) -> Module:
    """One module that runs `small`, and `large` where it is not sure.

    Where a call of the large model takes fewer rows than one of the small, each row decides for
    itself, and the unsure ones are packed. Raises E0767 for models with other inputs or outputs,
    with exits or with states.
    """
    packing = check_pair(small, large, route.output)
    first, first_run, answers = _renamed(small, NAME)
    parameter = f"{NAME}.threshold"
    port = next(port for port in small.outputs if port.name == route.output)
    decide, names = _deciding(port.type, route, packing)
    given = answers[route.output], parameter
    steps: list[Step] = [first_run, Run(decide.name, given, names)]
    graphs = [first, decide]
    if packing is None:
        second, second_run, _ = _renamed(large, "large")
        steps.append(ExitIf(NAME, tuple(answers[port.name] for port in large.outputs)))
        steps.append(second_run)
        graphs.append(second)
    else:
        second, second_run, _ = _renamed(large, "large")
        behind = replace(large, graphs=(second,), flow=Flow((second_run,)))
        more, packed = packed_steps(behind, packing, dict(answers), names[2:])
        steps += packed
        graphs += [second, *more]
    state = State(parameter, splat(route.threshold, THRESHOLD))
    return replace(
        large,
        inputs=small.inputs,
        outputs=small.outputs,
        states=(state,),
        graphs=tuple(graphs),
        flow=Flow(tuple(steps)),
        returns=None if packing else large.returns,
    )


def _deciding(
    logits: TensorType, route: Route, packing: Packing | None
) -> tuple[Graph, tuple[str, ...]]:
    """The graph between the models, and the variables that it makes."""
    builder = Builder("decide")
    x, threshold = builder.input(logits, "logits"), builder.input(THRESHOLD, "threshold")
    if packing is None:
        sure = add_decision(builder, route.decision, x, threshold, route.temperature)
        return builder.build([sure]), (NAME,)
    score = row_scores(builder, route.decision, x, route.temperature)
    sure = builder.emit(ew.GreaterEqual(), score, threshold, hint="sure")
    order, *done = add_order(builder, sure, packing)
    names = (NAME, *(f"packed_{group}" for group in range(1, packing.groups)))
    return builder.build([sure, order, *done]), ("sure", "order", *names)


def check_pair(small: Module, large: Module, output: str) -> Packing | None:
    """How rows of the small model's calls are packed for the large one; None for equal calls.

    Raises E0767 where the models cannot stand for one another, or `output` is no class scores.
    """
    packing = pairing(small, large)
    for module in (small, large):
        if len(module.flow.steps) != 1 or module.states:
            raise error("E0767", f"{module.name} has exits or states: it cannot be routed")
    types = {port.name: port.type for port in large.outputs}
    scores = types.get(output)
    if scores is None or len(scores.shape) != 2 or scores.shape[1] < 2 or not scores.dtype.is_float:
        found = "nothing" if scores is None else str(scores)
        raise error("E0767", f"class scores of shape rows x classes decide, {output} is {found}")
    return packing


def pairing(small: Module, large: Module) -> Packing | None:
    """As `check_pair`, for models of any outputs."""
    if small.inputs == large.inputs and small.outputs == large.outputs:
        return None
    found = packing_of((*small.inputs, *small.outputs), (*large.inputs, *large.outputs))
    if found is not None and all(has_rows(port, found.size) for port in large.outputs):
        return found
    kind = "inputs" if small.inputs != large.inputs else "outputs"
    mine, theirs = getattr(small, kind), getattr(large, kind)
    text = "; ".join(f"{port.name}: {port.type}" for port in mine)
    other = "; ".join(f"{port.name}: {port.type}" for port in theirs)
    raise error(
        "E0767",
        f"the small model's {kind} are {text}, the large one's {other}",
        help="optc inspect both; where only batches differ, the small model's is a multiple of the "
        "large one's",
    )


def _renamed(module: Module, name: str) -> tuple[Graph, Run, Mapping[str, str]]:
    """The module's graph and run under another name, and the variables of its outputs.

    Outputs of the large model keep their names: they are the end's.
    """
    (graph,), (run,) = module.graphs, module.flow.runs
    made = {output: f"{name}.{output}" if name == NAME else output for output in run.outputs}
    outputs = tuple(made[output] for output in run.outputs)
    returned = {port.name: made.get(port.name, port.name) for port in module.outputs}
    return replace(graph, name=name), replace(run, graph=name, outputs=outputs), returned
