"""Early exits: a model that stops where an early head is sure enough of its answer.

Heads behind intermediate layers as in BranchyNet (Teerapittayanon et al. 2016); which, and with
which thresholds, is decided on calibration data with a bound on what it may cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from optc.ir.diagnostics import OptcError, error
from optc.ir.graph import Graph, Value
from optc.ir.module import Module
from optc.ir.names import value_names
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.early_exit.chain import Boundary, boundaries, cone
from optc.passes.early_exit.decision import Decision
from optc.passes.early_exit.heads import poolings
from optc.passes.early_exit.stages import staged
from optc.passes.early_exit.study import Study

LEAST = 0.05  # of all work: an exit that saves less is not worth its head
PLACES = 8  # that are tried where heads must be fitted


@dataclass(frozen=True)
class InsertExits(Pass):
    """Let easy inputs leave early: at most `n` exits, each behind a head that is sure enough.

    A model that returns several outputs of one type has heads of its own, and the last counts; else
    heads are fitted to single values on the model's way, or to those that `at` names. `decision`
    is what makes a head sure. Thresholds are chosen on calibration data so that the accuracy budget
    (1 % without one) holds with a probability of 1 - `risk`; they can be changed when the model
    runs. What passes before this one lost counts; `share` of the budget is for all of them, the
    rest for passes behind. A call with several rows leaves where every row is sure.
    """

    name = "insert-exits"
    effect = Effect.LOSSY
    n: int = 2
    at: tuple[str, ...] = ()
    decision: Decision = Decision.MAXPROB
    risk: float = 0.05
    share: float = 1.0

    def run(self, module: Module, ctx: PassContext) -> Module:
        """Cut the module into stages; the same object where no exit holds the budget."""
        if not any(graph.nodes for graph in module.graphs) or module.flow.exits:
            return module
        if self.n < 1 or not 0 < self.risk < 1 or not 0 < self.share <= 1:
            raise error("E0760", f"{self} asks for nothing", help="insert-exits{n=2,risk=0.05}")
        judge = ctx.needed_judge(self.name)
        graph, result = judged(module, judge.output)
        own = self._own(module, graph, result)
        places = own or self._places(graph, result, ctx)
        if not places:
            return module
        study = Study(
            module, graph, result, places, bool(own), self.decision, ctx, self.risk, self.share
        )
        choice = study.choose(self.n)
        if choice is None:
            return module
        exits = study.exits(choice)
        return staged(module, study.graph, exits, study.returned)

    def _own(self, module: Module, graph: Graph, result: Value) -> Sequence[Boundary]:
        """The model's own early heads; raises E0761 where the judged output is one of them."""
        if self.at:
            return ()
        heads = own_heads(module, graph, result)
        work = {name: len(cone(graph, (value,))) for name, value in heads.items()}
        last = max(work, key=lambda name: work[name], default="")
        if last and work[last] > len(cone(graph, (result,))):
            raise error(
                "E0761",
                f"{last} has more of the model before it than the output that is judged",
                help=f"--metric accuracy@{last}",
            )
        found = [Boundary(value, 0.0) for value in heads.values()]
        if found and self.n > len(found):
            raise _too_many(self.n, len(found))
        return sorted(found, key=lambda place: len(cone(graph, (place.value,))))

    def _places(self, graph: Graph, result: Value, ctx: PassContext) -> Sequence[Boundary]:
        """Values that heads can be fitted to, at most `PLACES`, evenly over the work saved."""
        found = boundaries(graph, result, ctx.target)
        rows = result.shape[0]
        if self.at:
            return [_named(graph, name, rows) for name in dict.fromkeys(self.at)]
        names = value_names(graph)
        fit = []
        for place in found:
            loc = graph.producer[place.value].loc
            if place.saved < LEAST:
                text = f"no exit behind {names[place.value]}: it would save {place.saved:.0%}"
                ctx.remark("N0341", text, loc)
            elif place.value.shape[:1] == (rows,) and poolings(place.value):
                fit.append(place)
        if not fit:
            ctx.remark("N0341", "no exit: no single value on the way has enough work behind it")
        elif self.n > len(fit):
            raise _too_many(self.n, len(fit))
        wanted = [1 - (i + 1) / (PLACES + 1) for i in range(PLACES)]
        near = [min(fit, key=lambda place: abs(place.saved - share)) for share in wanted if fit]
        return [place for place in fit if place in near]


def judged(module: Module, output: str) -> tuple[Graph, Value]:
    """The module's only graph and the class scores in it; raises E0762 where there are none."""
    if len(module.graphs) != 1 or len(module.flow.steps) != 1:
        raise error("E0762", "the module has several graphs already: exits go into one")
    (run,) = module.flow.runs
    changed = [state.name for state in module.states if state not in module.parameters]
    if changed:
        raise error("E0762", f"the model keeps {', '.join(changed)} from call to call: a call that "
                    "leaves early would not update it")  # fmt: skip
    (graph,) = module.graphs
    value = dict(zip(run.outputs, graph.outputs, strict=True)).get(output)
    scores = value is not None and len(value.shape) == 2 and value.shape[1] > 1
    if value is None or not scores or not value.type.dtype.is_float or value not in graph.producer:
        found = "nothing" if value is None else str(value.type)
        raise error(
            "E0762",
            f"exits need class scores of shape rows x classes, {output} is {found}",
            help="--metric accuracy@OUTPUT chooses another output",
        )
    return graph, value


def own_heads(module: Module, graph: Graph, result: Value) -> Mapping[str, Value]:
    """Other outputs of the result's type that nodes compute, by name."""
    (run,) = module.flow.runs
    pairs = zip(run.outputs, graph.outputs, strict=True)
    return {
        name: value
        for name, value in pairs
        if value is not result and value.type == result.type and value in graph.producer
    }


def _named(graph: Graph, name: str, rows: int) -> Boundary:
    known = {text: value for value, text in value_names(graph).items() if value in graph.producer}
    if name not in known:
        near = get_close_matches(name, known, 3, 0.4)
        offer = f"; the nearest are {', '.join(near)}" if near else ""
        raise error("E0763", f"no value is called {name}{offer}", help="optc inspect model.pt2")
    value = known[name]
    if value.shape[:1] != (rows,) or not poolings(value) or not value.type.dtype.is_float:
        raise error("E0763", f"{name} is {value.type}: a head needs floats, first axis {rows} rows")
    return Boundary(value, 0.0)


def _too_many(wanted: int, places: int) -> OptcError:
    return error(
        "E0760",
        f"{wanted} exits are asked for, the model has {places} places for one",
        help=f"insert-exits{{n={places}}}",
    )
