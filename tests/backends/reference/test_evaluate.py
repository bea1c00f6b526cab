"""Evaluation: modules with state, freeing, halves, constants, and gradients through every op."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor

from optc.backends.reference.dtypes import to_tensor
from optc.backends.reference.evaluate import MEANING, run, run_graph
from optc.ir.builder import Builder
from optc.ir.constant import constant, from_floats, splat
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node
from optc.ir.module import Flow, Module, Port, Run, State, module_of
from optc.ir.ops import Attention, AvgPool, Conv, Lstm, Op, Softmax, Task, ew
from optc.ir.types import TensorType, parse_type
from tests.strategies.instances import Instance, instances, sample

F32 = DType.F32


def counter() -> Module:
    """Adds its input to a state, and gives the state's new value."""
    builder = Builder("step")
    x, old = builder.input(parse_type("2xf32"), "x"), builder.input(parse_type("2xf32"), "old")
    graph = builder.build([builder.emit(ew.Add(), x, old)])
    state = State("sum", constant(np.array([1, 2], np.float32)))
    flow = Flow((Run("step", ("x", "sum"), ("sum",)),))
    ports = (Port("x", parse_type("2xf32")),), (Port("sum", parse_type("2xf32")),)
    return Module("counter", *ports, (state,), (graph,), flow)


def test_states_start_as_declared_and_go_from_call_to_call() -> None:
    module, x = counter(), torch.tensor([10.0, 20.0])
    first = run(module, {"x": x})
    second = run(module, {"x": x}, first.states)
    assert first.outputs["sum"].tolist() == [11, 22]
    assert second.outputs["sum"].tolist() == [21, 42]
    assert second.states["sum"].tolist() == [21, 42]


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(2, dtype=torch.int64)])
def test_an_input_of_another_type_is_refused(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match=r"input x is \(2,\) of torch.float32"):
        run(counter(), {"x": wrong})


def test_values_are_freed_after_their_last_use() -> None:
    builder = Builder()
    value = builder.input(parse_type("8xf32"))
    for _ in range(4):
        value = builder.emit(ew.Exp(), value)
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def observe(_: Node, outputs: tuple[Tensor, ...]) -> None:
        nonlocal most
        alive.extend(weakref.ref(item) for item in outputs)
        gc.collect()
        most = max(most, sum(item() is not None for item in alive))

    run_graph(builder.build([value]), [torch.zeros(8)], observe=observe)
    assert len(alive) == 4
    assert most == 2


def test_a_graph_may_give_back_inputs_and_constants() -> None:
    builder = Builder()
    x, c = builder.input(parse_type("2xf32")), builder.constant(np.array([3, 4], np.float32))
    found = run_graph(builder.build([x, c, x]), [torch.tensor([1.0, 2.0])])
    assert [item.tolist() for item in found] == [[1, 2], [3, 4], [1, 2]]


def test_constants_share_memory_and_bf16_keeps_its_bits() -> None:
    array = np.arange(4, dtype=np.float32)
    array.flags.writeable = False
    assert to_tensor(constant(array)).data_ptr() == array.ctypes.data
    half = from_floats(np.array([1.0, 1 / 3]), DType.BF16)
    assert torch.equal(to_tensor(half), torch.tensor([1.0, 1 / 3]).bfloat16())
    assert to_tensor(splat(0.1, TensorType((2, 3), DType.BF16))).shape == (2, 3)


def test_halves_are_rounded_once_per_op() -> None:
    x = torch.tensor([1.0, 2.0**-9, 2.0**-9, 2.0**-9], dtype=torch.bfloat16)
    y = MEANING[Softmax](Softmax(0), x)
    assert isinstance(y, Tensor)
    assert torch.equal(y, torch.softmax(x.float(), 0).bfloat16())


def test_i4_wraps() -> None:
    builder = Builder()
    x = builder.input(TensorType((3,), DType.I4))
    graph = builder.build([builder.emit(ew.Add(), x, x)])
    (found,) = run_graph(graph, [torch.tensor([7, -8, 3], dtype=torch.int8)])
    assert found.tolist() == [-2, 0, 6]


def test_a_row_that_sees_nothing_gives_zero_and_zero_gradient() -> None:
    q, k, v = (torch.randn(1, 2, 3, requires_grad=True) for _ in range(3))
    mask = torch.tensor([[True, False], [False, False]])
    y = MEANING[Attention](Attention(), q, k, v, mask)
    assert isinstance(y, Tensor)
    assert torch.equal(y[0, 1], torch.zeros(3))
    y.sum().backward()
    assert all(torch.isfinite(item.grad).all() for item in (q, k, v))


def test_a_task_is_its_body() -> None:
    body = body_of(ew.Exp(), "3xf32")
    graph = body_of(Task(body), "3xf32")
    x = torch.tensor([0.0, 1.0, 2.0])
    assert torch.equal(run_graph(graph, [x])[0], x.exp())
    assert run(module_of(graph), {"x": x}).outputs.keys() == {"task"}


def body_of(op: Op, *types: str) -> Graph:
    builder = Builder("body")
    return builder.build(builder.emit_all(op, *(builder.input(parse_type(t)) for t in types)))


@pytest.mark.parametrize(
    "kind", [Conv, Lstm, Attention, Softmax, ew.Gelu], ids=lambda k: k.__name__
)
def test_gradients_reach_every_float_input(kind: type[Op]) -> None:
    floats = instances(kind).filter(lambda item: item.types[0].dtype.is_float)
    for instance in sample(floats, 4):
        inputs = [differentiable(item, instance) for item in instance.inputs()]
        result = MEANING[kind](instance.op, *inputs)
        outputs = result if isinstance(result, tuple) else (result,)
        sum(item.float().sum() for item in outputs).backward()
        assert all(item.grad is not None for item in inputs if item.requires_grad), str(instance)


def differentiable(item: Tensor, instance: Instance) -> Tensor:
    return item.requires_grad_() if item.is_floating_point() else item


@pytest.mark.parametrize("low", [0, 2])
@pytest.mark.parametrize("counted", [(0, 0), (2, 1)])
def test_a_window_over_everything_is_the_sum_of_what_is_there(
    low: int, counted: tuple[int, int]
) -> None:
    """Models write enormous kernels for `all of it`: the padding they need is never made."""
    counted = (min(low, counted[0]), counted[1])
    wide = AvgPool(
        (100_000, 3), (100_000, 1), ((low, 99_990 - low + 5), (0, 0)), (1, 1), False,
        (counted, (0, 0)),
    )  # fmt: skip
    x = torch.randn(2, 3, 6, 3, dtype=torch.float64)
    found = MEANING[AvgPool](wide, x)
    assert isinstance(found, torch.Tensor)
    places = 3 * (6 + sum(counted))
    torch.testing.assert_close(found, x.sum((2, 3), keepdim=True) / places)
