"""Two sets that never mix: what is in both is not learnt from, whatever the order or batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from optc.arrays import Tensor
from optc.data.dataset import Dataset, open_dataset
from optc.data.pair import paired
from optc.data.split import Split
from optc.ir.diagnostics import OptcError
from optc.passes.quality import Part

NUMBERS = st.lists(st.integers(0, 30), min_size=1, max_size=40)


def ports(batch: int) -> tuple[Tensor, ...]:
    return (Tensor("x", (batch, 2), "f32"), Tensor("mask", (batch,), "bool"))


def rows(numbers: Sequence[int]) -> dict[str, NDArray[Any]]:
    x = np.asarray(numbers, np.float32)
    return {"x": np.stack([x, -x], 1), "mask": x > 10, "labels": x.astype(np.int64)}


def opened(numbers: Sequence[int], batch: int, share: int) -> Dataset:
    return open_dataset(rows(numbers), ports(batch), split=Split(0, share))


def seen(data: Any, part: Part) -> list[int]:
    """The labels of a part's samples, in order."""
    found: list[int] = []
    for batch in data.part(part):
        assert batch.labels is not None
        found += batch.labels[: batch.valid].tolist()
        assert batch.inputs["x"][: batch.valid, 0].tolist() == found[-batch.valid :]
    return found


@given(NUMBERS, NUMBERS, st.integers(1, 5))
def test_what_is_in_both_is_not_learnt_from(own: list[int], other: list[int], batch: int) -> None:
    learning, judging = opened(own, batch, 10), opened(other, batch, 0)
    rest = [number for number in own if number not in other]
    if not rest:
        with pytest.raises(OptcError, match="E0750"):
            paired(learning, judging)
        return
    found = paired(learning, judging)
    assert seen(found, Part.CALIBRATION) == rest
    assert seen(found, Part.HELD_OUT) == seen(found, Part.ALL) == other
    assert found.shared == len(own) - len(rest)
    assert [finding.code for finding in found.findings()] == ["W0751"] * (found.shared > 0)
    record = found.record()
    assert record["held_out"] == record["samples"] == len(other)
    assert record["calibration_data"]["calibration"] == len(rest)
    assert found.part(Part.CALIBRATION).samples == len(rest)


def test_parts_are_named_by_what_is_in_them() -> None:
    """Learning from other samples is another question, whose answers are kept apart."""
    names = {
        paired(opened(range(20), 2, 10), opened(other, 2, 0)).part(Part.CALIBRATION).digest
        for other in ([30], [3, 30], [4, 30], [3, 4])
    }
    assert len(names) == 4
    same = [paired(opened(range(20), 2, 10), opened([3, k], 2, 0)) for k in (30, 29)]
    assert len({pair.part(Part.CALIBRATION).digest for pair in same}) == 1
    assert len({pair.digest for pair in same}) == 2


def test_one_input_more_makes_another_sample() -> None:
    """Equal pictures under another mask are not the same sample."""
    given = rows(range(12))
    turned = {**given, "mask": ~given["mask"]}
    learning = open_dataset(given, ports(1), split=Split(0, 10))
    assert paired(learning, open_dataset(turned, ports(1), split=Split(0, 0))).shared == 0


def test_calls_and_rows_do_not_go_together() -> None:
    calls = {name: array[None] for name, array in rows(range(4)).items()}
    whole = open_dataset(calls, ports(4), split=Split(0, 10))
    with pytest.raises(OptcError, match="E0742"):
        paired(whole, opened(range(9), 4, 0))
