"""Families of models with random weights, against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.ir.capture.models import check

IDS = torch.arange(12)[None] % 7
SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def _bert() -> tuple[nn.Module, dict[str, Tensor]]:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**SMALL)), {
        "input_ids": IDS,
        "attention_mask": torch.ones_like(IDS),
    }


def _gpt2() -> tuple[nn.Module, dict[str, Tensor]]:
    from transformers import GPT2Config, GPT2LMHeadModel

    options = {"bos_token_id": 0, "eos_token_id": 0, "use_cache": False}
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, **options)
    return GPT2LMHeadModel(config), {"input_ids": IDS}


def _llama() -> tuple[nn.Module, dict[str, Tensor]]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**{**SMALL, "num_attention_heads": 4}, num_key_value_heads=2)
    config.use_cache = False
    return LlamaForCausalLM(config), {"input_ids": IDS}


def _t5() -> tuple[nn.Module, dict[str, Tensor]]:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=50, d_model=16, d_kv=8, num_heads=2, num_layers=1, d_ff=32)
    return T5EncoderModel(config), {"input_ids": IDS}


def _whisper() -> tuple[nn.Module, dict[str, Tensor]]:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        num_mel_bins=8,
        max_source_positions=10,
    )
    return WhisperEncoder(config), {"input_features": torch.randn(1, 8, 20)}


def _swin() -> tuple[nn.Module, dict[str, Tensor]]:
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(
        embed_dim=8, depths=[2], num_heads=[2], image_size=16, patch_size=2, window_size=4
    )
    return SwinModel(config), {"pixel_values": torch.randn(1, 3, 16, 16)}


@pytest.mark.parametrize("make", [_bert, _gpt2, _llama, _t5, _whisper, _swin])
def test_transformers(make: Callable[[], tuple[nn.Module, dict[str, Tensor]]]) -> None:
    """Every tensor of the model's dictionary, under its key."""
    torch.manual_seed(0)
    model, inputs = make()
    captured = check(model, (), inputs, tolerance=1e-4)
    assert "output" not in {port.name for port in captured.outputs}


def test_u_net() -> None:
    """Strides, group norm, transposed convolutions, skips and resizing."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.norm = nn.GroupNorm(4, 8)
            self.up = nn.ConvTranspose2d(8, 3, 2, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            y = nn.functional.silu(self.norm(self.down(x)))
            wide = nn.functional.interpolate(y, scale_factor=2, mode="bilinear")
            return torch.cat([self.up(y), x, wide], 1)

    check(Net(), (torch.randn(1, 3, 8, 8),))


def test_small_pieces() -> None:
    """Ops that models use and core ATen does not name."""

    class Pieces(nn.Module):
        def forward(self, x: Tensor, places: Tensor) -> tuple[Tensor, ...]:
            return (
                torch.einsum("bij,bkj->bik", x, x),
                nn.functional.pixel_shuffle(x.reshape(1, 12, 2, 2), 2),
                nn.functional.one_hot(places, 6),
                x.unfold(1, 2, 2),
                x.roll((1, -1), (1, 2)),
                x.repeat_interleave(2, 1),
                nn.functional.unfold(x[:, None], 2),
                nn.functional.pad(x, (2, 1), mode="circular"),
                torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])),
                torch.argsort(x, descending=True),
                x[torch.tensor([[[True] * 4] * 6] * 2)],
                x.masked_fill(x > 0, -1.0).std(1),
                nn.functional.glu(x),
                nn.functional.adaptive_max_pool1d(x, 3),
                x.index_add(1, places, x[:, :3]),
                torch.linalg.vector_norm(x, 3, dim=1),
                nn.functional.normalize(x),
            )

    check(Pieces(), (torch.randn(2, 6, 4), torch.tensor([0, 2, 5])))


def test_attention_variants() -> None:
    """Masks, causality, grouped queries, scale, missing batch."""

    class Heads(nn.Module):
        def forward(self, q: Tensor, k: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
            attend = nn.functional.scaled_dot_product_attention
            return (
                attend(q, k, k, enable_gqa=True),
                attend(q, q, q, is_causal=True, scale=0.3),
                attend(q, q, q, attn_mask=mask),
                attend(q, q, q, attn_mask=mask.float()),
                attend(q[0, 0], q[0, 0], q[0, 0]),
                attend(q[0], k[0, :1], k[0, :1]),
            )

    mask = torch.rand(5, 5) > 0.3
    check(Heads(), (torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8), mask))
