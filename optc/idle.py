"""Which of the user's passes did nothing: asked for by mistake, or at a place where they cannot.

Most of them say why with a remark, which is shown to those who ask; what a user wrote down and
did not get is said to everyone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from optc.ir.diagnostics import Diagnostic, Severity
from optc.ir.module import Module
from optc.passes.base import Effect, Pass
from optc.passes.precision.equalize_ranges import EqualizeRanges
from optc.passes.precision.smooth_activations import SmoothActivations
from optc.passes.standard import LOWER

SCALING = (EqualizeRanges, SmoothActivations)  # they round, for the sake of passes that lose
STANDARD = frozenset(map(type, LOWER))  # run in any case


@dataclass
class Idle:
    """An observer that notes which of the passes `asked` for changed nothing, and what they said.

    `diagnostics` is the list that passes add to.
    """

    asked: Sequence[Pass]
    diagnostics: Sequence[Diagnostic]
    ran: set[int] = field(default_factory=set)  # identities of passes
    found: list[Diagnostic] = field(default_factory=list)
    _said: int = 0

    def before(self, step: Pass, module: Module) -> None:
        """Note what was said so far; passes that run within one that was asked for do not count."""
        if self._asked(step):
            self._said = len(self.diagnostics)

    def after(self, step: Pass, before: Module, after: Module) -> None:
        """Note a pass that was asked for and changed nothing, unless it warned of that itself."""
        if not self._asked(step):
            return
        self.ran.add(id(step))
        said = self.diagnostics[self._said :]
        warned = any(finding.severity is Severity.WARNING for finding in said)
        if after is before and not warned and _expected(step):
            self.found.append(_nothing(step, said))

    def _asked(self, step: Pass) -> bool:
        return any(step is one for one in self.asked)

    def findings(self) -> tuple[Diagnostic, ...]:
        """W0755 for each pass that changed nothing, or was dropped for the sake of exactness."""
        left_out = [step for step in self.asked if id(step) not in self.ran and _expected(step)]
        return (*self.found, *map(_dropped, left_out))


def _expected(step: Pass) -> bool:
    """Whether a pass is asked for to make a change: clean-up that finds nothing is no news."""
    if type(step) in STANDARD:
        return False
    return step.effect is Effect.LOSSY or isinstance(step, SCALING)


def _nothing(step: Pass, said: Sequence[Diagnostic]) -> Diagnostic:
    reason = f": {said[0].message.removeprefix(f'{step.name}: ')}" if said else " here"
    help = "--remarks" if len(said) > 1 else f"optc passes {step.name}"
    return _warning(f"{step} changed nothing{reason}", help)


def _dropped(step: Pass) -> Diagnostic:
    return _warning(f"--exact leaves out {step}, which may change bits", "optc explain W0755")


def _warning(message: str, help: str) -> Diagnostic:
    return Diagnostic("W0755", message, Severity.WARNING, help=help)
