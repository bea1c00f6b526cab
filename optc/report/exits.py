"""Early exits as people read them: ways out, what they take, and a picture of the trade."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from optc.report.numbers import seconds_text
from optc.report.row import Row

if TYPE_CHECKING:
    from optc.exits import Paths
    from optc.passes.early_exit.plan import ExitPlan
    from optc.quality.evidence import Measured

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 44


@dataclass(frozen=True, slots=True)
class Line:
    """One way out of a model, as text."""

    name: str
    place: str
    threshold: str
    cost: str
    share: str
    held_out: str


def exit_lines(plan: ExitPlan, quality: Measured | None) -> Sequence[Line]:
    """A line for each exit and one for the end."""
    counts = quality.exits if quality is not None else {}
    calls = sum(counts.values())

    def line(name: str, place: str, threshold: float, cost: float, share: float) -> Line:
        seen = f"{counts[name] / calls:.1%}" if calls and name in counts else ""
        number = "" if threshold == inf else f"{threshold:.4g}"
        return Line(name, place, number, f"{cost:.0%}", f"{share:.1%}", seen)

    lines = [line(e.name, e.place, e.threshold, e.cost, e.share) for e in plan.exits]
    return [*lines, line("end", "", inf, plan.end_cost, plan.end_share)]


def picture(plan: ExitPlan) -> str:
    """An SVG: what each proposed policy loses against the work it takes, on the test calls."""
    points = [(p.cost, 100 * p.loss) for p in plan.curve] + [(1.0, 100 * plan.end_loss)]
    low = max(0.0, min(x for x, _ in points) - 0.05)
    high = max(1.05, max(x for x, _ in points))
    most = max(3 * 100 * plan.budget, 1e-9)
    least = min(0.0, min(y for _, y in points))
    most, least = most + 0.1 * (most - least), least - 0.1 * (most - least)

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        return across, TOP + (y - least) / (most - least) * (HEIGHT - TOP - BOTTOM)

    shown = sorted((x, y) for x, y in points if y <= most)
    body = [*_axes(at, (low, high), (least, most))]
    _, budget = at(low, 100 * plan.budget)
    body.append(f'<path class="budget" d="M{LEFT} {budget:.1f}H{WIDTH - RIGHT}"/>')
    label = f"budget {100 * plan.budget:g} %"
    # Below its line at the right: careful thresholds are above it, and bold ones at the left.
    end = f'x="{WIDTH - RIGHT - 6}" y="{budget + 14:.1f}" text-anchor="end"'
    body.append(f"<text {end}>{label}</text>")
    body.append(f'<path class="line" d="{_path(at(x, y) for x, y in shown)}"/>')
    body += [_dot(*at(x, y), "point", 3) for x, y in shown]
    chosen = [p for p in plan.curve if p.chosen]
    for point in chosen:
        x, y = at(point.cost, 100 * point.loss)
        body.append(_dot(x, y, "chosen", 6))
        body.append(f'<text class="chosen" x="{x + 10:.1f}" y="{y - 8:.1f}">chosen</text>')
    title = f"{plan.metric} lost against work, for thresholds from careful to bold"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{"".join(body)}</svg>'
    )


def _axes(at, across, down) -> Iterator[str]:  # type: ignore[no-untyped-def]
    (low, high), (least, most) = across, down
    bottom = HEIGHT - BOTTOM
    for percent in range(0, 200, 10):
        if low <= percent / 100 <= high:
            x, _ = at(percent / 100, 0)
            yield f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>'
            yield f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{percent} %</text>'
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if (most - least) / s <= 8)
    first = int(least / step)
    for count in range(first, int(most / step) + 1):
        _, y = at(low, count * step)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{-count * step:g}</text>'
    yield f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}"/>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield (
        f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">'
        "mean work of a call, as a share of the model's</text>"
    )
    yield (
        f'<text transform="translate(14 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        "points gained</text>"
    )


def _path(points: Iterator[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _dot(x: float, y: float, kind: str, radius: int) -> str:
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'


def path_rows(paths: Paths) -> Iterator[Row]:
    """Lines of the closing table: expected, p99 and worst latency, and each way by itself."""
    whole = paths.worst
    yield Row(
        "latency with exits",
        "",
        f"expected {seconds_text(paths.expected)}, worst path {seconds_text(whole.times.p50)} "
        f"({whole.name}), by medians; p99 of all calls {seconds_text(paths.p99)}",
    )
    ways = (f"{p.name} {p.share:.1%} at {seconds_text(p.times.p50)}" for p in paths.paths)
    yield Row("ways out", "", f"{', '.join(ways)} (of {paths.calls} held-out calls)")
