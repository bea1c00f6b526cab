"""Models with PyTorch's own (de)quantize ops are taken as they are, and become integers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.ao.quantization.fx._decomposed
from torch import Tensor, nn

import optc
from optc.backends.reference.evaluate import run
from optc.ir.dtype import DType
from optc.ir.ops import Conv, Linear, Requantize
from optc.passes.base import run_passes
from optc.passes.standard import CANONICALIZE, LOWER, RAISE
from tests.passes.oracle import context

ops = torch.ops.quantized_decomposed


class Quantized(nn.Module):
    """A convolution and a linear layer, as `convert_pt2e` leaves them."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.dtype, (self.low, self.high) = dtype, (0, 255) if dtype is torch.uint8 else (-128, 127)
        for name, shape in (("conv", (4, 2, 3, 3)), ("linear", (3, 4))):
            weight = torch.randint(-127, 128, shape, generator=draw, dtype=torch.int8)
            self.register_buffer(f"{name}_weight", weight)
            scale = torch.rand(shape[0], generator=draw) * 0.01 + 0.001
            self.register_buffer(f"{name}_scale", scale)
            self.register_buffer(f"{name}_zero", torch.zeros(shape[0], dtype=torch.int64))
            self.register_buffer(f"{name}_bias", torch.randn(shape[0], generator=draw))

    def small(self, x: Tensor, scale: float, zero: int) -> Tensor:
        """Quantized and back."""
        limits = (self.low, self.high, self.dtype)
        q = ops.quantize_per_tensor.default(x, scale, zero, *limits)
        return ops.dequantize_per_tensor.default(q, scale, zero, *limits)

    def weight(self, name: str) -> Tensor:
        """A weight, a scale per output channel."""
        q, scale, zero = (getattr(self, f"{name}_{part}") for part in ("weight", "scale", "zero"))
        return ops.dequantize_per_channel.default(q, scale, zero, 0, -127, 127, torch.int8)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        x = self.small(x, 0.03125, 3)
        x = torch.nn.functional.conv2d(x, self.weight("conv"), self.conv_bias, padding=1).relu()
        x = self.small(self.small(x, 0.0625, self.low).mean((2, 3)), 0.03125, self.low)
        return torch.nn.functional.linear(x, self.weight("linear"), self.linear_bias)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_a_quantized_model_is_taken_as_it_is(dtype: torch.dtype) -> None:
    x, model = torch.randn(2, 2, 6, 6), Quantized(dtype).eval()
    module = optc.capture(model, (x,))
    inputs = {module.inputs[0].name: x}
    (found,) = run(module, inputs).outputs.values()
    torch.testing.assert_close(found, model(x), rtol=1e-5, atol=1e-5)
    lowered = run_passes(module, (*CANONICALIZE, *RAISE, *LOWER), context())
    layers = [n for n in lowered.graphs[0].nodes if isinstance(n.op, Conv | Linear)]
    assert [node.output.type.dtype for node in layers] == [DType.I32, DType.I32]
    assert any(isinstance(node.op, Requantize) for node in lowered.graphs[0].nodes)
    (integers,) = run(lowered, inputs).outputs.values()
    assert float((integers - found).abs().max()) <= 0.02 * float(found.abs().max())


def test_a_file_of_a_quantized_model_is_read(tmp_path: Path) -> None:
    model, x = Quantized(torch.uint8).eval(), torch.randn(2, 2, 6, 6)
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "model.pt2")
    module = optc.capture(tmp_path / "model.pt2")
    (found,) = run(module, {module.inputs[0].name: x}).outputs.values()
    torch.testing.assert_close(found, model(x), rtol=1e-5, atol=1e-5)


def test_fewer_integers_than_the_dtype_has_are_a_clamp() -> None:
    class Few(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ops.quantize_per_tensor.default(x, 0.5, 2, -8, 7, torch.int8)

    x = torch.linspace(-9, 9, 37)
    module = optc.capture(Few(), (x,))
    (found,) = run(module, {module.inputs[0].name: x}).outputs.values()
    assert torch.equal(found, Few()(x))
