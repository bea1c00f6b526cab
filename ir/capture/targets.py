"""What a graph may call: ATen and custom operators, and arithmetic of dimensions. Nothing else."""

from __future__ import annotations

import math
import operator
from pathlib import Path

import torch
from torch import fx
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import ExportedProgram

from optc.ir.diagnostics import error

ARITHMETIC = frozenset(
    {
        *(operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod),
        *(operator.truediv, operator.pow, operator.neg, operator.pos, operator.getitem),
        *(operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge),
        *(operator.and_, operator.or_, operator.not_, operator.lshift, operator.rshift),
        *(math.ceil, math.floor, math.trunc, math.sqrt, abs, max, min, round, pow, int, float),
        # sym_max, sym_float, _sym_sqrt and the like: torch's arithmetic of dimensions.
        *(item for name, item in vars(torch).items() if name.lstrip("_").startswith("sym_")),
    }
)


def check_targets(path: Path, program: ExportedProgram) -> None:
    """Raise E0205 when a file's graph calls anything that is not an operator."""
    for module in program.graph_module.modules():
        if not isinstance(module, fx.GraphModule):
            continue
        for node in module.graph.nodes:
            if node.op == "call_function" and not is_operator(node.target):
                raise error(
                    "E0205",
                    f"{path} calls {node.target}, which is no operator",
                    help="the file was not written by torch.export.save; do not trust it",
                )


def is_operator(target: object) -> bool:
    """True for operators and for the arithmetic of dimensions."""
    if isinstance(target, OpOverload | HigherOrderOperator):
        return True
    return callable(target) and target in ARITHMETIC
