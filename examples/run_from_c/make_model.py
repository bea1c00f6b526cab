"""Compiles a small network for main.c into out/: model.h, model.so, model.a and weights.bin."""

import torch

import optc


class Tiny(torch.nn.Module):
    """The artifact, and its functions in C, take their name from this class."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """1x64 in, 1x10 out."""
        return self.layers(x)


if __name__ == "__main__":
    module = optc.capture(Tiny().eval(), (torch.zeros(1, 64),))
    compiled = optc.compile(module, "host", out="out", emit=("so", "a"))
    print(f"wrote {compiled.path}")
