"""Language models with seeded random weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.models.entry import Example, from_config, randomize, tokens

_HIDDEN = "last_hidden_state"


def bert() -> Example:
    """BERT-base, 128 tokens (Devlin et al. 2019)."""
    inputs = (tokens(128), torch.ones(1, 128, dtype=torch.long))
    return from_config("Bert", "Model", {}, inputs, field=_HIDDEN)


def distilbert() -> Example:
    """DistilBERT, 128 tokens (Sanh et al. 2019)."""
    inputs = (tokens(128), torch.ones(1, 128, dtype=torch.long))
    return from_config("DistilBert", "Model", {}, inputs, field=_HIDDEN)


def albert() -> Example:
    """ALBERT-base: one layer's weights used twelve times (Lan et al. 2020)."""
    options = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
    inputs = (tokens(64), torch.ones(1, 64, dtype=torch.long))
    return from_config("Albert", "Model", options, inputs, field=_HIDDEN)


def roberta() -> Example:
    """RoBERTa-base, 64 tokens (Liu et al. 2019)."""
    inputs = (tokens(64), torch.ones(1, 64, dtype=torch.long))
    return from_config("Roberta", "Model", {"vocab_size": 50265}, inputs, field=_HIDDEN)


def t5_encoder() -> Example:
    """The encoder of T5-small: RMS norm, relative position bias (Raffel et al. 2020)."""
    inputs = (tokens(64), torch.ones(1, 64, dtype=torch.long))
    return from_config("T5", "EncoderModel", {}, inputs, field=_HIDDEN)


def gpt2() -> Example:
    """GPT-2 small, prefill of 64 tokens (Radford et al. 2019)."""
    return from_config("GPT2", "LMHeadModel", {}, (tokens(64),), call={"use_cache": False})


def llama() -> Example:
    """A small Llama: RMS norm, rotary, grouped queries, SwiGLU (Touvron et al. 2023)."""
    options = {
        "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "vocab_size": 2000,
        "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 256,
    }  # fmt: skip
    return from_config("Llama", "ForCausalLM", options, (tokens(48),), call={"use_cache": False})


def whisper_encoder() -> Example:
    """The encoder of Whisper-tiny on half the usual spectrogram (Radford et al. 2023)."""
    options = {
        "d_model": 384,
        "encoder_layers": 4,
        "encoder_attention_heads": 6,
        "encoder_ffn_dim": 1536,
        "max_source_positions": 750,
    }
    library = __import__("transformers")
    torch.manual_seed(0)
    encoder = library.WhisperModel(library.WhisperConfig(**options)).get_encoder().eval()
    spectrogram = torch.randn(1, 80, 1500, generator=torch.Generator().manual_seed(4))
    from benchmarks.models.entry import Logits

    return Logits(encoder, _HIDDEN, {}), (spectrogram,)


class SelectiveScan(nn.Module):
    """A Mamba-like block, its scan unrolled over time (Gu and Dao 2023, algorithm 2)."""

    def __init__(self, width: int = 32, states: int = 8) -> None:
        super().__init__()
        self.inner = nn.Linear(width, 2 * width)
        self.conv = nn.Conv1d(width, width, 4, padding=3, groups=width)
        self.select = nn.Linear(width, 2 * states + 1)
        self.step = nn.Linear(1, width)
        self.decay = nn.Parameter(torch.zeros(width, states))
        self.skip = nn.Parameter(torch.ones(width))
        self.outer = nn.Linear(width, width)
        self.states = states

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        u, gate = self.inner(x).chunk(2, -1)
        u = F.silu(self.conv(u.transpose(1, 2))[..., :length].transpose(1, 2))
        b, c, d = self.select(u).split([self.states, self.states, 1], -1)
        delta = F.softplus(self.step(d))
        decay = torch.exp(delta.unsqueeze(-1) * -torch.exp(self.decay))
        drive = (delta * u).unsqueeze(-1) * b.unsqueeze(2)
        state = torch.zeros_like(drive[:, 0])
        outputs = []
        for t in range(length):
            state = decay[:, t] * state + drive[:, t]
            outputs.append((state * c[:, t].unsqueeze(1)).sum(-1))
        y = torch.stack(outputs, 1) + u * self.skip
        return self.outer(y * F.silu(gate))


def mamba() -> Example:
    """A Mamba-like block over 16 steps."""
    x = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(5))
    return randomize(SelectiveScan()), (x,)
