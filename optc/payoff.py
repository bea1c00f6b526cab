"""Did each pass pay: what every lossy pass changed, and what that cost.

Quality is judged on some of the calibration part, as the held-out part is for the last word; a run
of `CALLS` batches per pass is what this takes. Latency is a model, where it is not measured (see
`measured_passes`): the roofline of ir/cost on a machine of the target's vectors and cores, its
caches as large as the target says. It is the same in every compilation, and tells which way a pass
goes, not milliseconds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from optc.inspect import inspect_module
from optc.ir.cost import compute_dtype, cost
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Value
from optc.ir.module import Module, Run
from optc.ir.ops import ELEMENTWISE, QUANTIZATION, Dequantize, Reshape
from optc.ir.targets.target import Arch, Target
from optc.passes.base import Effect, Latency, Pass, PassContext
from optc.passes.early_exit.plan import ExitPlan
from optc.passes.precision.integerize import Integerize
from optc.passes.quality import Difference, Judge, Part
from optc.roofline import Level, Limits, Work
from optc.turns import Pair

CYCLES = 2.5e9  # a second; only the proportion to BANDWIDTH matters
FMA_UNITS = 2
BANDWIDTH = {"l1": 64.0, "l2": 32.0, "l3": 10.0, "dram": 4.0}  # bytes a cycle and core
CALLS = 64  # batches that a pass is judged on, spread over the calibration part
FASTER = 0.99  # share of the time or weights from which a pass has made a difference
BETTER = 0.001  # points by which a pass that mends must lessen what is lost


class Verdict(Enum):
    """What a pass was good for."""

    FASTER = "paid: faster"
    SMALLER = "paid: smaller, no faster"
    BETTER = "paid: closer to the original"
    NOTHING = "did not pay"


@dataclass(frozen=True, slots=True)
class State:
    """A module between passes: numbers, and what was lost so far, where there is data."""

    parameters: int
    weight_bytes: int
    macs: int
    seconds: float  # modelled
    lost: Difference | None
    exits: int = 0


@dataclass(frozen=True, slots=True)
class Payoff:
    """One lossy pass that changed something."""

    name: str
    before: State
    after: State
    judging: float  # seconds that judging it took
    expected: float | None = None  # of a pass that added exits: mean work of a call, as a share
    measured: Pair | None = None  # as artifacts, where this machine runs them

    @property
    def latency(self) -> float:
        """Time after over before; where calls may end early, of a call on the average."""
        if self.measured is not None:
            return self.measured.ratio
        if self.expected is not None:
            return self.expected
        return self.after.seconds / self.before.seconds if self.before.seconds else 1.0

    @property
    def drop(self) -> float | None:
        """What this pass lost, in the unit of `Difference.drop`; negative where it won."""
        if self.before.lost is None or self.after.lost is None:
            return None
        return self.after.lost.drop - self.before.lost.drop

    @property
    def verdict(self) -> Verdict:
        """Whether it paid; what is measured is faster where most turns say so."""
        sure = self.measured is None or self.measured.high < 1
        if self.latency < FASTER and sure:
            return Verdict.FASTER
        if self.after.weight_bytes < FASTER * self.before.weight_bytes:
            return Verdict.SMALLER
        won = self.drop is not None and self.drop < -BETTER
        return Verdict.BETTER if won else Verdict.NOTHING


@dataclass
class Payoffs:
    """Measures lossy passes as they run; without a judge not by quality."""

    target: Target
    judge: Judge | None = None
    calls: frozenset[int] | None = None  # of the calibration part; None: all
    plans: Sequence[ExitPlan] = ()  # the context's, which passes that add exits write into
    _last: tuple[Module, State] | None = None

    def of(self, step: Pass, before: Module, after: Module) -> Payoff | None:
        """What a pass changed, if it is judged."""
        if not is_judged(step, before, after):
            return None
        start = time.perf_counter()
        known = self._last is not None and self._last[0] is before
        old = self._last[1] if known and self._last else self._state(before)
        new = self._state(after)
        self._last = (after, new)
        early = new.exits > old.exits and bool(self.plans)
        expected = self.plans[-1].cost if early else None
        return Payoff(str(step), old, new, time.perf_counter() - start, expected)

    def _state(self, module: Module) -> State:
        facts = inspect_module(module)
        lost = None
        if self.judge is not None:
            lost = self.judge.compare(module, Part.CALIBRATION, self.calls)
        seconds = modelled_seconds(module, self.target)
        exits = sum(not isinstance(step, Run) for step in module.flow.steps)
        return State(facts.parameters, facts.weight_bytes, facts.macs, seconds, lost, exits)


def is_judged(step: Pass, before: Module, after: Module) -> bool:
    """Whether a pass is lossy and changed something.

    `integerize` finishes what others quantized: its gain is theirs.
    """
    lossy = step.effect is Effect.LOSSY and not isinstance(step, Integerize)
    return lossy and after is not before


def spread(calls: int) -> frozenset[int] | None:
    """At most `CALLS` of so many batches, evenly; None where that is all of them."""
    return None if calls <= CALLS else frozenset(range(0, calls, -(-calls // CALLS)))


def modelled_seconds(module: Module, target: Target) -> float:
    """The roofline of all nodes; elementwise ones are taken as fused into what they read.

    So are steps between floats and integers; weights are read as they are stored, and quantized
    layers are priced as the layers of integers that they become.
    """
    module = Integerize().run(module, PassContext(target))
    limits = nominal(target)
    runs = Counter(run.graph for run in module.flow.runs)
    return sum(runs[graph.name] * _seconds(graph, limits) for graph in module.graphs)


def modelled_latency(target: Target) -> Latency:
    """The roofline of one kernel, for passes."""
    limits = nominal(target)

    def latency(flops: int, read: int, written: int, dtype: DType) -> float:
        return limits.least(Work(flops, read, written, 0, dtype)).seconds

    return latency


def _seconds(graph: Graph, limits: Limits) -> float:
    stored: dict[Value, int] = {}  # bytes of what is dequantized where it is read
    seconds = 0.0
    for node in graph.nodes:
        if isinstance(node.op, (*ELEMENTWISE, *QUANTIZATION, Reshape)):
            if isinstance(node.op, Dequantize) and all(v in graph.constants for v in node.inputs):
                stored[node.output] = sum(value.type.nbytes for value in node.inputs)
            continue
        price = cost(node)
        saved = sum(v.type.nbytes - stored[v] for v in set(node.inputs) if v in stored)
        read = max(0, price.bytes_read - saved)
        work = Work(price.flops, read, price.bytes_written, 0, compute_dtype(node))
        seconds += limits.least(work).seconds
    return seconds


def nominal(target: Target) -> Limits:
    """A machine like the target, from what is known without measuring it."""
    flops = CYCLES * 2 * FMA_UNITS * target.lanes(DType.F32) * target.cores
    peaks = {"i8": 4 * flops} if target.multiplies_bytes else {}
    if "avx512_bf16" in target.features or target.arch is Arch.CUDA:
        peaks["bf16"] = 2 * flops
    return Limits(target.cores, flops, tuple(_levels(target)), peaks)


def _levels(target: Target) -> Iterator[Level]:
    for space in target.memory:
        if space.name in BANDWIDTH and space.name != "dram":
            shared = 1 if space.name == "l3" else target.cores
            rate = BANDWIDTH[space.name] * CYCLES * target.cores
            yield Level(space.name, space.size * shared, rate)
    yield Level("dram", 1 << 62, BANDWIDTH["dram"] * CYCLES * target.cores)
