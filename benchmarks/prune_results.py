"""What `prune_models` found, kept from run to run, and the table of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROUNDING = 1e-9  # of the output's range: what f64 may differ by where two functions are the same
HEADS = (
    "model", "pass", "parameters", "MACs", "families pruned", "pinned", "masking, f64", "f32",
    "artifact", "s",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pruned:
    """One pass on one model. Differences are shares of the output's range.

    `masking` and `rounding` are the pruned module's to the masked one, evaluated in f64 and in f32.
    """

    name: str
    parameters: tuple[int, int]
    macs: tuple[int, int]
    pruned: int
    pinned: int
    masking: float
    rounding: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Result:
    """One model: its passes; the artifact's difference to f64, or what is in the way of it.

    `times` are milliseconds of the artifact as it is and pruned, in turns; empty before `--time`.
    """

    model: str
    ratio: float
    date: str
    steps: tuple[Pruned, ...] = ()
    artifact: float | None = None
    seconds: float = 0.0
    why: str = ""  # where nothing was removed
    problem: str = ""
    times: tuple[float, ...] = ()

    @property
    def key(self) -> str:
        """What a later run replaces."""
        return f"{self.model} {self.ratio:g}"

    @property
    def is_done(self) -> bool:
        """Whether it need not be run again."""
        return not self.problem and (self.artifact is not None or not self.steps)

    @property
    def is_right(self) -> bool:
        """Whether pruning equals masking."""
        return all(step.masking <= ROUNDING for step in self.steps)


def read(path: Path) -> dict[str, Result]:
    """What earlier runs wrote, by key; nothing where there is no file."""
    if not path.exists():
        return {}
    results = {}
    for item in json.loads(path.read_text()):
        steps = tuple(
            Pruned(**{**step, "parameters": tuple(step["parameters"]), "macs": tuple(step["macs"])})
            for step in item["steps"]
        )
        result = Result(**{**item, "steps": steps, "times": tuple(item["times"])})
        results[result.key] = result
    return results


def merge(path: Path, new: Result, order: Sequence[str]) -> dict[str, Result]:
    """Put a result in the place of an older one; the file is written aside and renamed."""
    found = {**read(path), new.key: new}
    place = {name: number for number, name in enumerate(order)}
    results = sorted(found.values(), key=lambda r: (r.ratio, place.get(r.model, len(order))))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    aside.replace(path)
    return {result.key: result for result in results}


def markdown(results: Mapping[str, Result]) -> str:
    """The tables: a part for each ratio."""
    lines: list[str] = []
    for ratio in sorted({result.ratio for result in results.values()}):
        part = [result for result in results.values() if result.ratio == ratio]
        wrong = [result.model for result in part if not result.is_right]
        pruned = [result for result in part if result.steps]
        compiled = [result for result in pruned if result.artifact is not None]
        lines += [
            f"## `--ratio {ratio:g}`",
            "",
            f"{len(part)} models, {len(pruned)} with something to prune, {len(compiled)} of them "
            f"compiled and run; {len(pruned) - len(wrong)} equal masking in f64 to {ROUNDING:.0e}"
            f"{'; not: ' + ', '.join(wrong) if wrong else ''}.",
            "",
            "| " + " | ".join(HEADS) + " |",
            "|" + "---|" * len(HEADS),
            *(line for result in part for line in _lines(result)),
            "",
            *_times(part),
        ]
    return "\n".join(lines)


def _lines(result: Result) -> list[str]:
    rows = [
        [
            step.name, share(*step.parameters), share(*step.macs), str(step.pruned),
            str(step.pinned), f"{step.masking:.0e}", f"{step.rounding:.0e}", "",
            f"{step.seconds:.1f}",
        ]
        for step in result.steps
    ]  # fmt: skip
    if result.artifact is not None:
        first, last = result.steps[0], result.steps[-1]
        parameters = share(first.parameters[0], last.parameters[1])
        macs = share(first.macs[0], last.macs[1])
        error, seconds = f"{result.artifact:.0e}", f"{result.seconds:.0f}"
        rows.append(["**together**", parameters, macs, "", "", "", "", error, seconds])
    if result.why or result.problem:
        words = result.problem or f"nothing to prune: {result.why}"
        rows.append([words.replace("|", "/"), *[""] * (len(HEADS) - 2)])
    return ["| " + " | ".join((result.model, *row)) + " |" for row in rows]


def _times(part: Sequence[Result]) -> list[str]:
    rows = [(result.model, *result.times) for result in part if result.times]
    if not rows:
        return []
    return [
        "| model | as it is, ms | pruned, ms | ratio |",
        "|---|---|---|---|",
        *(f"| {name} | {a:.3f} | {b:.3f} | {b / a:.1%} |" for name, a, b in rows),
        "",
    ]


def share(before: int, after: int) -> str:
    """Millions before, and what is left of them."""
    return f"{before / 1e6:.2f} M -> {after / before:.0%}" if before else "0"
