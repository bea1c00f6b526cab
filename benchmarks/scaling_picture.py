"""Compile time over node count on logarithmic axes, beside n log n."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.scaling_samples import Sample

STYLES = ("-", "--", ":")


def draw(samples: Sequence[Sample], path: Path) -> None:
    """A line for each stage and family, and n log n through the largest size."""
    figure, axes = plt.subplots(figsize=(7.5, 5))
    families = list(dict.fromkeys(sample.family for sample in samples))
    for family, style in zip(families, STYLES, strict=False):
        rows = [sample for sample in samples if sample.family == family]
        nodes = [row.nodes for row in rows]
        axes.plot(nodes, [row.total for row in rows], style, marker="o", color="black",
                  label=f"{family}: all")  # fmt: skip
        for index, stage in enumerate(rows[0].seconds):
            times = [row.seconds.get(stage, 0.0) for row in rows]
            axes.plot(nodes, times, style, lw=1, color=f"C{index}", label=f"{family}: {stage}")
    last = max(samples, key=lambda sample: sample.nodes)
    scale = last.total / (last.nodes * math.log(last.nodes))
    nodes = sorted({sample.nodes for sample in samples})
    axes.plot(nodes, [scale * n * math.log(n) for n in nodes], color="#c0392b", lw=3, alpha=0.3,
              label="n log n")  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("nodes")
    axes.set_ylabel("seconds of processors")
    axes.legend(fontsize=8)
    axes.grid(True, which="both", lw=0.3)
    axes.set_title("Compile time, layers sharing their kernels", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
