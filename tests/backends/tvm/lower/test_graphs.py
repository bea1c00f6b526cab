"""Differential test: whole random graphs, each lowered into one kernel, against the reference."""

from __future__ import annotations

import pytest

from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.ops import Task, ew
from optc.ir.text import print_graph
from optc.ir.types import TensorType
from tests.backends.tvm.bodies import check_against_reference
from tests.backends.tvm.loaded import Loaded
from tests.strategies.graphs import Case, graphs
from tests.strategies.instances import sample

SHARES = 5
CASES = 100


@pytest.mark.parametrize("share", range(SHARES))
def test_random_graphs_agree_with_the_reference(share: int) -> None:
    cases = sample(graphs(), CASES)[share::SHARES]
    kernels = Loaded([case.graph for case in cases])
    for number, case in enumerate(cases):
        inputs = case.inputs()
        try:
            check_against_reference(case.graph, inputs, kernels(number, inputs))
        except AssertionError as problem:
            raise AssertionError(f"{print_graph(case.graph)}\n{problem}") from None


def test_graphs_are_worth_the_time() -> None:
    """The generator reaches chains, joins and halves, or the test above would prove little."""
    cases = sample(graphs(), CASES)
    assert sum(len(case.graph.nodes) >= 4 for case in cases) >= CASES // 4
    assert len({type(node.op) for case in cases for node in case.graph.nodes}) >= 30
    assert {DType.F32, DType.F16, DType.BF16} <= {dtype_of(case) for case in cases}


def dtype_of(case: Case) -> DType:
    return case.graph.inputs[0].type.dtype


def test_a_task_inside_a_task_is_its_nodes() -> None:
    inner = chain("inner", ew.Exp(), ew.Tanh())
    builder = Builder("outer")
    x = builder.input(TensorType((3, 5), DType.F32))
    (y,) = builder.emit_all(Task(inner), x)
    graph = builder.build([builder.emit(ew.Neg(), y)])
    inputs = Case(graph, (sample(graphs(), 1)[0].values[0],), 1).inputs()
    check_against_reference(graph, inputs, Loaded([graph])(0, inputs))


def chain(name: str, *ops: ew.Unary) -> Graph:
    builder = Builder(name)
    value = builder.input(TensorType((3, 5), DType.F32))
    for op in ops:
        value = builder.emit(op, value)
    return builder.build([value])
