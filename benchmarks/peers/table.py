"""The results as Markdown: medians side by side, then who failed how, then our slowest kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.results import OURS, Entry, Row, contenders, geometric_mean

KERNELS = 8  # of a model: those that lose most
NEAR = 0.9  # of the limit, from which a kernel is not worth a line


def markdown(rows: Sequence[Row], order: Sequence[str]) -> str:
    """The whole page; models in the given order, targets one table each."""
    place = {name: index for index, name in enumerate(order)}
    ranked = sorted(rows, key=lambda row: place.get(row.model, len(place)))
    parts = [HEAD]
    for target in dict.fromkeys(row.target for row in ranked):
        parts += _table([row for row in ranked if row.target == target], target)
    parts += _problems(ranked) + _losses([row for row in ranked if row.target == "host"])
    return "\n".join(parts) + "\n"


HEAD = """# Models beside the peers

Command: `python -m benchmarks peers` (or with `--models NAME`, a model at a time; rows are merged).

Milliseconds of one call from Python, batch 1, f32: 10th percentile / median / 90th percentile.
All contenders of a row were timed in one run, in short turns, each in a process that is stopped
while another is timed; the outputs of each were checked against PyTorch's. `ratio`: the fastest
peer's median over ours, so above 1 optc is faster; `undisturbed`: the same of 10th percentiles.
`% of limit`: the least time in which this machine could run the model's kernels (`optc targets host
--measure`) over our 10th percentile.

PyTorch is held to `x86-64-v2` by MKL_CBWR=COMPATIBLE beside ATEN_CPU_CAPABILITY=default and
ONEDNN_MAX_CPU_ISA=SSE41. With MKL_ENABLE_INSTRUCTIONS=SSE4_2 or MKL_CBWR=SSE4_2 instead, MKL takes
a kernel with FMA on AMD: 198 GFLOP/s for 1024x1024x1024 on two Zen 5 cores, where multiplying and
adding four floats gives at most 124; held, 83.
"""


def _table(rows: Sequence[Row], target: str) -> list[str]:
    names = contenders(rows)
    versions = {
        name: next((e.version for row in rows if (e := row.entry(name))), "") for name in names
    }
    where = sorted({f"{row.machine}, {row.threads} threads" for row in rows})
    dates = sorted({row.date for row in rows})
    heads = ["model", *(f"{name} {versions[name]}".strip() for name in names)]
    lines = [
        f"## {target}",
        "",
        f"{'; '.join(where)}; {dates[0]}" + (f" to {dates[-1]}" if len(dates) > 1 else ""),
        "",
        "| " + " | ".join([*heads, "ratio", "undisturbed", "% of limit"]) + " |",
        "|" + "---|" * (len(heads) + 3),
        *(_line(row, names) for row in rows),
        "",
    ]
    ratios = [row.ratio for row in rows]
    known = [ratio for ratio in ratios if math.isfinite(ratio)]
    if known:
        means = geometric_mean(known), geometric_mean([row.undisturbed for row in rows])
        lines += [
            f"Geometric mean of {len(known)} ratios: {means[0]:.2f} (undisturbed: {means[1]:.2f}); "
            f"the least: {min(known):.2f}.",
            "",
        ]
    return lines


def _line(row: Row, names: Sequence[str]) -> str:
    best = row.best_peer
    cells = [row.model]
    for name in names:
        entry = next((e for e in row.entries if e.contender == name), None)
        cells.append(_cell(entry, best is not None and name == best.contender))
    ours = row.entry(OURS)
    limit = f"{row.of_limit(ours):.0%}" if ours and math.isfinite(row.limit) else ""
    ratios = [
        f"{ratio:.2f}" if math.isfinite(ratio) else "" for ratio in (row.ratio, row.undisturbed)
    ]
    return "| " + " | ".join([*cells, *ratios, limit]) + " |"


def _cell(entry: Entry | None, best: bool) -> str:
    if entry is None:
        return ""
    if not entry.timed:
        return "failed"
    middle = f"{entry.median * 1e3:.2f}"
    strong = f"**{middle}**" if best else middle
    return f"{entry.p10 * 1e3:.2f} / {strong} / {entry.p90 * 1e3:.2f}"


def _problems(rows: Sequence[Row]) -> list[str]:
    lines = [
        f"- {entry.contender}, {row.model}, {row.target}: {entry.problem}"
        for row in rows
        for entry in row.entries
        if entry.problem
    ]
    return ["## Failed", "", *lines, ""] if lines else []


def _losses(rows: Sequence[Row]) -> list[str]:
    """The kernels whose distance from the limit costs most, equal ones together."""
    lines = []
    for row in rows:
        for lost, (label, times, seconds, limit, bound) in losses(row.kernels)[:KERNELS]:
            if limit < NEAR * seconds:
                lines.append(
                    f"| {row.model} | {label} | {times} | {seconds * 1e3:.3f} | "
                    f"{limit / seconds:.0%} | {bound} | {lost * 1e3:.3f} |"
                )
    if not lines:
        return []
    heads = "| model | kernel | times | ms | % of limit | bound | ms above the limit |"
    return [
        "## Where optc loses time",
        "",
        "Kernels below 90 % of their limit, equal ones together, those that lose most first.",
        "",
        heads,
        "|" + "---|" * 7,
        *lines,
        "",
    ]


Loss = tuple[float, tuple[str, int, float, float, str]]


def losses(kernels: Sequence[Mapping[str, Any]]) -> list[Loss]:
    """Seconds above the limit, then label, count, seconds, limit and bound; the most first."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for kernel in kernels:
        label = kernel["label"].partition(" @ ")[0]
        groups.setdefault((label, kernel["bound"]), []).append(kernel)
    found = []
    for (label, bound), items in groups.items():
        seconds = sum(item["seconds"] for item in items)
        limit = sum(item["limit"] for item in items)
        found.append((seconds - limit, (label, len(items), seconds, limit, bound)))
    return sorted(found, key=lambda item: -item[0])
