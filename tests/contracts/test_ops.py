"""What every op of the catalogue has: a meaning, a cost, a lowering, and proof that they agree."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from optc.backends.reference.dtypes import TORCH_DTYPE
from optc.backends.reference.evaluate import MEANING
from optc.backends.tvm.lower.table import LOWER
from optc.ir.cost import FLOPS, cost
from optc.ir.dtype import DType
from optc.ir.graph import Node, Value
from optc.ir.ops import OPS, Op, Task
from optc.passes.prune.coupling import COUPLING
from tests.backends.tvm.bodies import body_of
from tests.backends.tvm.loaded import Loaded
from tests.strategies.instances import MAKERS, Instance, instances, sample
from tests.strategies.values import closeness

TABLES: Mapping[str, Mapping[type[Op], object]] = {
    "the reference": MEANING,
    "cost": FLOPS,
    "lowering": LOWER,
    "coupling": COUPLING,
    "test instances": MAKERS,
}
# (table, op) -> why it may be missing there.
OPT_OUT: Mapping[tuple[str, type[Op]], str] = {
    ("test instances", Task): "test_graphs.py draws whole bodies",
}
GENERATED = [kind for kind in OPS if kind in MAKERS]
EXAMPLES = 6


@pytest.mark.parametrize("name", TABLES)
def test_every_op_has_an_entry_or_a_reason(name: str) -> None:
    missing = {kind for kind in OPS if kind not in TABLES[name]}
    assert missing == {kind for table, kind in OPT_OUT if table == name}


@pytest.mark.parametrize("name", TABLES)
def test_tables_know_no_op_outside_the_catalogue(name: str) -> None:
    assert set(TABLES[name]) <= set(OPS)


@pytest.mark.parametrize("kind", GENERATED, ids=lambda kind: kind.__name__)
def test_the_reference_gives_the_inferred_types(kind: type[Op]) -> None:
    for instance in sample(instances(kind), 3 * EXAMPLES):
        found = [(tuple(item.shape), item.dtype) for item in meaning(instance)]
        types = instance.op.infer(*instance.types)
        assert found == [(type.shape, TORCH_DTYPE[type.dtype]) for type in types], str(instance)


@pytest.mark.parametrize("kind", GENERATED, ids=lambda kind: kind.__name__)
def test_costs_are_sound(kind: type[Op]) -> None:
    for instance in sample(instances(kind), EXAMPLES):
        outputs = instance.op.infer(*instance.types)
        found = cost(Node(instance.op, values(instance.types), values(outputs)))
        assert found.flops >= 0
        assert found.bytes_read <= sum(type.nbytes for type in instance.types)
        assert found.bytes_written <= sum(type.nbytes for type in outputs)


@pytest.mark.parametrize("kind", GENERATED, ids=lambda kind: kind.__name__)
def test_kernels_agree_with_the_reference(kind: type[Op]) -> None:
    drawn = sample(instances(kind), EXAMPLES)
    kernels = Loaded([body_of(item.op, item.types) for item in drawn])
    for number, instance in enumerate(drawn):
        found = kernels(number, instance.inputs())
        for ours, wanted in zip(found, meaning(instance), strict=True):
            torch.testing.assert_close(
                ours, wanted, equal_nan=True, msg=explained(instance), **tolerance(instance, wanted)
            )


def meaning(instance: Instance) -> tuple[Tensor, ...]:
    """What the reference computes."""
    result = MEANING[type(instance.op)](instance.op, *instance.inputs())
    return result if isinstance(result, tuple) else (result,)


def values(types: tuple) -> tuple[Value, ...]:
    """A value of each type."""
    return tuple(Value(type) for type in types)


def tolerance(instance: Instance, wanted: Tensor) -> dict[str, float]:
    """As close as sums over the largest input can be; integers and bools exactly."""
    if not wanted.is_floating_point():
        return {"rtol": 0.0, "atol": 0.0}
    dtype = next(item for item in DType if TORCH_DTYPE[item] is wanted.dtype)
    return closeness(dtype, max(type.elements for type in instance.types))


def explained(instance: Instance):  # type: ignore[no-untyped-def]
    """Adds the instance to torch's message."""
    return lambda message: f"{instance}\n{message}"
