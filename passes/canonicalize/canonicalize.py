"""The clean-up that runs between all other stages, until it finds nothing more to do."""

from __future__ import annotations

from dataclasses import dataclass

from optc.ir.module import Module
from optc.passes.base import Effect, Pass, PassContext, run_passes
from optc.passes.canonicalize.eliminate_transposes import EliminateTransposes
from optc.passes.canonicalize.fold_batch_norm import FoldBatchNorm
from optc.passes.canonicalize.fold_constants import FoldConstants
from optc.passes.canonicalize.fold_pad import FoldPad
from optc.passes.canonicalize.fold_scale import FoldScale
from optc.passes.canonicalize.matmul_to_linear import MatMulToLinear
from optc.passes.canonicalize.merge_equal import MergeEqual
from optc.passes.canonicalize.remove_dead import RemoveDead
from optc.passes.canonicalize.simplify_arithmetic import SimplifyArithmetic
from optc.passes.canonicalize.simplify_matmul import SimplifyMatMul
from optc.passes.canonicalize.simplify_movement import SimplifyMovement
from optc.passes.canonicalize.simplify_rounding import SimplifyRounding
from optc.passes.canonicalize.simplify_unary import SimplifyUnary

CLEAN: tuple[Pass, ...] = (
    RemoveDead(),  # nothing below should look at what nobody needs
    FoldConstants(),  # so that rules find constants where the model computes them
    MergeEqual(),  # so that rules can compare values by identity
    SimplifyMovement(),
    SimplifyUnary(),
    SimplifyArithmetic(),  # brings constants to the right, which what follows relies on
    SimplifyRounding(),
    EliminateTransposes(),
    SimplifyMatMul(),
    MatMulToLinear(),
    FoldPad(),
    FoldBatchNorm(),
    FoldScale(),  # last: it reads what the folds above leave behind
)


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Clean up: fold, merge, simplify, cancel transposes, fold scales into weights; until stable.

    Each of its passes can be run by itself too. `rounds` bounds the repetition; models need three.
    """

    name = "canonicalize"
    effect = Effect.ROUNDING  # its passes carry their own effects, and are dropped by them
    composite = True
    rounds: int = 10

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module on which none of the passes finds anything to do."""
        for _ in range(self.rounds):
            before = module
            module = run_passes(module, CLEAN, ctx)
            if module is before:
                break
        return module
