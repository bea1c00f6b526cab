"""Every core ATen op that counts: captured, compiled for the host, and compared with torch.

`pytest tests/contracts/test_aten_core.py --update` rewrites the record that `optc ops` prints.
"""

from __future__ import annotations

import itertools
import re

import pytest
import torch

from optc.ir.capture import capture
from optc.ir.capture.coverage import coverage
from optc.ir.diagnostics import OptcError
from optc.optable import Measurement, op_table, read, write
from tests.contracts.aten_by_hand import Call
from tests.contracts.aten_compiled import SUPPORTED, Sample, failures_of, measure
from tests.contracts.aten_samples import case

REFUSED = [item.name for item in coverage() if item.counts and not item.supported]


@pytest.mark.parametrize("packet", SUPPORTED)
def test_compiled_agrees_with_torch(packet: str) -> None:
    found = measure(packet)
    assert found.samples, f"no samples of {packet}"
    assert not found.failures, "\n\n".join(found.failures)


@pytest.mark.parametrize("packet", REFUSED)
def test_is_refused_with_a_reason(packet: str) -> None:
    """What cannot be supported ends in one coded diagnostic."""
    sample = case(packet)
    with pytest.raises(OptcError) as caught:
        capture(sample.module(), sample.inputs)
    assert caught.value.diagnostics[0].code in {"E0221", "E0230"}


def test_the_record_is_what_was_measured(request: pytest.FixtureRequest) -> None:
    """`optc ops` cannot say more than the tests above found."""
    found = {name: measure(name) for name in SUPPORTED}
    passed = {
        name: Measurement(of.samples, of.dtypes) for name, of in found.items() if not of.failures
    }
    version = re.sub(r"\+.*", "", torch.__version__)
    if request.config.getoption("--update"):
        write(version, passed)
    wanted = {
        name: {"samples": of.samples, "dtypes": list(of.dtypes)} for name, of in passed.items()
    }
    assert read() == {"torch": version, "ops": wanted}, "run this file with --update"


def test_at_least_95_percent() -> None:
    """The table that `optc ops` prints."""
    table = op_table()
    assert len(table.rows) >= 160
    assert table.percentage >= 95.0
    assert all(row.measured for row in table.supported)
    assert all(row.reason for row in table.rows if not (row.supported and row.counts))


def test_a_failure_names_the_packet_and_the_sample() -> None:
    """One call that cannot be captured and one that gives something else, among good ones."""
    x, count = torch.randn(3), itertools.count()
    calls = [
        torch.relu,
        torch.nonzero,
        lambda x: x + next(count),
        torch.abs,
    ]
    samples = [Sample("made-up", i, Call(function, (x,))) for i, function in enumerate(calls)]
    found = [(sample.number, text) for sample, text in failures_of(samples)]
    assert {number for number, _ in found} == {1, 2}
    assert all(f"made-up, sample {number} (3xfloat32)" in text for number, text in found)
