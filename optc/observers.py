"""Observers of a pipeline: how long each pass took, what it changed, and dumps of the result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from optc.ir.module import Module
from optc.ir.output import replace_file
from optc.ir.printer import print_module
from optc.ir.store import stored_constants, weights_path, write_weights
from optc.ir.structural import module_diff
from optc.passes.base import Pass
from optc.payoff import Payoff, Payoffs


@dataclass(frozen=True, slots=True)
class PassRecord:
    """One run of a pass: seconds, and the number of nodes before and after."""

    name: str
    seconds: float
    before: int
    after: int
    changed: bool
    payoff: Payoff | None = None  # of a lossy pass that changed something


@dataclass
class PassTimes:
    """Keeps a record of every pass; with `payoffs`, of lossy ones also whether they paid."""

    payoffs: Payoffs | None = None
    records: list[PassRecord] = field(default_factory=list)
    _start: float = 0.0

    def before(self, step: Pass, module: Module) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def after(self, step: Pass, before: Module, after: Module) -> None:
        """Stop it. Verification of the result is part of a pass's time."""
        seconds = time.perf_counter() - self._start
        changed = after is not before
        payoff = self.payoffs.of(step, before, after) if self.payoffs is not None else None
        counts = node_count(before), node_count(after)
        self.records.append(PassRecord(str(step), seconds, *counts, changed, payoff))


@dataclass
class Changes:
    """Hands the text diff of every pass that changed something to `write`."""

    write: Callable[[str], None]

    def before(self, step: Pass, module: Module) -> None:
        """Nothing to note."""

    def after(self, step: Pass, before: Module, after: Module) -> None:
        """Write the diff, or that there is none."""
        if after is before:
            self.write(f"// {step}: no change")
            return
        self.write(f"// {step}:\n{module_diff(before, after).rstrip() or '(names only)'}")


@dataclass
class Dumps:
    """Writes `NN-<pass>.optc` after every pass that changed something, weights beside it.

    Weights that did not change are links to those of the pass before and take no further space.
    """

    folder: Path
    count: int = 0
    _written: tuple[frozenset[str], Path] | None = None

    def before(self, step: Pass, module: Module) -> None:
        """Write the module as it came in, once."""
        if self.count == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write("input", module)

    def after(self, step: Pass, before: Module, after: Module) -> None:
        """Write a changed module."""
        if after is not before:
            self._write(step.name, after)

    def _write(self, name: str, module: Module) -> None:
        path = self.folder / f"{self.count:02d}-{name}.optc"
        self.count += 1
        items = tuple(stored_constants(module))
        digests = frozenset(item.digest for item in items)
        with replace_file(path) as aside:
            aside.write_text(print_module(module), encoding="utf-8")
        if not items:
            return
        beside = weights_path(path)
        if self._written is not None and self._written[0] == digests:
            beside.unlink(missing_ok=True)
            os.link(self._written[1], beside)
        else:
            write_weights(items, beside)
        self._written = (digests, beside)


def node_count(module: Module) -> int:
    """Nodes of all graphs; a task is one."""
    return sum(len(graph.nodes) for graph in module.graphs)


@dataclass
class History:
    """An observer that keeps the text of the module after each pass that changed it."""

    texts: list[tuple[str, str]] = field(default_factory=list)

    def before(self, step: Pass, module: Module) -> None:
        """Nothing to note."""

    def after(self, step: Pass, before: Module, after: Module) -> None:
        """Keep the text of a changed module."""
        if after is not before:
            self.texts.append((step.name, print_module(after)))

    def files(self, captured: Module) -> dict[str, bytes]:
        """`graphs/NN-<pass>.optc`, the captured module being `00-capture`."""
        texts = [("capture", print_module(captured)), *self.texts]
        return {
            f"graphs/{i:02d}-{name}.optc": text.encode() for i, (name, text) in enumerate(texts)
        }
