"""Observers see every pass: its time, its change, and a graph on disk that loads again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from optc.ir.module import Module
from optc.ir.ops import ew
from optc.ir.store import load, stored_constants
from optc.ir.structural import module_digest
from optc.ir.targets.find import find_target
from optc.ir.text import parse
from optc.observers import Changes, Dumps, PassTimes
from optc.passes.base import Effect, Pass, PassContext, run_passes

TEXT = """graph @main(%x: 2x8xf32) {
  %w = constant {seed=1} : 8x8xf32
  %y = linear(%x, %w) : 2x8xf32
  %z = relu(%y) : 2x8xf32
  return %z
}"""


@dataclass(frozen=True)
class Nothing(Pass):
    """Leave all as it is."""

    name = "nothing"
    effect = Effect.EXACT

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The same module."""
        return module


@dataclass(frozen=True)
class DropRelu(Pass):
    """Return what goes into the last relu."""

    name = "drop-relu"
    effect = Effect.LOSSY

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The graph without its last node."""
        from dataclasses import replace

        (graph,) = module.graphs
        assert isinstance(graph.nodes[-1].op, ew.Relu)
        shorter = replace(graph, nodes=graph.nodes[:-1], outputs=graph.nodes[-1].inputs)
        return module.with_graphs((shorter,))


def run(*observers: object) -> Module:
    module = parse(TEXT)
    context = PassContext(find_target("x86-64-v3"))
    return run_passes(module, (Nothing(), DropRelu(), Nothing()), context, observers)  # type: ignore[arg-type]


def test_times_count_nodes_and_changes() -> None:
    times = PassTimes()
    run(times)
    facts = [(record.name, record.before, record.after, record.changed) for record in times.records]
    assert facts == [
        ("nothing", 2, 2, False),
        ("drop-relu", 2, 1, True),
        ("nothing", 1, 1, False),
    ]
    assert all(record.seconds >= 0 for record in times.records)


def test_changes_are_shown_as_diffs() -> None:
    texts: list[str] = []
    run(Changes(texts.append))
    assert texts[0] == texts[2] == "// nothing: no change"
    assert texts[1].startswith("// drop-relu:\n")
    assert "-    %z = relu(%y) : 2x8xf32" in texts[1]


def test_dumps_load_again(tmp_path: Path) -> None:
    result = run(Dumps(tmp_path / "dumps"))
    names = sorted(path.name for path in (tmp_path / "dumps").iterdir())
    assert names == ["00-input.optc", "01-drop-relu.optc"]
    assert module_digest(load(tmp_path / "dumps" / names[1])) == module_digest(result)


def test_unchanged_weights_take_no_further_space(tmp_path: Path) -> None:
    module = load_with_weights(tmp_path)
    context = PassContext(find_target("x86-64-v3"))
    run_passes(module, (DropRelu(),), context, (Dumps(tmp_path / "dumps"),))
    first, second = sorted((tmp_path / "dumps").glob("*.weights"))
    assert os.path.samefile(first, second)
    again = load(tmp_path / "dumps" / "01-drop-relu.optc")
    assert [item.type.shape for item in stored_constants(again)] == [(8, 8)]


def load_with_weights(folder: Path) -> Module:
    """The module with its seed replaced by stored numbers."""
    from dataclasses import replace

    from optc.ir.constant import constant

    (graph,) = parse(TEXT).graphs
    stored = {value: constant(item.array) for value, item in graph.constants.items()}
    return parse(TEXT).with_graphs((replace(graph, constants=stored),))
