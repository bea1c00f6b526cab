"""An ONNX file as a module that `torch.export` can take.

Shapes are those of the example inputs: what a file computes from shapes and constants is computed
once, so that no size depends on data. Float constants become parameters. Operators are those of
the files that packages carry (https://onnx.ai/onnx/operators), and an unknown one is a KeyError.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

Item: TypeAlias = Any  # a torch tensor, or a numpy array where the value is known before any input
Attributes: TypeAlias = Mapping[str, Any]
# onnx.TensorProto.DataType
_NUMPY = MappingProxyType({1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64})
_FAR = 1 << 31  # ONNX spells "to the end" as a number beyond every extent


@dataclass(frozen=True)
class Step:
    """One node of the file."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Attributes


class OnnxGraph(nn.Module):
    """Runs the nodes of a file in order; inputs and outputs are the file's, in its order."""

    def __init__(self, path: Path, examples: Sequence[torch.Tensor]) -> None:
        super().__init__()
        import onnx

        self.path = path
        graph = onnx.load(path).graph
        known: dict[str, np.ndarray] = {t.name: _array(t) for t in graph.initializer}
        self.steps: list[Step] = []
        for node in graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if "value" in attributes:
                attributes["value"] = _array(attributes["value"])
            if node.op_type == "Constant":
                known[node.output[0]] = attributes["value"]
            else:
                ends = tuple(node.input), tuple(node.output)
                self.steps.append(Step(node.op_type, *ends, attributes))
        self.inputs = tuple(port.name for port in graph.input if port.name not in known)
        self.outputs = tuple(port.name for port in graph.output)
        self.constants: dict[str, np.ndarray] = {}
        self.places: dict[str, str] = {}
        self._keep(known)
        self._fold(examples)

    def _keep(self, known: Mapping[str, np.ndarray]) -> None:
        sizes = {name for step in self.steps if step.op == "Resize" for name in step.inputs[1:]}
        for name in dict.fromkeys(name for step in self.steps for name in step.inputs):
            if name not in known:
                continue
            array = known[name]
            if array.dtype != np.float32 or array.size == 1 or name in sizes:
                self.constants[name] = array
                continue
            self.places[name] = f"w{len(self.places)}_{re.sub(r'[^A-Za-z0-9]+', '_', name)}"
            weight = nn.Parameter(torch.from_numpy(array.copy()), requires_grad=False)
            self.register_parameter(self.places[name], weight)

    def _fold(self, examples: Sequence[torch.Tensor]) -> None:
        """Compute now what does not depend on the inputs' content, by the same rules."""
        values = self._values(examples)
        steps, self.steps = self.steps, []
        with torch.no_grad():
            for step in steps:
                items = [values[name] for name in step.inputs]
                name = step.outputs[0]
                if step.op == "Shape":
                    self.constants[name] = np.asarray(tuple(items[0].shape), dtype=np.int64)
                elif any(isinstance(item, torch.Tensor) for item in items):
                    self.steps.append(step)
                    values[name] = RULES[step.op](step.attributes, *items)
                    continue
                else:
                    made = RULES[step.op](step.attributes, *map(_tensor, items))
                    self.constants[name] = np.asarray(made)
                values[name] = self.constants[name]
        self.constants = {
            name: self.constants[name]
            for name in dict.fromkeys(name for step in self.steps for name in step.inputs)
            if name in self.constants
        }

    def _values(self, inputs: Sequence[torch.Tensor]) -> dict[str, Item]:
        values: dict[str, Item] = {"": None, **self.constants}
        values |= {name: getattr(self, place) for name, place in self.places.items()}
        return values | dict(zip(self.inputs, inputs, strict=True))

    def forward(self, *inputs: torch.Tensor) -> Any:
        values = self._values(inputs)
        for step in self.steps:
            items = (values[name] for name in step.inputs)
            values[step.outputs[0]] = RULES[step.op](step.attributes, *items)
        results = tuple(values[name] for name in self.outputs)
        return results[0] if len(results) == 1 else results


def _array(tensor: Any) -> np.ndarray:
    from onnx import numpy_helper

    return np.asarray(numpy_helper.to_array(tensor))


def _tensor(item: Item) -> Any:
    return torch.from_numpy(item.copy()) if isinstance(item, np.ndarray) else item


def _ints(item: Item) -> list[int]:
    return [int(number) for number in np.asarray(item).reshape(-1)]


def _number(item: Item) -> float:
    return float(np.asarray(item).reshape(-1)[0])


def _operand(item: Item) -> Any:
    """A constant of one element as a number, which does not change the other's dtype."""
    if isinstance(item, np.ndarray):
        return item.item() if item.size == 1 else _tensor(item)
    return item


def _binary(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _, a, b: function(_operand(a), _operand(b))


def _unary(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    return lambda _, x: function(x)


def _div(_: Attributes, a: Item, b: Item) -> Any:
    a, b = _operand(a), _operand(b)
    whole = isinstance(a, torch.Tensor) and not a.is_floating_point()
    return torch.div(a, b, rounding_mode="trunc") if whole else a / b


def _maximum(_: Attributes, a: Item, b: Item) -> Any:
    a, b = _operand(a), _operand(b)
    if not isinstance(a, torch.Tensor):
        a, b = b, a
    return torch.maximum(a, b) if isinstance(b, torch.Tensor) else a.clamp(min=b)


def _clip(_: Attributes, x: Item, low: Item = None, high: Item = None) -> Any:
    ends = (None if end is None else _number(end) for end in (low, high))
    return x.clamp(*ends)


def _cast(a: Attributes, x: Item) -> Any:
    return x.to(torch.from_numpy(np.zeros(0, _NUMPY[a["to"]])).dtype)


def _reshape(_: Attributes, x: Item, shape: Item) -> Any:
    return x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(_ints(shape))])


def _axes(a: Attributes, given: Item) -> list[int] | None:
    if given is not None:
        return _ints(given)
    return list(a["axes"]) if "axes" in a else None


def _unsqueeze(a: Attributes, x: Item, given: Item = None) -> Any:
    for axis in sorted(_axes(a, given) or ()):
        x = x.unsqueeze(axis)
    return x


def _squeeze(a: Attributes, x: Item, given: Item = None) -> Any:
    axes = _axes(a, given)
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _gather(a: Attributes, x: Item, index: Item) -> Any:
    axis = a.get("axis", 0)
    index = torch.as_tensor(index)
    if index.dim() == 0:
        return x.select(axis, int(index))
    if axis == 0 and x.dim() == 2:
        return F.embedding(index, x)
    return x.index_select(axis, index.reshape(-1))


def _slice(
    _: Attributes, x: Item, starts: Item, ends: Item, axes: Item = None, steps: Item = None
) -> Any:
    begin, end = _ints(starts), _ints(ends)
    where = range(len(begin)) if axes is None else _ints(axes)
    strides = [1] * len(begin) if steps is None else _ints(steps)
    index = [slice(None)] * x.dim()
    for axis, first, last, stride in zip(where, begin, end, strides, strict=True):
        index[axis] = slice(first, None if last >= _FAR else last, stride)
    return x[tuple(index)]


def _expand(_: Attributes, x: Item, shape: Item) -> Any:
    return x.expand(torch.broadcast_shapes(x.shape, _ints(shape)))


def _filled(a: Attributes, shape: Item) -> Any:
    value = a.get("value", np.zeros(1, np.float32))
    return np.full(_ints(shape), value.item(), value.dtype)


def _where(_: Attributes, condition: Item, a: Item, b: Item) -> Any:
    return torch.where(_tensor(condition), _operand(a), _operand(b))


def _reduce(function: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    def rule(a: Attributes, x: Item, given: Item = None) -> Any:
        axes = _axes(a, given) or list(range(x.dim()))
        return function(x, axes, keepdim=bool(a.get("keepdims", 1)))

    return rule


def _pads(a: Attributes, rank: int) -> list[int]:
    pads = list(a.get("pads", [0] * 2 * rank))
    if a.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or pads[:rank] != pads[rank:]:
        raise ValueError("padding that differs on the two sides")
    return pads[:rank]


def _conv(a: Attributes, x: Item, weight: Item, bias: Item = None) -> Any:
    rank = x.dim() - 2
    function = (F.conv1d, F.conv2d)[rank - 1]
    strides, dilations = (list(a.get(key, [1] * rank)) for key in ("strides", "dilations"))
    return function(x, weight, bias, strides, _pads(a, rank), dilations, a.get("group", 1))


def _conv_transpose(a: Attributes, x: Item, weight: Item, bias: Item = None) -> Any:
    strides, group = list(a.get("strides", [1, 1])), a.get("group", 1)
    return F.conv_transpose2d(x, weight, bias, strides, _pads(a, 2), groups=group)


def _batch_norm(a: Attributes, x: Item, *parts: Item) -> Any:
    scale, bias, mean, variance = parts
    return F.batch_norm(x, mean, variance, scale, bias, eps=a.get("epsilon", 1e-5))


def _layer_norm(a: Attributes, x: Item, scale: Item, bias: Item = None) -> Any:
    return F.layer_norm(x, tuple(scale.shape), scale, bias, a.get("epsilon", 1e-5))


def _max_pool(a: Attributes, x: Item) -> Any:
    return F.max_pool2d(x, list(a["kernel_shape"]), list(a["strides"]), _pads(a, 2))


def _avg_pool(a: Attributes, x: Item) -> Any:
    kernel, strides = list(a["kernel_shape"]), list(a["strides"])
    counted = bool(a.get("count_include_pad", 0))
    return F.avg_pool2d(x, kernel, strides, _pads(a, 2), count_include_pad=counted)


def _resize(_: Attributes, x: Item, __: Item, scales: Item) -> Any:
    """The nearest element, by whole factors."""
    factors = np.asarray(scales).tolist()
    return F.interpolate(x, scale_factor=factors[2:], mode="nearest")


def _hard_sigmoid(a: Attributes, x: Item) -> Any:
    return (x * a.get("alpha", 0.2) + a.get("beta", 0.5)).clamp(0.0, 1.0)


def _spatial(x: torch.Tensor) -> Sequence[int]:
    return tuple(range(2, x.dim()))


RULES: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "Add": _binary(lambda a, b: a + b),
        "Sub": _binary(lambda a, b: a - b),
        "Mul": _binary(lambda a, b: a * b),
        "Pow": _binary(lambda a, b: a**b),
        "Equal": _binary(lambda a, b: a == b),
        "MatMul": _binary(lambda a, b: a @ b),
        "Div": _div,
        "Max": _maximum,
        "Relu": _unary(torch.relu),
        "Sigmoid": _unary(torch.sigmoid),
        "Tanh": _unary(torch.tanh),
        "Exp": _unary(torch.exp),
        "Erf": _unary(torch.erf),
        "Sqrt": _unary(torch.sqrt),
        "Reciprocal": _unary(torch.reciprocal),
        "Identity": _unary(lambda x: x),
        "HardSigmoid": _hard_sigmoid,
        "Clip": _clip,
        "Softmax": lambda a, x: x.softmax(a.get("axis", -1)),
        "Cast": _cast,
        "Transpose": lambda a, x: x.permute(*a["perm"]),
        "Reshape": _reshape,
        "Unsqueeze": _unsqueeze,
        "Squeeze": _squeeze,
        "Concat": lambda a, *items: torch.cat([_tensor(item) for item in items], a["axis"]),
        "Gather": _gather,
        "Slice": _slice,
        "Expand": _expand,
        "ConstantOfShape": _filled,
        "Where": _where,
        "ReduceSum": _reduce(torch.sum),
        "ReduceMean": _reduce(torch.mean),
        "ReduceMax": _reduce(torch.amax),
        "GlobalAveragePool": _unary(lambda x: F.adaptive_avg_pool2d(x, 1)),
        "GlobalMaxPool": _unary(lambda x: x.amax(_spatial(x), keepdim=True)),
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "BatchNormalization": _batch_norm,
        "LayerNormalization": _layer_norm,
        "MaxPool": _max_pool,
        "AveragePool": _avg_pool,
        "Resize": _resize,
    }
)
