"""Every core ATen op that counts: captured, evaluated, and compared with torch on sample calls."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from optc.backends.reference.evaluate import run
from optc.ir.capture import capture
from optc.ir.capture.coverage import coverage
from optc.ir.diagnostics import OptcError
from optc.ir.verify import verify
from optc.optable import op_table
from tests.contracts.aten_samples import case

COUNTED = [item for item in coverage() if item.counts]
SUPPORTED = [item.name for item in COUNTED if item.supported]
REFUSED = [item.name for item in COUNTED if not item.supported]


@pytest.mark.parametrize("packet", SUPPORTED)
def test_agrees_with_torch(packet: str) -> None:
    """Capture all sample calls of the op and compare the reference's outputs with torch's."""
    sample = case(packet)
    assert sample.calls, f"no samples of {packet}"
    module = sample.module()
    wanted = module(*sample.inputs)
    captured = capture(module, sample.inputs)
    assert not verify(captured)
    names = [port.name for port in captured.inputs]
    result = run(captured, dict(zip(names, map(pairs, sample.inputs), strict=True))).outputs
    assert len(result) == len(wanted)
    for found, expected in zip(result.values(), wanted, strict=True):
        compare(found, pairs(expected))


def pairs(x: Tensor) -> Tensor:
    """A complex tensor as the artifact takes and gives it."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def compare(found: Tensor, expected: Tensor) -> None:
    """Same dtype, same shape, same numbers within rounding."""
    loose = {"rtol": 1e-4, "atol": 1e-5} if expected.dtype is torch.float32 else {}
    torch.testing.assert_close(found, expected, equal_nan=True, **loose)


@pytest.mark.parametrize("packet", REFUSED)
def test_is_refused_with_a_reason(packet: str) -> None:
    """What cannot be supported ends in one coded diagnostic."""
    sample = case(packet)
    with pytest.raises(OptcError) as caught:
        capture(sample.module(), sample.inputs)
    assert caught.value.diagnostics[0].code in {"E0221", "E0230"}


def test_at_least_95_percent() -> None:
    """The table that `optc ops` prints."""
    table = op_table()
    assert len(table.rows) >= 160
    assert table.percentage >= 95.0
    assert all(row.reason for row in table.rows if not (row.supported and row.counts))
