"""What a pass is: a frozen dataclass whose fields are its options, and one method.

Contract: `run` gets a verified module and returns a module that verifies; it returns the same
object when it changed nothing; it sees nothing but its arguments.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Protocol

from optc.ir.constant import Constant
from optc.ir.diagnostics import (
    NOWHERE,
    Diagnostic,
    InternalError,
    Loc,
    OptcError,
    Severity,
    error,
)
from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.module import Module
from optc.ir.ops.base import Op
from optc.ir.printer import literal, print_module
from optc.ir.targets.target import Target
from optc.ir.verify import verify
from optc.passes.calibration import Calibration
from optc.passes.lineage import Lineage
from optc.passes.quality import Judge

if TYPE_CHECKING:
    from optc.passes.early_exit.plan import ExitPlan


class Effect(Enum):
    """What a pass may do to the numbers."""

    EXACT = "exact"  # the same bits
    ROUNDING = "rounding"  # the same formula over the reals
    LOSSY = "lossy"  # another function, within a budget


# Whether the backend makes one good kernel of a task body, some inputs of which are constants:
# None, or the reason why not.
Accepts = Callable[[Graph, frozenset[int]], str | None]
# Whether the backend has any kernel for an op, good or not.
Supports = Callable[[Op], bool]
# Modelled seconds of a kernel: operations, bytes read, bytes written, and the dtype it computes in.
Latency = Callable[[int, int, int, DType], float]
# Measured seconds of the kernels of each graph; or why the target's cannot be run here.
Stopwatch = Callable[[Sequence[Graph]], "Sequence[float] | str"]
# The outputs of a graph for constant inputs: what constant folding computes with.
Evaluate = Callable[[Graph, Sequence[Constant]], Sequence[Constant]]


@dataclass(frozen=True, eq=False)
class PassContext:
    """All that a pass may see besides the module."""

    target: Target
    exact: bool = False  # drop passes that are not EXACT
    seed: int = 0
    accepts: Accepts | None = None
    supports: Supports | None = None  # without it every op counts as supported
    evaluate: Evaluate | None = None
    diagnostics: list[Diagnostic] = field(default_factory=list)
    observers: tuple[Observer, ...] = ()  # a pass made of passes runs these around each of them
    calibration: Calibration | None = None  # the user's data, where there is any
    latency: Latency | None = None  # of the target, the same in every compilation
    stopwatch: Stopwatch | None = None  # for passes that are asked to measure
    judge: Judge | None = None  # the user's metric, or agreement with the original
    exits: list[ExitPlan] = field(default_factory=list)  # what passes decided, for the reports
    lineage: Lineage = field(default_factory=Lineage)  # what passes removed, for those that mend
    _noted: set[Diagnostic] = field(default_factory=set, init=False)  # those in `diagnostics`

    def remark(self, code: str, message: str, loc: Loc = NOWHERE) -> None:
        """Say why something was or was not done; equal remarks are kept once."""
        self._note(Diagnostic(code, message, Severity.REMARK, loc))

    def warn(self, code: str, message: str, loc: Loc = NOWHERE, help: str = "") -> None:
        """Say what the user should know before they use the result; equal warnings once."""
        self._note(Diagnostic(code, message, Severity.WARNING, loc, help=help))

    def _note(self, finding: Diagnostic) -> None:
        # Contexts may share the list: what others noted since is learnt here.
        self._noted.update(self.diagnostics[len(self._noted) :])
        if finding not in self._noted:
            self._noted.add(finding)
            self.diagnostics.append(finding)

    def needed_calibration(self, asked_by: str) -> Calibration:
        """The calibration service; raises E0134, which names who asked, when there is no data."""
        if self.calibration is None:
            raise error("E0134", f"{asked_by} needs calibration data", help="--data calib.npz")
        return self.calibration

    def needed_judge(self, asked_by: str) -> Judge:
        """The judge of candidates; raises E0134, which names who asked, when there is no data."""
        if self.judge is None:
            raise error(
                "E0134", f"{asked_by} measures quality and needs data", help="--data calib.npz"
            )
        return self.judge


@dataclass(frozen=True)
class Pass(ABC):
    """Base of all passes. Fields are options, spelled `name{option=value}` on the command line."""

    name: ClassVar[str]
    effect: ClassVar[Effect]
    composite: ClassVar[bool] = False  # made of passes, which are observed and dropped one by one

    @property
    def saves_bytes(self) -> bool:
        """Whether it is told to rather save bytes than time: kernels then do not undo it."""
        return False

    @abstractmethod
    def run(self, module: Module, ctx: PassContext) -> Module:
        """The transformed module; the same object when there was nothing to do."""

    def __str__(self) -> str:
        options = [
            f"{option.name}={literal(getattr(self, option.name))}"
            for option in dataclasses.fields(self)
            if getattr(self, option.name) != option.default
        ]
        return f"{self.name}{{{','.join(options)}}}" if options else self.name


class Observer(Protocol):
    """Watches a pipeline: timing, dumps, changes, numeric checks."""

    def before(self, step: Pass, module: Module) -> None:
        """Called before a pass runs."""

    def after(self, step: Pass, before: Module, after: Module) -> None:
        """Called after a pass ran and its result was verified."""


class PassFailure(InternalError):
    """A pass raised, or broke the module. Holds what reproduces it: the input and the pipeline."""

    def __init__(self, step: Pass, module: Module, reason: str) -> None:
        self.step = step
        self.reproducer = f"// optc opt - -p '{step}'\n{print_module(module)}"
        super().__init__(f"pass {step} failed: {reason}")


def run_passes(
    module: Module, passes: Sequence[Pass], ctx: PassContext, observers: Sequence[Observer] = ()
) -> Module:
    """Run passes in order, verifying after each; raises PassFailure for our own mistakes."""
    ctx = replace(ctx, observers=(*ctx.observers, *observers)) if observers else ctx
    for step in passes:
        if ctx.exact and step.effect is not Effect.EXACT and not step.composite:
            continue
        watchers = () if step.composite else ctx.observers
        for observer in watchers:
            observer.before(step, module)
        result = _run_one(step, module, ctx)
        for observer in watchers:
            observer.after(step, module, result)
        module = result
    return module


def _run_one(step: Pass, module: Module, ctx: PassContext) -> Module:
    try:
        result = step.run(module, ctx)
    except (OptcError, InternalError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as problem:
        raise PassFailure(step, module, f"{type(problem).__name__}: {problem}") from problem
    if result is module:
        return module
    findings = verify(result)
    if findings:
        raise PassFailure(step, module, "\n".join(map(str, findings[:5])))
    return result
