"""Nested inputs and outputs of a compiled model: as the model takes and returns them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import optc
from optc.ir.diagnostics import OptcError
from optc.ir.store import load, save
from optc.runtime import Artifact


class Pair(NamedTuple):
    low: Any
    high: Any


class Nested(nn.Module):
    def forward(
        self, batch: dict[str, Tensor], rows: list[Tensor | None], pair: Pair
    ) -> dict[str, Any]:
        total = batch["b"] - batch["a"] + rows[1]
        return {"total": total, "parts": [(batch["a"] * 2, None)], "by name": {"x": pair.high + 1}}


def square(number: float) -> Tensor:
    return torch.full((2, 3), number)


def arguments(convert: Any) -> tuple[Any, ...]:
    a, b, c, d, e = (convert(square(n)) for n in (1.0, 2.0, 3.0, 4.0, 5.0))
    return {"b": b, "a": a}, [None, c], Pair(d, e)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("nested") / "out"
    module = optc.capture(Nested(), arguments(lambda tensor: tensor))
    return optc.load(optc.compile(module, out=out).path)


def check(result: Any) -> None:
    assert list(result) == ["total", "parts", "by name"]
    assert np.array_equal(result["total"], square(4.0))
    ((double, nothing),) = result["parts"]
    assert (type(result["parts"]), type(result["parts"][0]), nothing) == (list, tuple, None)
    assert np.array_equal(double, square(2.0))
    assert np.array_equal(result["by name"]["x"], square(6.0))


def test_called_as_the_model_is_called(artifact: Artifact) -> None:
    names = ["batch.b", "batch.a", "rows.1", "pair.low", "pair.high"]
    assert [port.name for port in artifact.inputs] == names
    check(artifact(*arguments(Tensor.numpy)))


def test_the_order_of_a_dictionary_does_not_count(artifact: Artifact) -> None:
    batch, rows, pair = arguments(Tensor.numpy)
    check(artifact(dict(reversed(batch.items())), rows, pair._asdict()))


def test_called_by_names(artifact: Artifact) -> None:
    batch, rows, pair = arguments(Tensor.numpy)
    check(artifact(batch=batch, rows=rows, pair=pair))
    check(artifact(batch, rows, **{"pair.low": pair.low, "pair.high": pair.high}))


def test_a_key_that_the_model_does_not_know(artifact: Artifact) -> None:
    batch, rows, pair = arguments(Tensor.numpy)
    with pytest.raises(OptcError, match="E0520") as caught:
        artifact({"b": batch["b"], "A": batch["a"]}, rows, pair)
    assert "no input is called 'batch.A'" in str(caught.value)
    assert "'batch.a' is missing" in str(caught.value)


def test_the_same_from_pt2_and_from_text(tmp_path: Path) -> None:
    program = torch.export.export(_Plain(), (square(1.0),))
    torch.export.save(program, tmp_path / "plain.pt2")
    module = optc.capture(tmp_path / "plain.pt2")
    save(module, tmp_path / "plain.optc")
    for source in (module, load(tmp_path / "plain.optc")):
        out = tmp_path / f"out{id(source)}"
        result = optc.load(optc.compile(source, out=out).path)(square(1.0).numpy())
        assert type(result) is list
        assert np.array_equal(result[0]["y"], square(2.0))
        assert result[1] is None


class _Plain(nn.Module):
    def forward(self, x: Tensor) -> list[Any]:
        return [{"y": x + 1}, None]
