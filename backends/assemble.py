"""From a fused module to a Program: kernels, weights in the layout they want, and addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.backends.device import PREAMBLE
from optc.backends.gathers import gathers
from optc.backends.halves import fits
from optc.backends.indexable import refuse_unreachable
from optc.backends.kernel import BuildKernels, Kernel, PackLike
from optc.backends.pending import Pending, PendingExit, PendingSegment, resolved, resolved_step
from optc.backends.program import (
    DeviceCode,
    Operand,
    Port,
    Program,
    RunSegment,
    Space,
    StateSlot,
    Weight,
    align,
)
from optc.backends.storage import Root, held, label_of, place
from optc.backends.works import Work, works_of
from optc.ir import module as ir
from optc.ir.constant import Constant
from optc.ir.dtype import DType
from optc.ir.graph import Node, Value
from optc.ir.module import Module, Run
from optc.ir.structure import tree
from optc.ir.targets.target import Arch, Target
from optc.ir.types import TensorType
from optc.passes.memory.joins import aliases, joins_of, origin


def assemble(
    module: Module, build: BuildKernels, target: Target, metadata: Mapping[str, str] | None = None
) -> Program:
    """Build the kernels of a fused module and lay out all its bytes."""
    works = {graph.name: works_of(graph) for graph in module.graphs}
    jobs = {work.key: work.job for items in works.values() for work in items}
    refuse_unreachable(jobs.values())
    kernels = dict(zip(jobs, build(tuple(jobs.values())), strict=True))
    assembly = _Assembly(module, works, kernels)
    segments, flow = assembly.segments()
    arena = place(assembly.roots)
    by_symbol = {kernel.symbol: kernel for kernel in kernels.values()}
    ordered = [by_symbol[symbol] for symbol in sorted(by_symbol)]
    return Program(
        name=module.name,
        inputs=tuple(Port(p.name, p.type.shape, p.type.dtype) for p in module.inputs),
        outputs=tuple(Port(p.name, p.type.shape, p.type.dtype) for p in module.outputs),
        segments=tuple(resolved(segment) for segment in segments),
        flow=tuple(resolved_step(step) for step in flow),
        objects=tuple(kernel.object for kernel in ordered if kernel.object),
        device=_device_code(ordered, target),
        triple=target.triple,
        cpu=target.cpu,
        features=target.features,
        arena_bytes=arena,
        weights=assembly.weights.blocks(),
        states=assembly.slots,
        output_tree=tree(module.returns, [port.name for port in module.outputs].index),
        metadata=dict(metadata or {}),
        gathers=gathers(jobs, kernels),
        held=held(assembly.roots),
        steps=tuple(assembly.steps.get(time, "") for time in range(assembly.time)),
    )


def _device_code(kernels: Sequence[Kernel], target: Target) -> DeviceCode | None:
    if target.arch is not Arch.CUDA:
        return None
    return DeviceCode(target.cpu, "\n".join([PREAMBLE, *(kernel.source for kernel in kernels)]))


@dataclass(eq=False, slots=True)
class _Weights:
    """Packed constants, each stored once for its content and pack."""

    _roots: dict[tuple[str, str, str], Root] = field(default_factory=dict)
    _blocks: list[Weight] = field(default_factory=list)
    _end: int = 0

    def root(self, constant: Constant, type: TensorType, pack: PackLike | None = None) -> Root:
        """Where the constant, seen as `type`, lies once `pack` has laid it out."""
        key = (constant.digest, str(type), repr(pack))
        if key not in self._roots:
            nbytes = (pack.type(type) if pack else type).nbytes
            self._roots[key] = Root(nbytes, Operand(Space.WEIGHTS, self._end))
            # Made when the packager asks for it, so that weights on disk stay there till then.
            load = partial(_array, constant, type.shape, pack)
            narrow = type.dtype is DType.I8 and constant.splat is None and fits(constant.array)
            narrow = narrow and (pack is None or fits(load()))  # a pack may add sums
            self._blocks.append(Weight(self._end, nbytes, load, narrow))
            self._end += align(nbytes)
        return self._roots[key]

    def blocks(self) -> tuple[Weight, ...]:
        """What the packager writes."""
        return tuple(self._blocks)


def _array(constant: Constant, shape: tuple[int, ...], pack: PackLike | None) -> NDArray[Any]:
    array = constant.array.reshape(shape)
    return np.ascontiguousarray(pack(array) if pack else array)


class _Assembly:
    """Gives every value of a flow a root, and every step its calls.

    Times run through the flow as it is written, so what a later stage reads stays untouched while
    an exit before it copies its results.
    """

    def __init__(
        self,
        module: Module,
        works: Mapping[str, tuple[Work, ...]],
        kernels: Mapping[str, Kernel],
    ) -> None:
        self.module = module
        self.works = works
        self.kernels = kernels
        self.weights = _Weights()
        self.roots: list[Root] = []
        self.time = 0
        self.steps: dict[int, str] = {}
        self.variables: dict[str, Root] = {}
        self.left: set[Root] = set()  # what exits read: it lies in no output's place
        for index, port in enumerate(module.inputs):
            self.variables[port.name] = Root(port.type.nbytes, Operand(Space.INPUT, index))
        self.slots = self._slots()

    def _slots(self) -> tuple[StateSlot, ...]:
        slots: list[StateSlot] = []
        end = 0
        for state in self.module.states:
            zero = state.initial.splat == 0
            initial = None if zero else self.weights.root(state.initial, state.type).at.offset
            read_only = state in self.module.parameters
            slot = StateSlot(
                state.name, state.type.shape, state.type.dtype, end, initial, read_only
            )
            slots.append(slot)
            self.variables[state.name] = Root(state.type.nbytes, Operand(Space.STATE, end))
            end += align(state.type.nbytes)
        return tuple(slots)

    def segments(self) -> tuple[list[PendingSegment], list[RunSegment | PendingExit]]:
        """Walk the flow; afterwards every root knows when it is used."""
        current = dict(self.variables)
        segments: list[PendingSegment] = []
        flow: list[RunSegment | PendingExit] = []
        for step in self.module.flow.steps:
            match step:
                case Run(graph):
                    segment = PendingSegment(_free(graph, segments), [])
                    self._run(step, current, segment.calls)
                    flow.append(RunSegment(segment.name))
                case ir.ExitIf(condition):
                    segment = PendingSegment(_free(f"leave {condition}", segments), [])
                    flow.append(PendingExit(condition, current[condition], segment.name))
                    self._leave(step, current, segment.calls)
            segments.append(segment)
        if not flow or isinstance(flow[-1], PendingExit):
            segments.append(PendingSegment(_free("end", segments), []))
            flow.append(RunSegment(segments[-1].name))
        self._finish(current, segments[-1].calls)
        return segments, flow

    def _leave(self, step: ir.ExitIf, current: Mapping[str, Root], calls: list[Pending]) -> None:
        """An exit copies its results: they are small, and the last stage writes in their place."""
        current[step.condition].touch(self.time)
        self.left |= {current[name] for name in (step.condition, *step.results)}
        for index, (port, name) in enumerate(zip(self.module.outputs, step.results, strict=True)):
            target = Root(port.type.nbytes, Operand(Space.OUTPUT, index))
            self._copy(calls, current[name], target, port.name)
        self._keep_states(current, calls)
        self.steps[self.time] = f"exit {step.condition}"
        self.time += 1

    def _run(self, step: Run, current: dict[str, Root], calls: list[Pending]) -> None:
        graph = self.module.graph_of[step.graph]
        roots = {v: current[name] for v, name in zip(graph.inputs, step.inputs, strict=True)}
        alias = aliases(graph)

        def root_of(value: Value, pack: PackLike | None = None) -> Root:
            made = origin(value, alias)
            if made in roots:
                return roots[made]
            return self.weights.root(graph.constants[made], value.type, pack)

        joins = joins_of(graph)
        self._join(joins, roots, alias)
        works = {work.node: work for work in self.works[step.graph]}
        for node in graph.nodes:
            if node in joins:
                for value, part in _parts(node, roots[node.output], joins[node], own=False):
                    self._copy(calls, root_of(value), part, value.hint)
            if node in works:
                self._call(calls, self._launched(works[node], roots, root_of))
        for value, name in zip(graph.outputs, step.outputs, strict=True):
            current[name] = root_of(value)

    def _launched(
        self, work: Work, roots: dict[Value, Root], root_of: Callable[..., Root]
    ) -> Pending:
        kernel = self.kernels[work.key]
        operands = [root_of(v, kernel.packs.get(i)) for i, v in enumerate(work.inputs)]
        for value in work.outputs:
            if value not in roots:
                roots[value] = self._new(value.type.nbytes, label_of(work.node))
            operands.append(roots[value])
        scratch = f"workspace of {label_of(work.node)}"
        operands += [self._new(nbytes, scratch) for nbytes in kernel.workspaces]
        return Pending(tuple(operands), work, kernel)

    def _join(
        self,
        joins: Mapping[Node, Sequence[int]],
        roots: dict[Value, Root],
        alias: Mapping[Value, Value],
    ) -> None:
        """Roots of values computed where they are joined; the last joins hold the first."""
        for node in reversed(list(joins)):
            if node.output not in roots:
                roots[node.output] = self._new(node.output.type.nbytes, label_of(node))
            for value, part in _parts(node, roots[node.output], joins[node], own=True):
                roots[origin(value, alias)] = part

    def _finish(self, current: Mapping[str, Root], calls: list[Pending]) -> None:
        """Outputs are written where the caller wants them; states are updated last."""
        for index, port in enumerate(self.module.outputs):
            root, target = current[port.name], Operand(Space.OUTPUT, index)
            if root.is_free and root not in self.left:
                root.operand = target
            else:
                self._copy(calls, root, Root(port.type.nbytes, target), port.name)
        self._keep_states(current, calls)

    def _keep_states(self, current: Mapping[str, Root], calls: list[Pending]) -> None:
        moves: list[tuple[Root, Root, str]] = []
        for state in self.module.states:
            root, slot = current[state.name], self.variables[state.name]
            if root is slot:
                continue
            if root.operand is not None and root.operand.space is Space.STATE:
                # Another state's old content: keep it aside before that state is overwritten.
                aside = self._new(root.nbytes, f"copy of {state.name}")
                self._copy(calls, root, aside, state.name)
                root = aside
            moves.append((root, slot, state.name))
        for root, slot, name in moves:
            self._copy(calls, root, slot, name)

    def _new(self, nbytes: int, name: str) -> Root:
        root = Root(nbytes, name=name)
        self.roots.append(root)
        return root

    def _copy(self, calls: list[Pending], source: Root, target: Root, name: str) -> None:
        pending = Pending((source, target), nbytes=source.nbytes, label=f"copy {name}")
        self._call(calls, pending)

    def _call(self, calls: list[Pending], pending: Pending) -> None:
        for root in pending.roots:
            root.touch(self.time)
        self.steps[self.time] = pending.label or (
            label_of(pending.work.node) if pending.work else ""
        )
        self.time += 1
        calls.append(pending)


def _parts(
    concat: Node, whole: Root, made: Sequence[int], *, own: bool
) -> Iterator[tuple[Value, Root]]:
    """Inputs of a concat with their part of the result: those at the places `made`, or the rest."""
    starts = accumulate((value.type.nbytes for value in concat.inputs), initial=0)
    for index, (value, start) in enumerate(zip(concat.inputs, starts, strict=False)):
        if (index in made) is own:
            yield value, Root(value.type.nbytes, whole=whole, offset=start)


def _free(name: str, segments: Sequence[PendingSegment]) -> str:
    taken = {segment.name for segment in segments}
    names = (name if index == 0 else f"{name}_{index}" for index in range(len(taken) + 1))
    return next(name for name in names if name not in taken)
