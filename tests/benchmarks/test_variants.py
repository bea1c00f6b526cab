"""Tables of variants: what is kept from run to run, and what a row says of a budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import families, together
from benchmarks.variants import (
    Facts,
    Subject,
    Timed,
    Variant,
    in_turns,
    is_prepared,
    prepare,
    read_times,
    write_times,
)
from optc.ir.targets.find import find_target
from optc.ir.text import parse
from optc.passes.quality import Verdict

VARIANT = Variant("prune", "prune-channels{ratio=0.3}")
SCORE = (0.9, 0.88, 0.92)
FACTS = Facts(
    VARIANT, "host", SCORE, SCORE, (0.012, 0.005, 0.019), 700, "the artifact", {}, "", 1.0
)
TIME = Timed(1.0, 2.0, 1.1, 0.5, 3.25, 8.0, 7.5)
TEXT = """graph @main(%x: 1x6xf32) {
  %w = constant {seed=1} : 3x6xf32
  %y = linear(%x, %w) : 1x3xf32
  return %y
}
"""


def test_facts_and_times_are_read_as_they_were_written(tmp_path: Path) -> None:
    FACTS.write(tmp_path / "facts.json")
    assert Facts.read(tmp_path / "facts.json") == FACTS
    assert read_times(tmp_path) == {}
    write_times([VARIANT], [TIME], tmp_path)
    assert read_times(tmp_path) == {"prune": TIME}


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.005, 0.019, Verdict.HELD), (0.005, 0.021, Verdict.OPEN), (0.021, 0.03, Verdict.BROKEN)],
)
def test_a_budget_is_held_by_the_whole_interval(low: float, high: float, verdict: Verdict) -> None:
    assert replace(FACTS, lost=(0.012, low, high)).verdict is verdict


def subject() -> Subject:
    """Six numbers in three classes, labelled by the model itself."""
    module = parse(TEXT)
    x = np.random.default_rng(0).standard_normal((60, 6)).astype(np.float32)
    (w,) = (item.array for item in module.graphs[0].constants.values())
    return Subject("m", module, {"x": x, "labels": (x @ w.T).argmax(1)}, "accuracy")


def test_a_variant_is_prepared_once_and_again_when_it_is_another(tmp_path: Path) -> None:
    given, variant = subject(), Variant("small", "quantize")
    evidence = given.evidence(variant.budget)
    made = prepare(given, evidence, variant, tmp_path, find_target("host"))
    assert is_prepared(variant, tmp_path)
    assert not is_prepared(replace(variant, passes=""), tmp_path)
    facts = Facts.read(tmp_path / "small" / "facts.json")
    assert made.quality is not None
    assert facts.score[0] == made.quality.difference.after.value
    assert facts.samples == 42


class Clock:
    """An artifact that takes the times it is given."""

    def __init__(self, times: list[int]) -> None:
        self.times = times

    def bench(self, *, runs: int, **_: Any) -> Any:
        return np.array([self.times.pop(0) if runs == 1 else 0], np.uint64)


def test_a_disturbed_call_is_left_out_of_all_variants() -> None:
    first, second = Clock([1000, 1000, 1000, 9000]), Clock([100, 7000, 300, 400])
    found = in_turns([first, second], [{}] * 4)  # type: ignore[list-item]
    assert np.allclose(found, [[1e-3, 1e-4], [1e-3, 3e-4]], rtol=1e-12)


def test_a_table_has_each_model_beside_its_plain_artifact(tmp_path: Path) -> None:
    model = families.MODELS["photos"]
    for variant in model.variants:
        (tmp_path / "photos" / variant.key).mkdir(parents=True)
        replace(FACTS, variant=variant).write(tmp_path / "photos" / variant.key / "facts.json")
    write_times(model.variants, [TIME] * len(model.variants), tmp_path / "photos")
    rows = list(families.rows("Precision", tmp_path))
    assert [row[1] for row in rows] == [
        "f32",
        "`quantize`",
        f"`assign-precision{model.way.options}`",
    ]
    assert {len(row) for row in rows} == {len(families.HEADS)}
    assert rows[0][2:4] == ["90.00 (88.00 to 92.00)", "+1.20 (+0.50 to +1.90)"]
    assert not list(families.rows("Early exits", tmp_path))


def test_every_family_is_alone_and_in_the_whole() -> None:
    for way in together.SETTINGS.values():
        kept = {family: [v.key for v in found] for family, found in way.families.items()}
        assert kept.pop("Together") == [f"all-{item.key}" for item in way.precisions]
        alone = [["prune"], ["integer", "assigned"], ["exits"], ["memory"]]
        assert list(kept.values()) == alone
        for precision in way.precisions:
            whole = way.whole(precision)
            assert whole.memory == way.within
            assert whole.passes.startswith(f"{way.prune},insert-exits{{n=2,share=")
            assert whole.passes.endswith(f",{way.narrowed(precision)}")


def test_what_a_model_has_no_use_for_is_no_variant() -> None:
    way = families.MODELS["lines"].way
    assert not way.families["Early exits"]
    assert [v.passes for v in way.families["Together"]] == [
        f"{way.prune},quantize",
        f"{way.prune},assign-precision{way.options}",
    ]
    assert {v.memory for v in way.families["Together"]} == {"11MB"}
