"""Dynamic dimensions: fixed by name, or a diagnostic that says what to type."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.export import Dim, export, save

from optc.backends.reference.evaluate import run
from optc.ir.capture import capture
from optc.ir.diagnostics import OptcError
from tests.ir.capture.models import Net, dynamic_tokens


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`Tokens` with open dimensions, saved."""
    path = tmp_path_factory.mktemp("dims") / "tokens.pt2"
    save(dynamic_tokens(), path)
    return path


@pytest.mark.parametrize(
    "shapes", [{"batch": 1, "seq": 7}, {"input_ids.0": 1, "input_ids.1": 7}], ids=str
)
def test_archive_with_numbers(archive: Path, shapes: dict[str, int]) -> None:
    """Usual names and places both work, and shape arithmetic follows."""
    captured = capture(archive, shapes=shapes)
    assert captured.inputs[0].type.shape == (1, 7)
    ids = torch.arange(7)[None]
    found = run(captured, {"input_ids": ids}).outputs["output"]
    torch.testing.assert_close(found, torch.export.load(archive).module()(ids))


def test_names_of_a_program_in_memory() -> None:
    """The names given to Dim count."""
    rows = Dim("rows", min=1, max=9)
    program = export(Net().eval(), (torch.ones(2, 8),), dynamic_shapes={"x": {0: rows}})
    assert capture(program, shapes={"rows": 3}).outputs[0].type.shape == (3, 4)


def test_missing_numbers(archive: Path) -> None:
    """The dimensions, their ranges, and the line to type."""
    with pytest.raises(OptcError) as caught:
        capture(archive, shapes={"batch": 4})
    text = str(caught.value)
    assert "E0210" in text
    assert "seq: 2 to 64 (axis 1 of input_ids)" in text
    assert "--shape batch=4,seq=64" in text


def test_unknown_name(archive: Path) -> None:
    """The nearest names are offered."""
    with pytest.raises(OptcError, match=r"(?s)E0211.*did you mean batch\?"):
        capture(archive, shapes={"bach": 1, "seq": 4})
    with pytest.raises(OptcError, match="no dynamic dimension"):
        capture(Net().eval(), (torch.ones(2, 8),), shapes={"batch": 1})


def test_out_of_range(archive: Path) -> None:
    """With the range."""
    with pytest.raises(OptcError, match=r"E0212.*65.*2 to 64"):
        capture(archive, shapes={"batch": 1, "seq": 65})


def test_derived_dimensions(tmp_path: Path) -> None:
    """One number fixes a dimension and those made of it."""

    class Pair(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, y[::2]]) + y.shape[0]

    n = Dim("n", min=2, max=30)
    shapes = {"x": {0: n}, "y": {0: 2 * n}}
    save(export(Pair(), (torch.ones(4), torch.ones(8)), dynamic_shapes=shapes), tmp_path / "p.pt2")
    captured = capture(tmp_path / "p.pt2", shapes={"batch": 5})
    assert [port.type.shape for port in captured.inputs] == [(5,), (10,)]
    found = run(captured, {"x": torch.ones(5), "y": torch.ones(10)}).outputs["output"]
    torch.testing.assert_close(found, torch.full((10,), 11.0))
