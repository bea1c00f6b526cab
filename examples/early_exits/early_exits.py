"""Early exits, from a trained net to an artifact that skips its later stages on easy inputs.

    python examples/early_exits/early_exits.py

A net for digits of 8x8 pixels learns in a second, with a head behind its first layer and one at its
end. optc makes an exit of the first, with a threshold that holds the accuracy budget; the artifact
skips the wide layer where the first head is sure, and counts how often that is.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import optc

LEARNT = 600  # samples for training; the others are data for the compiler


class Net(nn.Module):
    """A narrow layer and two wide ones, with a head behind the first and one at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Linear(64, 24)
        self.wide = nn.Sequential(nn.Linear(24, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU())
        self.early, self.late = nn.Linear(24, 10), nn.Linear(1024, 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The scores of both heads, [rows, 10] each; the last one counts."""
        x = torch.relu(self.narrow(x))
        return self.early(x), self.late(self.wide(x))


def trained() -> tuple[nn.Module, dict[str, np.ndarray]]:
    """The net, and samples that it has not seen."""
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = (pixels / 16).astype(np.float32), labels.astype(np.int64)
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    x, y = torch.from_numpy(pixels[:LEARNT]), torch.from_numpy(labels[:LEARNT])
    for _ in range(40):
        loss = sum(nn.functional.cross_entropy(scores, y) for scores in net(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval(), {"x": pixels[LEARNT:], "labels": labels[LEARNT:]}


def main() -> None:
    """Compile with an exit, and run with several thresholds."""
    net, data = trained()
    module = optc.capture(net, (torch.from_numpy(data["x"][:1]),))
    compiled = optc.compile(
        module,
        passes="insert-exits{n=1}",
        data=data,
        metric="accuracy@output.1",
        accuracy_drop=0.1,
    )
    assert compiled.quality is not None
    print(f"lost {compiled.quality.difference}: {compiled.quality.verdict}")
    with optc.load(compiled.path) as model:
        (name, chosen), *_ = model.parameters.items()
        for threshold in (float("-inf"), chosen, float("inf")):
            model.set_parameter(name, threshold)
            before = sum(model.exit_runs().values())
            right = 0
            for pixels, label in zip(data["x"][:200], data["labels"][:200], strict=True):
                right += int(model(pixels[None]).argmax() == label)
            early = sum(model.exit_runs().values()) - before
            print(f"{name} {threshold:.3g}: {early} of 200 left early, {right} right")


if __name__ == "__main__":
    main()
