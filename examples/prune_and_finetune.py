"""Prune a network, fine-tune what is left in PyTorch, compile it: on handwritten digits.

    python examples/prune_and_finetune.py

trains a small convolutional network on scikit-learn's digits, removes half of its channels by what
the loss would lose, makes an `nn.Module` of the smaller network with `optc.to_torch`, trains it a
little more in an ordinary PyTorch loop, captures it again and compiles it. The last artifact has
half the width and about the accuracy of the first.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import optc
from optc.contexts import pass_context
from optc.ir.targets.find import find_target
from optc.passes.pipeline import Pipeline
from optc.quality.evidence import DataRequest, Evidence

TRAIN, BATCH = 1200, 20  # images to train with; the other 597 are for the test
PASSES = "canonicalize,prune-channels{ratio=0.5,criterion=taylor,align=8}"


def network() -> nn.Module:
    """Two convolutions, one shortcut, a classifier."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, rate: float) -> None:
    """Adam and cross entropy, in batches of the size that the model was captured with."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()


def accuracy(model, x: np.ndarray, y: np.ndarray) -> float:  # type: ignore[no-untyped-def]
    """The share of right answers of anything that takes a batch; what fills no batch is left."""
    right = [
        (np.asarray(model(x[start : start + BATCH])).argmax(1) == y[start : start + BATCH]).mean()
        for start in range(0, len(x) - BATCH + 1, BATCH)
    ]
    return float(np.mean(right))


def main(folder: Path = Path("prune-out"), epochs: int = 8) -> dict[str, float]:
    """Run all of it; returns the accuracy on the test images by stage."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    pixels = (images / 16).reshape(-1, 1, 8, 8).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(pixels))
    pixels, labels = pixels[order], labels[order].astype(np.int64)
    x, y = torch.from_numpy(pixels[:TRAIN]), torch.from_numpy(labels[:TRAIN])
    test = pixels[TRAIN:], labels[TRAIN:]
    found = {}

    print("1. train a network in PyTorch")
    model = network()
    train(model, x, y, epochs, 2e-3)
    captured = optc.capture(model.eval(), (x[:BATCH],))
    whole = optc.compile(captured, out=folder / "whole")
    found["whole"] = accuracy(optc.load(whole.path), *test)

    print(f"2. {PASSES}")
    data = {captured.inputs[0].name: pixels[:TRAIN], "labels": labels[:TRAIN]}
    context = pass_context(find_target("host"), evidence=Evidence(captured, DataRequest(data)))
    pruned = Pipeline.parse(PASSES).run(captured, context)
    for finding in context.diagnostics:
        print(f"   {finding.message}")

    print("3. fine-tune what is left in PyTorch")
    smaller = optc.to_torch(pruned)
    with torch.no_grad():
        found["pruned"] = accuracy(lambda batch: smaller(torch.from_numpy(batch)), *test)
    train(smaller, x, y, epochs // 2, 1e-3)

    print("4. capture it again, and compile")
    tuned = optc.compile(optc.capture(smaller.eval(), (x[:BATCH],)), out=folder / "tuned")
    found["tuned"] = accuracy(optc.load(tuned.path), *test)
    for stage, share in found.items():
        print(f"   {stage:6} {100 * share:5.1f} % of the test images right")
    for compiled in (whole, tuned):
        size = compiled.manifest["weights_bytes"]
        print(f"   {compiled.path}: {size / 1e3:.1f} kB of weights")
    return found


if __name__ == "__main__":
    sys.exit(main()["tuned"] < 0.9)
