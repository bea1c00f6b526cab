"""Whatever the bytes of an artifact are, loading answers with the artifact or with a diagnostic."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optc.backends.aot.package import pack
from optc.bundle import open_bundle
from optc.ir.diagnostics import Diagnostic, OptcError
from optc.runtime import load

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def attempt(path: Path, store: Path) -> None:
    """Open; anything but success and OptcError is a failure of the test."""
    problems: tuple[Diagnostic, ...] = ()
    try:
        open_bundle(path, store).library()
    except OptcError as problem:
        problems = problem.diagnostics
    assert all(found.code.startswith("E05") and found.message for found in problems)


@pytest.fixture(scope="module")
def zipped(adder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The adder in one file."""
    path = tmp_path_factory.mktemp("zip") / "adder.optc"
    pack(adder_folder, path)
    return path.read_bytes()


def _paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = [here] if here else []
    for key, item in items if isinstance(value, (dict, list)) else ():
        found += _paths(item, (*here, key)) if isinstance(item, (dict, list)) else [(*here, key)]
    return found


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_entry_of_the_manifest_replaced_or_removed(
    adder_folder: Path, data: st.DataObject
) -> None:
    manifest = json.loads((adder_folder / "manifest.json").read_text())
    *parents, last = data.draw(st.sampled_from(_paths(manifest)))
    place = manifest
    for key in parents:
        place = place[key]
    if data.draw(st.booleans()):
        place[last] = data.draw(json_values)
    else:
        del place[last]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "a"
        shutil.copytree(adder_folder, folder)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        attempt(folder, Path(name) / "store")


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
@settings(deadline=None)
def test_any_manifest(text: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "manifest.json").write_bytes(text)
        attempt(folder, folder / "store")
        memory = io.BytesIO()
        with zipfile.ZipFile(memory, "w") as archive:
            archive.writestr("manifest.json", text)
        (folder / "x.optc").write_bytes(memory.getvalue())
        attempt(folder / "x.optc", folder / "store")


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_zip_with_changed_or_missing_bytes(zipped: bytes, data: st.DataObject) -> None:
    raw = bytearray(zipped)
    # Most of the file is the library and the weights; its ends are where the structure is.
    places = (
        st.integers(0, 400)
        | st.integers(len(raw) - 400, len(raw) - 1)
        | st.integers(0, len(raw) - 1)
    )
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(places)] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del raw[data.draw(places) :]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x.optc"
        path.write_bytes(raw)
        attempt(path, Path(name) / "store")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_changed_byte_of_the_weights_is_missed(adder_folder: Path, data: st.DataObject) -> None:
    raw = bytearray((adder_folder / "weights.bin").read_bytes())
    used = st.integers(0, 31) | st.integers(64, len(raw) - 1)  # the header ends in reserved bytes
    raw[data.draw(used)] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "a"
        shutil.copytree(adder_folder, folder)
        (folder / "weights.bin").write_bytes(raw)
        with pytest.raises(OptcError, match="E0514"):
            load(folder)
