"""What an op is: a frozen dataclass whose fields are its attributes, and a type rule.

What an op means, costs, couples or lowers to is not here: each of those questions has a table in
the module that owns it, and a contract test walks ops x tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from optc.ir.dtype import DType
from optc.ir.types import TensorType

Types = tuple[TensorType, ...]


class OpError(ValueError):
    """An op refuses its inputs or attributes; the message says what it expected."""


@dataclass(frozen=True, slots=True)
class Op:
    """Base of all ops. `arity` is the number of inputs, as (least, most)."""

    arity: ClassVar[tuple[int, int]] = (1, 1)

    @property
    def name(self) -> str:
        """Spelling in text form: the class name in snake case."""
        return op_name(type(self))

    def infer(self, *inputs: TensorType) -> Types:
        """Types of the outputs for these input types; raises OpError."""
        least, most = self.arity
        if not least <= len(inputs) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise OpError(f"{self.name} takes {wanted} inputs, not {len(inputs)}")
        return self._infer(*inputs)

    def _infer(self, *inputs: TensorType) -> Types:
        raise NotImplementedError


def op_name(cls: type[Op]) -> str:
    """`Conv` -> `conv`, `LayerNorm` -> `layer_norm`, `Log1p` -> `log1p`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()


def require(condition: bool, message: str) -> None:
    """Raise OpError with `message` unless `condition` holds."""
    if not condition:
        raise OpError(message)


def same_dtype(*inputs: TensorType) -> DType:
    """The dtype all inputs share; raises OpError that lists them."""
    dtypes = {item.dtype for item in inputs}
    require(len(dtypes) == 1, f"inputs must share one dtype, not {', '.join(map(str, inputs))}")
    return inputs[0].dtype


def axis_of(axis: int, rank: int) -> int:
    """Check that an axis is counted from the front and inside the rank."""
    require(0 <= axis < rank, f"axis {axis} is outside a tensor of rank {rank}")
    return axis
