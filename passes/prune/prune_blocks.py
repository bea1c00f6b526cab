"""Structural pruning of depth: whole residual branches, attention and MLP branches, layers.

EvoP (Wu et al. 2025): which blocks to skip is a search problem, as what two blocks cost together is
not what they cost alone. Candidates are run by the reference with the blocks left out; nothing is
compiled before the choice is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optc.ir.cost import total
from optc.ir.diagnostics import error
from optc.ir.graph import Graph, Value
from optc.ir.module import Module
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.prune.blocks import WEIGHTY, Block, blocks_of, without
from optc.passes.prune.search import Choice, Search, Seen, evolutionary, exhaustive, greedy
from optc.passes.quality import Difference, Judge, Part, Scale
from optc.passes.sampling import clustered_calls

MOST = 20_000  # choices that an exhaustive search looks at


@dataclass(frozen=True)
class PruneBlocks(Pass):
    """Remove the k blocks that the model loses least without, judged on the user's data.

    A block is the branch beside a shortcut (attention and MLP apart), or a layer whose input and
    output have one type. `search` is `exhaustive`, `greedy`, or `evolutionary` with `population`
    choices in each of at most `generations`. Each choice is judged on `calls` batches of the
    calibration part, picked from clusters so that they are of all kinds (0: on all of it).
    """

    name = "prune-blocks"
    effect = Effect.LOSSY
    k: int = 1
    search: Search = Search.EVOLUTIONARY
    calls: int = 32
    population: int = 20
    generations: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("k", "calls", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is not negative, as {getattr(self, name)} is")
        for name in ("population", "generations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The shallower module; remarks say which blocks went and what each costs alone.

        Raises E0135 for more blocks than there are, E0136 where no candidate gives numbers.
        """
        genes = tuple((graph, block) for graph in module.graphs for block in blocks_of(graph))
        weighty = any(isinstance(n.op, WEIGHTY) for graph in module.graphs for n in graph.nodes)
        if not self.k or not weighty:
            return module
        if self.k > len(genes):
            raise error(
                "E0135",
                f"{self.name} is asked to remove {self.k} blocks, the model has {len(genes)} that "
                "can go",
                help=f"-p 'prune-blocks{{k={len(genes)}}}'" if genes else "-p prune-channels",
            )
        trial = _Trial(module, genes, ctx.needed_judge(self.name), self._calls(module, genes, ctx))
        chosen = self._search(len(genes), trial)
        if not math.isfinite(trial.cost(chosen)[0]):
            raise error(
                "E0136",
                f"{trial.judge.metric} is not a number for any choice of blocks",
                help="optc eval model.pt2 --data calib.npz",
            )
        for number in sorted(chosen):
            graph, block = genes[number]
            ctx.remark(
                "N0312", f"{_what(block, graph)} removed: {trial.alone(number)}", block.last.loc
            )
        ctx.lineage.begin(module)
        return trial.module_without(chosen)

    def _calls(
        self, module: Module, genes: Sequence[tuple[Graph, Block]], ctx: PassContext
    ) -> frozenset[int] | None:
        """The batches to judge on, chosen by what the last block computes; None: all."""
        if not self.calls or ctx.calibration is None:
            return None
        last: Value = genes[-1][1].end
        return clustered_calls(ctx.calibration, module, last, self.calls, self.seed)

    def _search(self, n: int, trial: _Trial) -> Choice:
        ones = [frozenset({number}) for number in range(n)]
        order = sorted(ones, key=lambda one: (trial.cost(one), sorted(one)))
        if self.k in (1, n):
            return order[0] if self.k == 1 else frozenset(range(n))
        if self.search is Search.EXHAUSTIVE and math.comb(n, self.k) > MOST:
            raise error(
                "E0135",
                f"{self.k} of {n} blocks are {math.comb(n, self.k)} choices, too many to try all",
                help=f"-p 'prune-blocks{{k={self.k},search=evolutionary}}'",
            )
        match self.search:
            case Search.EXHAUSTIVE:
                return exhaustive(n, self.k, trial.cost)
            case Search.GREEDY:
                return greedy(n, self.k, trial.cost)
        cheapest: Choice = frozenset().union(*order[: self.k])
        options = {"population": self.population, "generations": self.generations}
        return evolutionary(n, self.k, trial.cost, **options, seed=self.seed, first=(cheapest,))


class _Trial:
    """Judges a module with some of its blocks left out."""

    def __init__(
        self,
        module: Module,
        genes: Sequence[tuple[Graph, Block]],
        judge: Judge,
        calls: frozenset[int] | None,
    ) -> None:
        self.module, self.genes, self.judge, self.calls = module, genes, judge, calls
        self.cost = Seen(self._cost)
        self._drops: dict[Choice, Difference] = {}

    def module_without(self, choice: Choice) -> Module:
        """The module without the chosen blocks."""
        chosen = [self.genes[number] for number in choice]
        graphs = (
            without(graph, [block for own, block in chosen if own is graph])
            for graph in self.module.graphs
        )
        return self.module.with_graphs(tuple(graphs))

    def _cost(self, choice: Choice) -> tuple[float, float]:
        """What is lost; of equals, the one that computes less."""
        candidate = self.module_without(choice)
        found = self.judge.compare(candidate, Part.CALIBRATION, self.calls)
        self._drops[choice] = found
        operations = sum(total(graph.nodes).flops for graph in candidate.graphs)
        return found.drop, operations

    def alone(self, number: int) -> str:
        """What one block costs without the others, and what it saves."""
        graph, block = self.genes[number]
        only = frozenset({number})
        self.cost(only)
        found = self._drops[only]
        unit = "points" if found.after.scale is Scale.POINTS else "% of the original's"
        share = total(block.nodes).flops / max(1, total(graph.nodes).flops)
        return (
            f"{100 * share:.1f} % of the operations; alone it costs {100 * found.drop:.2f} {unit} "
            f"of {found.after.metric}"
        )


def _what(block: Block, graph: Graph) -> str:
    return f"{block.kind.value} {block.name}" if block.name else block.kind.value
