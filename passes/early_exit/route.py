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
from optc.ir.module import ExitIf, Flow, Module, Run, State
from optc.passes.early_exit.decision import Decision, add_decision
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

    Raises E0767 for models with other inputs or outputs, with exits or with states.
    """
    check_pair(small, large, route.output)
    port = next(port for port in large.outputs if port.name == route.output)
    builder = Builder("decide")
    logits, threshold = builder.input(port.type, "logits"), builder.input(THRESHOLD, "threshold")
    sure = add_decision(builder, route.decision, logits, threshold, route.temperature)
    decide = builder.build([sure])
    first, first_run, answers = _renamed(small, NAME)
    second, second_run, _ = _renamed(large, "large")
    parameter = f"{NAME}.threshold"
    steps = (
        first_run,
        Run(decide.name, (answers[route.output], parameter), (NAME,)),
        ExitIf(NAME, tuple(answers[port.name] for port in large.outputs)),
        second_run,
    )
    state = State(parameter, splat(route.threshold, THRESHOLD))
    return replace(large, states=(state,), graphs=(first, decide, second), flow=Flow(steps))


def check_pair(small: Module, large: Module, output: str) -> None:
    """Raise E0767 where the models cannot stand for one another."""
    for kind in ("inputs", "outputs"):
        mine, theirs = getattr(small, kind), getattr(large, kind)
        if mine != theirs:
            text = "; ".join(f"{port.name}: {port.type}" for port in mine)
            other = "; ".join(f"{port.name}: {port.type}" for port in theirs)
            raise error("E0767", f"the small model's {kind} are {text}, the large one's {other}")
    for module in (small, large):
        if len(module.flow.steps) != 1 or module.states:
            raise error("E0767", f"{module.name} has exits or states: it cannot be routed")
    types = {port.name: port.type for port in large.outputs}
    scores = types.get(output)
    if scores is None or len(scores.shape) != 2 or scores.shape[1] < 2 or not scores.dtype.is_float:
        found = "nothing" if scores is None else str(scores)
        raise error("E0767", f"class scores of shape rows x classes decide, {output} is {found}")


def _renamed(module: Module, name: str) -> tuple[Graph, Run, Mapping[str, str]]:
    """The module's graph and run under another name, and the variables of its outputs.

    Outputs of the large model keep their names: they are the end's.
    """
    (graph,), (run,) = module.graphs, module.flow.runs
    made = {output: f"{name}.{output}" if name == NAME else output for output in run.outputs}
    outputs = tuple(made[output] for output in run.outputs)
    returned = {port.name: made.get(port.name, port.name) for port in module.outputs}
    return replace(graph, name=name), replace(run, graph=name, outputs=outputs), returned
