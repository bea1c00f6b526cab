"""The table as a picture: time of each contender beside ours, model by model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.peers.results import OURS, Row, contenders, geometric_mean

# One colour for us, muted ones for the others, the same in every picture.
COLOURS = {
    "optc": "#c0392b",
    "PyTorch": "#b0b7bf",
    "torch.compile": "#8a949e",
    "ONNX Runtime": "#5b8db8",
    "OpenVINO": "#2f5d8a",
    "ExecuTorch": "#a3bf8a",
    "IREE": "#d8b365",
}
WIDEST = 6.0  # times our time: longer bars are cut and labelled


def draw(rows: Sequence[Row], order: Sequence[str], path: Path) -> None:
    """Bars of each contender's time as a multiple of ours; longer is slower."""
    shown = [row for name in order for row in rows if row.model == name and row.entry(OURS)]
    if not shown:
        return
    names = contenders(shown)
    height = 0.8 / len(names)
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.22 * len(names) * len(shown)))
    for place, row in enumerate(shown):
        ours = row.entry(OURS)
        for index, name in enumerate(names):
            entry = row.entry(name)
            if entry is None or ours is None:
                continue
            ratio = entry.median / ours.median
            y = place - 0.4 + (index + 0.5) * height
            axes.barh(y, min(ratio, WIDEST), height * 0.92, color=COLOURS.get(name, "#888888"))
            text = f"{entry.median * 1e3:.3g} ms" + (f"  ({ratio:.1f}×)" if name != OURS else "")
            axes.text(min(ratio, WIDEST) + 0.05, y, text, va="center", fontsize=7)
        if row.limit == row.limit and ours is not None:
            share = row.limit / ours.median
            axes.plot([share, share], [place - 0.42, place + 0.42], color="black", lw=1.2)
    axes.set_yticks(range(len(shown)), [row.model for row in shown])
    axes.invert_yaxis()
    axes.set_xlim(0, WIDEST + 1.2)
    axes.axvline(1, color="#c0392b", lw=0.6, ls=":")
    axes.set_xlabel("time as a multiple of optc's (shorter is faster); black: the machine's limit")
    mean = geometric_mean([row.ratio for row in shown])
    axes.set_title(
        f"One call, batch 1, f32, {shown[0].threads} threads, {shown[0].machine.split(':')[0]}; "
        f"optc over the fastest peer: {mean:.2f} times",
        fontsize=10,
    )
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS.get(name, "#888888")) for name in names]
    axes.legend(handles, names, fontsize=7, loc="lower right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
