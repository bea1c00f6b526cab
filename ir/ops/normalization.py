"""Ops that subtract a mean, divide by a spread, or make weights that sum to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optc.ir.ops.base import Op, Types, axis_of, require, same_dtype
from optc.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class BatchNorm(Op):
    """Inference batch norm: inputs x, mean, variance, scale, bias (each [C]).

    (x - mean) / sqrt(variance + epsilon) * scale + bias (Ioffe and Szegedy 2015, algorithm 2).
    Channels are axis 1, or the last one when `channels_last`.
    """

    arity: ClassVar[tuple[int, int]] = (5, 5)
    epsilon: float = 1e-5
    channels_last: bool = False

    def _infer(self, *inputs: TensorType) -> Types:
        x = inputs[0]
        channels = x.shape[-1] if self.channels_last else x.shape[1]
        for item in inputs[1:]:
            require(item.shape == (channels,), f"batch_norm of {channels} channels got {item}")
        return (x,)


@dataclass(frozen=True, slots=True)
class LayerNorm(Op):
    """Normalise the last `axes` axes: inputs x, and weight, and bias, of those axes' shape.

    Weight and bias may be left out, the bias alone too (Ba, Kiros and Hinton 2016, equation 4).
    """

    arity: ClassVar[tuple[int, int]] = (1, 3)
    axes: int = 1
    epsilon: float = 1e-5

    def _infer(self, *inputs: TensorType) -> Types:
        x = inputs[0]
        require(1 <= self.axes <= x.rank, f"{self.name} over {self.axes} axes of {x}")
        for item in inputs[1:]:
            require(item.shape == x.shape[-self.axes :], f"{self.name}: {item} does not fit {x}")
        return (x,)


@dataclass(frozen=True, slots=True)
class RmsNorm(Op):
    """x / sqrt(mean(x^2) + epsilon) [* weight] over the last `axes` axes (Zhang, Sennrich 2019)."""

    arity: ClassVar[tuple[int, int]] = (1, 2)
    axes: int = 1
    epsilon: float = 1e-6

    def _infer(self, *inputs: TensorType) -> Types:
        x = inputs[0]
        require(1 <= self.axes <= x.rank, f"{self.name} over {self.axes} axes of {x}")
        for item in inputs[1:]:
            require(item.shape == x.shape[-self.axes :], f"{self.name}: {item} does not fit {x}")
        return (x,)


@dataclass(frozen=True, slots=True)
class GroupNorm(Op):
    """Normalise each sample's groups of channels: inputs x, and weight [C] and bias [C] or neither.

    Wu and He 2018, section 3. `groups` equal to the channels is instance norm.
    """

    arity: ClassVar[tuple[int, int]] = (1, 3)
    groups: int = 1
    epsilon: float = 1e-5
    channels_last: bool = False

    def _infer(self, *inputs: TensorType) -> Types:
        x = inputs[0]
        require(len(inputs) != 2, "group_norm takes a weight and a bias, or neither")
        channels = x.shape[-1] if self.channels_last else x.shape[1]
        require(channels % self.groups == 0, f"{channels} channels in {self.groups} groups")
        for item in inputs[1:]:
            require(item.shape == (channels,), f"group_norm of {channels} channels got {item}")
        return (x,)


@dataclass(frozen=True, slots=True)
class Softmax(Op):
    """exp(x - max) / sum along an axis."""

    axis: int = 0

    def _infer(self, *inputs: TensorType) -> Types:
        axis_of(self.axis, inputs[0].rank)
        require(same_dtype(*inputs).is_float, f"{self.name} takes a float, not {inputs[0]}")
        return inputs


@dataclass(frozen=True, slots=True)
class LogSoftmax(Softmax):
    """Logarithm of softmax along an axis."""
