"""Models as people write them come out of the standard order as the ops they mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optc.backends.reference.evaluate import run
from optc.ir.builder import Builder
from optc.ir.capture import capture
from optc.ir.dtype import DType
from optc.ir.module import Module, module_of
from optc.ir.ops import Attention, MatMul, Softmax, ew
from optc.ir.text import parse
from optc.ir.types import TensorType
from optc.passes.base import Effect, Pass, PassContext, run_passes
from optc.passes.canonicalize.canonicalize import CLEAN, Canonicalize
from optc.passes.pipeline import Pipeline
from optc.passes.raising.raise_attention import RaiseAttention
from optc.passes.standard import CANONICALIZE, LOWER, RAISE
from tests.passes.oracle import context, ops_of


class Block(nn.Module):
    """A transformer layer with its norm, heads, mask and activation written out."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 32), nn.Linear(32, width)
        self.weight, self.bias = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width))

    def norm(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(-1, keepdim=True)
        return self.weight * (x - mean) / torch.sqrt(variance + 1e-5) + self.bias

    def split(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        x = x.view(b, t, self.heads, d // self.heads).transpose(1, 2)
        return x.reshape(b * self.heads, t, d // self.heads)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        y = self.norm(x)
        q, k, v = self.split(self.q(y)), self.split(self.k(y)), self.split(self.v(y))
        scores = torch.bmm(q, k.transpose(1, 2)) / (d // self.heads) ** 0.5
        ahead = torch.triu(torch.ones(t, t, dtype=torch.bool), 1)
        weights = torch.softmax(scores.masked_fill(ahead, float("-inf")), -1)
        z = torch.bmm(weights, v).view(b, self.heads, t, d // self.heads)
        x = x + self.out(z.transpose(1, 2).reshape(b, t, d))
        h = self.up(self.norm(x))
        cubic = h + 0.044715 * torch.pow(h, 3)
        return x + self.down(0.5 * h * (1 + torch.tanh(0.7978845608 * cubic)))


class Grouped(nn.Module):
    """Grouped-query attention after an RMS norm, with a gated unit of SiLU, as in Llama."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))
        self.q, self.k, self.v = (nn.Linear(width, n, bias=False) for n in (width, 8, 8))
        self.gate, self.up = (nn.Linear(width, 24, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        y = self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
        q = self.q(y).view(b, t, 4, 4).transpose(1, 2)
        k, v = (f(y).view(b, t, 2, 4).transpose(1, 2) for f in (self.k, self.v))
        k, v = (z[:, :, None].expand(b, 2, 2, t, 4).reshape(b, 4, t, 4) for z in (k, v))
        z = torch.softmax(q @ k.transpose(2, 3) * 0.5, dim=-1) @ v
        y = y + z.transpose(1, 2).reshape(b, t, 16)
        gate = self.gate(y)
        return gate * torch.sigmoid(gate) * self.up(y)


class Memory(nn.Module):
    """A Legendre memory unit's filter, applied in the frequency domain (LMUFormer)."""

    def __init__(self, channels: int = 6, steps: int = 10) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("spectrum", torch.fft.rfft(torch.randn(channels, steps), n=2 * steps))
        self.encode = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        u = torch.relu(self.encode(x)).permute(0, 2, 1)
        spectrum = torch.fft.rfft(u, n=2 * self.steps, dim=-1) * self.spectrum
        return torch.fft.irfft(spectrum, n=2 * self.steps, dim=-1)[:, :, : self.steps]


class Image(nn.Module):
    """Convolutions with norms, padding of their own, and a pooled hard-swish."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8)
        self.second, self.later = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        for norm in (self.norm, self.later):
            nn.init.uniform_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(nn.functional.pad(x, (0, 1, 0, 1))))
        x = x * nn.functional.relu6(x + 3) / 6
        return nn.functional.adaptive_avg_pool2d(self.later(self.second(x)), 1).flatten(1)


CASES: Mapping[str, tuple[type[nn.Module], tuple[int, ...], dict[str, int]]] = {
    "block": (Block, (2, 6, 16), {"attention": 1, "layer_norm": 2, "gelu": 1, "linear": 4}),
    "grouped": (Grouped, (2, 6, 16), {"attention": 1, "rms_norm": 1, "silu": 1, "linear": 2}),
    "memory": (Memory, (2, 10, 4), {"conv": 1, "linear": 1, "relu": 1, "reshape": 1}),
    "image": (Image, (1, 3, 8, 8), {"conv": 2, "hard_swish": 1, "reduce_mean": 1}),
}
LEFT_OVER = {
    "softmax",
    "mat_mul",
    "tanh",
    "batch_norm",
    "pad",
    "expand",
    "div",
    "pow",
    "sigmoid",
    "clamp",
}


@pytest.mark.parametrize("name", CASES)
def test_a_model_comes_out_as_the_ops_it_means(name: str) -> None:
    torch.manual_seed(0)
    cls, shape, wanted = CASES[name]
    model, x = cls().eval(), torch.randn(shape)
    module = capture(model, (x,))
    after = run_passes(module, (*CANONICALIZE, *RAISE, *LOWER), context())
    found = Counter(ops_of(after))
    assert {op: found[op] for op in wanted} == wanted
    assert not LEFT_OVER & set(found)
    (result,) = run(after, {module.inputs[0].name: x}).outputs.values()
    expected = model(x).detach()
    assert float((result - expected).abs().max()) <= 2e-6 * float(expected.abs().max())


def test_causality_is_found_in_a_filled_mask() -> None:
    module = capture(Block().eval(), (torch.randn(2, 6, 16),))
    after = run_passes(module, (*CANONICALIZE, *RAISE), context())
    (op,) = (node.op for node in after.graphs[0].nodes if isinstance(node.op, Attention))
    assert op == Attention(0.5, causal=True)


@pytest.mark.parametrize("source", ["x", "constant"])
def test_a_mask_behind_thousands_of_nodes_is_a_mask(source: str) -> None:
    build = Builder("main")
    type = TensorType((2, 4, 4), DType.F32)
    x = build.input(type, "x")
    mask = x if source == "x" else build.constant(np.zeros(type.shape, np.float32))
    for _ in range(2000):
        mask = build.emit(ew.Sin(), mask)
    scores = build.emit(ew.Add(), build.emit(MatMul(transpose_b=True), x, x), mask)
    y = build.emit(MatMul(), build.emit(Softmax(2), scores), x)
    (graph,) = run_passes(module_of(build.build((y,))), (RaiseAttention(),), context()).graphs
    (node,) = (node for node in graph.nodes if isinstance(node.op, Attention))
    assert len(node.inputs) == 4
    assert not node.op.causal


@dataclass
class Names:
    """Observes which passes ran."""

    seen: list[str] = field(default_factory=list)

    def before(self, step: Pass, module: Module) -> None:
        """Nothing to note."""

    def after(self, step: Pass, before: Module, after: Module) -> None:
        """Note the name."""
        self.seen.append(step.name)


IDLE = parse("graph @main(%x: 4xf32) {\n  %y = exp(%x) : 4xf32\n  return %y\n}")


def watched(passes: tuple[Pass, ...], ctx: PassContext) -> list[str]:
    names = Names()
    assert run_passes(IDLE, passes, ctx, (names,)) is IDLE
    return names.seen


def test_passes_made_of_passes_are_watched_one_by_one() -> None:
    wanted = [step.name for step in CLEAN]
    assert watched((Canonicalize(),), context()) == wanted
    assert watched((Pipeline(CLEAN[:2]),), context()) == wanted[:2]


def test_exactness_reaches_the_passes_inside() -> None:
    wanted = [step.name for step in CLEAN if step.effect is Effect.EXACT]
    assert watched((Canonicalize(), *RAISE[:-1]), context(exact=True))[: len(wanted)] == wanted


def test_the_standard_order_is_spelled_and_read_back() -> None:
    passes = (*CANONICALIZE, *RAISE, *LOWER)
    assert Pipeline.parse(str(Pipeline(passes))) == Pipeline(passes)
