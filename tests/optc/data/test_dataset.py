"""Data read in slices and cut into batches: every sample once, in its part, filled with others."""

from __future__ import annotations

import sys
import textwrap
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optc.arrays import Tensor
from optc.data import source as sources
from optc.data.dataset import Dataset, open_dataset
from optc.data.split import Split
from optc.ir.diagnostics import OptcError
from optc.passes.quality import Part

PORTS = (Tensor("x", (4, 3), "f32"), Tensor("mask", (4, 2), "bool"))
PARTS = (Part.CALIBRATION, Part.HELD_OUT)


def samples(count: int) -> dict[str, np.ndarray]:
    x = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
    return {"x": x, "mask": x[:, :2] % 2 == 0, "labels": np.arange(count)}


def collected(data: Dataset, part: Part) -> dict[str, np.ndarray]:
    """All valid rows of a part, labels among them."""
    rows: dict[str, list[np.ndarray]] = {}
    for batch in data.part(part):
        assert batch.labels is not None
        for name, array in {**batch.inputs, "labels": batch.labels}.items():
            assert len(array) == data.batch
            rows.setdefault(name, []).append(array[: batch.valid])
    return {name: np.concatenate(parts) for name, parts in rows.items()}


Writer = Callable[[Path, Mapping[str, np.ndarray]], str]


def stored(folder: Path, arrays: Mapping[str, np.ndarray]) -> str:
    np.savez(folder / "d.npz", **arrays)
    return str(folder / "d.npz")


def packed(folder: Path, arrays: Mapping[str, np.ndarray]) -> str:
    np.savez_compressed(folder / "d.npz", **arrays)
    return str(folder / "d.npz")


def fortran(folder: Path, arrays: Mapping[str, np.ndarray]) -> str:
    return stored(folder, {name: np.asfortranarray(array) for name, array in arrays.items()})


def swapped(folder: Path, arrays: Mapping[str, np.ndarray]) -> str:
    return stored(folder, {n: a.astype(a.dtype.newbyteorder(">")) for n, a in arrays.items()})


def separate(folder: Path, arrays: Mapping[str, np.ndarray]) -> str:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return str(folder)


def function(folder: Path, arrays: Mapping[str, np.ndarray]) -> str:
    stored(folder, arrays)
    code = """
    import numpy as np
    def batches(step=7):
        a = np.load(__file__.replace("feed.py", "d.npz"))
        for i in range(0, len(a["x"]), step):
            yield a["x"][i:i+step], a["mask"][i:i+step], a["labels"][i:i+step]
    """
    (folder / "feed.py").write_text(textwrap.dedent(code))
    return "feed:batches"


@pytest.fixture(autouse=True)
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions are found in the working folder; what was imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("feed", "bad"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("write", [stored, packed, fortran, swapped, separate, function])
@pytest.mark.parametrize("count", [1, 3, 4, 10, 57])
def test_every_sample_is_in_one_part_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Writer, count: int
) -> None:
    monkeypatch.setattr(sources, "BLOCK_SAMPLES", 5)
    data = open_dataset(write(tmp_path, samples(count)), PORTS)
    assert data.facts.samples == count
    found = [collected(data, p) for p in PARTS if getattr(data.facts, p.name.lower())]
    whole = {n: np.concatenate([f[n] for f in found]) for n in ("x", "mask", "labels")}
    order = np.argsort(whole["labels"])
    for name, array in samples(count).items():
        assert np.array_equal(whole[name][order], array)
    everything = collected(data, Part.ALL)
    assert all(np.array_equal(everything[n], a) for n, a in samples(count).items())


def test_the_digest_speaks_of_content_not_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = []
    for write in (stored, packed, separate, function):
        folder = tmp_path / write.__name__
        folder.mkdir()
        monkeypatch.syspath_prepend(folder)
        digests.append(open_dataset(write(folder, samples(57)), PORTS).facts.digest)
    assert len(set(digests)) == 1
    changed = samples(57)
    changed["x"][56, 2] += 1
    assert open_dataset(stored(tmp_path, changed), PORTS).facts.digest != digests[0]


@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(0, 500), st.lists(st.integers(1, 40)))
def test_the_split_is_by_index_alone(seed: int, share: int, start: int, counts: list[int]) -> None:
    split = Split(seed, share)
    whole = split.mask(start, sum(counts), Part.CALIBRATION)
    edges = start + np.cumsum([0, *counts])
    pieces = [split.mask(int(a), n, Part.CALIBRATION) for a, n in zip(edges, counts, strict=False)]
    assert np.array_equal(np.concatenate([np.zeros(0, bool), *pieces]), whole)
    assert np.array_equal(~whole, split.mask(start, sum(counts), Part.HELD_OUT))
    strata = split.mask(0, 10 * (start + 1), Part.CALIBRATION).reshape(-1, 10)
    assert (strata.sum(1) == share).all()


@given(
    st.integers(1, 80), st.integers(1, 9), st.integers(0, 99), st.integers(1, 13), st.integers(1, 9)
)
def test_parts_share_no_sample_however_data_comes(
    count: int, batch: int, seed: int, step: int, share: int
) -> None:
    rows = np.arange(count, dtype=np.int64)
    ports = (Tensor("x", (batch,), "i64"),)

    def batches() -> list[np.ndarray]:
        return [rows[i : i + step] for i in range(0, count, step)]

    split = Split(seed, share)
    whole = open_dataset({"x": rows}, ports, split=split)
    found: dict[Part, list[int]] = {part: [] for part in PARTS}
    for part in PARTS:
        if not getattr(whole.facts, part.name.lower()):
            continue
        for data in (whole, open_dataset(batches, ports, split=split)):
            calls = list(data.part(part))
            own = [int(n) for call in calls for n in call.inputs["x"][: call.valid]]
            filled = {int(n) for call in calls for n in call.inputs["x"]}
            assert own == (found[part] or own)
            assert filled == set(own), "a batch was filled from the other part"
            assert len(calls) == data.part(part).calls
            found[part] = own
    assert sorted(found[Part.CALIBRATION] + found[Part.HELD_OUT]) == list(range(count))


def test_another_seed_is_another_split() -> None:
    first, second = (Split(seed).mask(0, 1000, Part.CALIBRATION) for seed in (0, 1))
    assert (first != second).sum() > 100


def test_the_last_batch_is_filled_with_samples_of_its_part(tmp_path: Path) -> None:
    data = open_dataset(stored(tmp_path, samples(30)), PORTS)
    batches = list(data.part(Part.CALIBRATION))
    assert [b.valid for b in batches] == [4, 4, 1]
    assert data.part(Part.CALIBRATION).calls == 3
    filling = batches[-1].labels
    assert filling is not None
    assert batches[0].labels is not None
    assert list(filling[1:]) == list(batches[0].labels[:3])


def test_a_model_without_a_batch_takes_a_sample_a_call(tmp_path: Path) -> None:
    ports = (Tensor("x", (4, 3), "f32"), Tensor("gain", (), "f32"))
    arrays = {"x": np.zeros((20, 4, 3), np.float32), "gain": np.arange(20, dtype=np.float32)}
    data = open_dataset(stored(tmp_path, arrays), ports)
    (first, *rest) = data.part(Part.HELD_OUT)
    assert (data.batch, len(rest), first.size) == (None, 13, None)
    assert first.inputs["x"].shape == (4, 3)
    assert first.inputs["gain"].shape == ()


def test_a_limit_takes_the_first(tmp_path: Path) -> None:
    data = open_dataset(stored(tmp_path, samples(57)), PORTS, limit=13)
    assert data.facts.samples == 13
    assert list(collected(data, Part.ALL)["labels"]) == list(range(13))


def test_a_function_is_consumed_as_far_as_needed(tmp_path: Path) -> None:
    code = """
    import numpy as np
    def batches():
        for i in range(5):
            if i == 3:
                raise AssertionError("read too far")
            yield {"x": np.zeros((4, 3), "f4"), "mask": np.zeros((4, 2), bool)}
    """
    (tmp_path / "feed.py").write_text(textwrap.dedent(code))
    assert open_dataset("feed:batches", PORTS, limit=12).facts.samples == 12


@pytest.mark.parametrize("place", ["y.npy", "y.npz", "y.npz:other", "other"])
def test_labels_from_elsewhere(tmp_path: Path, place: str) -> None:
    arrays = samples(57)
    own = arrays["labels"] * 10
    np.save("y.npy", own)
    np.savez("y.npz", labels=own, other=own)
    data = open_dataset(stored(tmp_path, {**arrays, "other": own}), PORTS, labels=place)
    found = collected(data, Part.HELD_OUT)
    assert np.array_equal(found["labels"], found["x"][:, 0] / 3 * 10)


def test_an_input_called_labels_is_no_label(tmp_path: Path) -> None:
    arrays = {"labels": np.zeros((8, 3), np.float32)}
    data = open_dataset(stored(tmp_path, arrays), (Tensor("labels", (4, 3), "f32"),))
    assert not data.facts.labelled


def broken(**changes: Any) -> dict[str, Any]:
    arrays: dict[str, Any] = {**samples(20), **changes}
    return {name: array for name, array in arrays.items() if array is not None}


@pytest.mark.parametrize(
    ("arrays", "labels", "code", "words"),
    [
        (broken(x=None, xx=np.zeros((20, 3), np.float32)), None, "E0741", "did you mean xx"),
        (broken(x=np.zeros((20, 3))), None, "E0742", "float64"),
        (broken(x=np.zeros((20, 4), np.float32)), None, "E0742", "Nx4"),
        (broken(x=np.zeros((19, 3), np.float32)), None, "E0742", "x 19"),
        (broken(x=np.float32(3)), None, "E0742", "single number"),
        (broken(x=np.array([None] * 20)), None, "E0740", "pickle"),
        (broken(), "lables", "E0744", "did you mean labels"),
        (broken(), "short.npy", "E0744", "19 labels"),
        (broken(), "long.npy", "E0744", "25 labels"),
        (broken(), "none.npy", "E0740", "no such file"),
        (broken(x=np.zeros((0, 3), np.float32), mask=np.zeros((0, 2), bool)), None, "E0742", "20"),
        ({n: a[:0] for n, a in broken().items()}, None, "E0746", "no samples"),
    ],
)
def test_what_does_not_fit_is_said(
    tmp_path: Path, arrays: dict[str, Any], labels: str | None, code: str, words: str
) -> None:
    np.save("short.npy", np.zeros(19, int))
    np.save("long.npy", np.zeros(25, int))
    with pytest.raises(OptcError, match=words) as caught:
        open_dataset(stored(tmp_path, arrays), PORTS, labels=labels)
    assert [d.code for d in caught.value.diagnostics] == [code]


@pytest.mark.parametrize(
    ("place", "code", "words"),
    [
        ("bad:raises", "E0743", "ValueError: no disk"),
        ("bad:late", "E0743", "KeyError"),
        ("bad:short", "E0741", "1 parts"),
        ("bad:uneven", "E0742", "x 4, mask 3"),
        ("bad:nothing", "E0746", "no samples"),
        ("bad:number", "E0743", "TypeError"),
        ("bad:missing", "E0740", "no function"),
        ("badly:raises", "E0740", "badly"),
        ("nowhere.npz", "E0740", "no such file"),
    ],
)
def test_functions_that_fail(tmp_path: Path, place: str, code: str, words: str) -> None:
    text = """
    import numpy as np
    x, mask = np.zeros((4, 3), "f4"), np.zeros((4, 2), bool)
    def raises(): raise ValueError("no disk")
    def late():
        yield x, mask
        {}["gone"]
    def short(): yield x
    def uneven(): yield x, mask[:3]
    def nothing(): return []
    def number(): return 3
    """
    (tmp_path / "bad.py").write_text(textwrap.dedent(text))
    with pytest.raises(OptcError, match=words) as caught:
        open_dataset(place, PORTS)
    assert [d.code for d in caught.value.diagnostics] == [code]
    if code == "E0743":
        assert "bad.py:" in str(caught.value) or place == "bad:number"


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut"])
def test_files_that_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(OptcError) as caught:
        open_dataset("d.npz", PORTS)
    assert caught.value.diagnostics[0].code == "E0740"


def test_a_file_that_was_cut(tmp_path: Path) -> None:
    path = Path(separate(tmp_path, samples(57)), "x.npy")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(OptcError) as caught:
        open_dataset(str(tmp_path), PORTS)
    assert caught.value.diagnostics[0].code == "E0740"


def test_a_part_without_a_sample_is_refused(tmp_path: Path) -> None:
    data = open_dataset(stored(tmp_path, samples(1)), PORTS)
    empty = Part.CALIBRATION if data.facts.held_out else Part.HELD_OUT
    with pytest.raises(OptcError, match="none is left") as caught:
        data.part(empty)
    assert caught.value.diagnostics[0].code == "E0746"


def test_arrays_and_functions_in_python(tmp_path: Path) -> None:
    arrays = samples(57)
    whole = open_dataset(arrays, PORTS).facts
    assert whole == open_dataset(stored(tmp_path, arrays), PORTS).facts

    def batches() -> list[dict[str, np.ndarray]]:
        return [{n: a[i : i + 9] for n, a in arrays.items()} for i in range(0, 57, 9)]

    assert open_dataset(batches, PORTS).facts == whole
    with pytest.raises(OptcError, match="did you mean x") as caught:
        open_dataset({"xs": arrays["x"]}, PORTS)
    assert caught.value.diagnostics[0].code == "E0741"


@pytest.mark.parametrize("write", [stored, packed, separate])
def test_memory_does_not_grow_with_samples(tmp_path: Path, write: Writer) -> None:
    ports = (Tensor("x", (4, 1000), "f32"),)
    place = write(tmp_path, {"x": np.zeros((20_000, 1000), np.float32)})  # 80 MB
    tracemalloc.start()
    try:
        data = open_dataset(place, ports)
        seen = sum(batch.valid for batch in data.part(Part.HELD_OUT))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seen == data.facts.held_out
    assert peak < 40e6
