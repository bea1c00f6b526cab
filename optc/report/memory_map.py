"""The memory map: what lies where in the arena over time, how full it is, the weights' window.

Drawn as SVG by hand, so that a report needs nothing else; in a page it takes the page's colours, in
a file of its own it brings them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from optc.report.numbers import bytes_text, place_text

WIDTH, LEFT, RIGHT = 960, 70, 16
ARENA_HEIGHT, CURVE_HEIGHT, WINDOW_HEIGHT, GAP = 320, 110, 150, 46
CULPRITS = 6
STYLE = """
.map text { fill: #60646c; font: 12px system-ui, sans-serif; }
.map .axis { stroke: #60646c; fill: none; }
.map .grid { stroke: #e0e1e6; fill: none; }
.map rect { stroke: #fcfcfd; stroke-width: .6; }
.map .value { fill: #8da4ef; } .map .scratch { fill: #f5c26b; } .map .copy { fill: #9bd3ae; }
.map .culprit { fill: #3e63dd; } .map .ahead { fill: #c6d4f9; } .map .used { fill: #30a46c; }
.map .line { stroke: #3e63dd; stroke-width: 1.5; fill: none; }
.map .most { stroke: #60646c; stroke-dasharray: 5 4; fill: none; }
@media (prefers-color-scheme: dark) {
  .map text { fill: #b0b4ba; } .map .grid { stroke: #2e3135; } .map rect { stroke: #111113; }
  .map .value { fill: #435db1; } .map .culprit { fill: #8da4ef; } .map .ahead { fill: #253974; }
  .map .line { stroke: #8da4ef; }
}
"""


@dataclass(frozen=True, slots=True)
class Bytes:
    """A rectangle of the map."""

    name: str
    offset: int
    nbytes: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """What is drawn: see `describe_memory`; `arena` and `window` are bytes."""

    arena: int
    held: tuple[Bytes, ...]
    steps: tuple[str, ...]
    window: int = 0
    blocks: tuple[Mapping[str, int], ...] = ()

    @staticmethod
    def of(facts: Mapping[str, Any], arena: int, window: int) -> MemoryMap:
        """From what a manifest says."""
        held = tuple(
            Bytes(row["name"], row["offset"], row["nbytes"], row["first"], row["last"])
            for row in facts["held"]
        )
        return MemoryMap(arena, held, tuple(facts["steps"]), window, tuple(facts["window"]))

    def live(self) -> list[int]:
        """Bytes held at each step."""
        changes = [0] * (len(self.steps) + 2)
        for item in self.held:
            changes[item.first] += item.nbytes
            changes[item.last + 1] -= item.nbytes
        live, total = [], 0
        for step in range(len(self.steps)):
            total += changes[step]
            live.append(total)
        return live

    @property
    def peak_step(self) -> int:
        """The step at which most bytes are held."""
        live = self.live()
        return live.index(max(live)) if live else 0

    def culprits(self) -> list[Bytes]:
        """What is held at the peak, the largest first."""
        peak = self.peak_step
        at_peak = [item for item in self.held if item.first <= peak <= item.last]
        return sorted(at_peak, key=lambda item: -item.nbytes)


def map_svg(found: MemoryMap, title: str = "", *, alone: bool = False) -> str:
    """The picture; `alone` as a file of its own, with a background and its own style."""
    if not found.held and not found.blocks:
        return ""
    parts = list(_Drawing(found).parts())
    height = _height(found)
    head = (
        f'<svg class="map" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'role="img" aria-label="{escape(title or "memory map", quote=True)}">'
    )
    style = f"<style>svg {{ background: #fcfcfd; }}{STYLE}</style>" if alone else ""
    name = f'<text x="{LEFT}" y="16">{escape(title)}</text>' if title else ""
    return "\n".join([head, style, name, *parts, "</svg>"])


def _height(found: MemoryMap) -> int:
    window = WINDOW_HEIGHT + GAP if found.blocks else 0
    return 30 + ARENA_HEIGHT + GAP + CURVE_HEIGHT + GAP + window


class _Drawing:
    def __init__(self, found: MemoryMap) -> None:
        self.found = found
        self.count = max(len(found.steps), 1)
        self.culprits = set(found.culprits()[:CULPRITS])

    def x(self, step: float) -> float:
        """From step to pixel."""
        return round(LEFT + (WIDTH - LEFT - RIGHT) * step / self.count, 2)

    def parts(self) -> Iterator[str]:
        """All panels, from the top."""
        top = 30
        yield from self.arena(top)
        top += ARENA_HEIGHT + GAP
        yield from self.curve(top)
        if self.found.blocks:
            yield from self.window(top + CURVE_HEIGHT + GAP)

    def frame(self, top: int, height: int, most: int, label: str) -> Iterator[str]:
        """Axes with bytes on the left and steps below."""
        for part in range(5):
            y = round(top + height * (1 - part / 4), 2)
            yield f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>'
            size = bytes_text(most * part / 4)
            yield f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{size}</text>'
        for step in _ticks(self.count):
            x = self.x(step)
            yield f'<text x="{x}" y="{top + height + 15}" text-anchor="middle">{step}</text>'
        yield f'<path class="axis" d="M{LEFT} {top}V{top + height}H{WIDTH - RIGHT}"/>'
        yield f'<text x="{LEFT}" y="{top + height + 31}">{escape(label)}</text>'

    def arena(self, top: int) -> Iterator[str]:
        """Rectangles: steps to the right, offsets upwards."""
        label = "arena: what lies where, by step; dark: held at the peak"
        yield from self.frame(top, ARENA_HEIGHT, self.found.arena, label)
        for item in self.found.held:
            kind = "value"
            if item.name.startswith("workspace"):
                kind = "scratch"
            elif item.name.startswith("copy"):
                kind = "copy"
            kind = "culprit" if item in self.culprits and kind == "value" else kind
            steps = f"steps {item.first} to {item.last}"
            text = f"{item.name}\n{bytes_text(item.nbytes)} at {item.offset}, {steps}"
            size = self.found.arena or 1
            span = (item.offset / size, (item.offset + item.nbytes) / size)
            yield self.rect(kind, (item.first, item.last + 1), span, top, ARENA_HEIGHT, text)

    def rect(
        self,
        kind: str,
        steps: tuple[float, float],
        span: tuple[float, float],
        top: int,
        height: int,
        text: str,
    ) -> str:
        """One rectangle with its tooltip; `span` is a part of the height, from below."""
        x, width = self.x(steps[0]), self.x(steps[1]) - self.x(steps[0])
        y, high = top + height * (1 - span[1]), height * (span[1] - span[0])
        shape = f'x="{x}" y="{y:.2f}" width="{width:.2f}" height="{max(high, 0.4):.2f}"'
        return f'<rect class="{kind}" {shape}><title>{escape(text)}</title></rect>'

    def curve(self, top: int) -> Iterator[str]:
        """Bytes held at each step, and the arena's size."""
        live, most = self.found.live(), max(self.found.arena, 1)
        at = f"bytes held; most at step {self.found.peak_step}: {bytes_text(max(live, default=0))}"
        yield from self.frame(top, CURVE_HEIGHT, most, f"{at} of {bytes_text(most)}")
        points = []
        for step, nbytes in enumerate(live):
            y = round(top + CURVE_HEIGHT * (1 - nbytes / most), 2)
            points += [f"{self.x(step)},{y}", f"{self.x(step + 1)},{y}"]
        yield f'<polyline class="line" points="{" ".join(points)}"/>'
        yield f'<path class="most" d="M{self.x(self.found.peak_step + 0.5)} {top}v{CURVE_HEIGHT}"/>'

    def window(self, top: int) -> Iterator[str]:
        """Blocks of weights: pale while they may be read ahead, green when they are used."""
        label = "window of weights: pale where a block may be read ahead, green where it is used"
        yield from self.frame(top, WINDOW_HEIGHT, self.found.window, label)
        for block in self.found.blocks:
            span = (
                block["at"] / self.found.window,
                (block["at"] + block["bytes"]) / self.found.window,
            )
            step, ahead = block["step"], block["ahead"]
            name = self.found.steps[step] if step < len(self.found.steps) else ""
            text = (
                f"{name}\n{bytes_text(block['bytes'])}, read from step {ahead} on, used at {step}"
            )
            yield self.rect("ahead", (ahead, step), span, top, WINDOW_HEIGHT, text)
            yield self.rect("used", (step, step + 1), span, top, WINDOW_HEIGHT, text)


def _ticks(count: int) -> Sequence[int]:
    width = next(w for w in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**9) if count / w <= 12)
    return range(0, count + 1, width)


def culprit_rows(found: MemoryMap) -> list[tuple[str, str, str, str]]:
    """The largest at the peak, for a table: name, source line, bytes, share of the arena."""
    rows = []
    for item in found.culprits()[:CULPRITS]:
        name, _, place = item.name.partition(" @ ")
        share = f"{item.nbytes / max(found.arena, 1):.0%}"
        rows.append((name, place_text(place), bytes_text(item.nbytes), share))
    return rows
