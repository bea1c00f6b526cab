"""An artifact is written whole or not at all, and equal input gives equal bytes everywhere."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
import struct
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optc.backends.aot.build import Emit
from optc.backends.aot.digest import Digest
from optc.backends.aot.header import exported_symbols
from optc.backends.aot.link import Toolchain, find_toolchain, zig_target
from optc.backends.aot.package import write_artifact
from optc.backends.program import Call as KernelCall
from optc.backends.program import Operand, Program, RunSegment, Segment, Space, Weight
from optc.ir.diagnostics import InternalError, OptcError


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_two_builds_in_different_places_are_identical(
    adder: Program, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = write_artifact(adder, tmp_path / "one", emit=tuple(Emit), cache=cache).path
    monkeypatch.chdir(tmp_path)
    # Another place, and a runtime that is compiled anew.
    fresh = tmp_path / "a longer cache folder"
    fresh.mkdir()
    (fresh / "zig").symlink_to(cache / "zig")
    two = write_artifact(adder, Path("deeper/two"), emit=tuple(Emit), cache=fresh).path
    assert contents(one) == contents(two)
    zips = [write_artifact(adder, tmp_path / f"{n}.optc", cache=cache).path for n in "ab"]
    assert zips[0].read_bytes() == zips[1].read_bytes()


def test_every_form_is_there_and_small(adder: Program, tmp_path: Path, cache: Path) -> None:
    written = write_artifact(adder, tmp_path / "out", emit=tuple(Emit), cache=cache)
    files = contents(written.path)
    assert {"model.so", "model.a", "model.h", "weights.bin", "manifest.json"} <= set(files)
    assert {"objects/model.o", "source/model.c", "source/kernels/kernel_0000.o"} <= set(files)
    assert len(files["model.so"]) < 100_000
    assert len(files["model.a"]) < 200_000
    assert set(written.sizes) == set(files) - {"manifest.json"}


def test_the_library_shows_its_interface_and_nothing_else(
    adder: Program, adder_folder: Path
) -> None:
    if not shutil.which("nm"):
        pytest.skip("needs nm")
    command = ("nm", "-D", "--defined-only", "--format=posix", "model.so")
    text = subprocess.run(command, cwd=adder_folder, capture_output=True, text=True, check=True)
    shown = {line.split()[0].split("@")[0] for line in text.stdout.splitlines()}
    assert shown == set(exported_symbols(adder))


def test_the_emitted_source_builds(adder: Program, tmp_path: Path, cache: Path) -> None:
    if not shutil.which("make") or not shutil.which("cc"):
        pytest.skip("needs make and cc")
    written = write_artifact(adder, tmp_path / "out", emit=(Emit.SOURCE,), cache=cache)
    command = ("make", "-s", "model.a")
    subprocess.run(command, cwd=written.path / "source", capture_output=True, check=True)
    assert (written.path / "source" / "model.a").stat().st_size > 10_000


def test_an_artifact_is_replaced_as_a_whole(adder: Program, tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is fine
    write_artifact(adder, out, extra={"graphs/00.optc": b"old"}, cache=cache)
    assert (out / "graphs" / "00.optc").read_bytes() == b"old"
    write_artifact(adder, out, cache=cache)
    assert not (out / "graphs").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["v1", "v1.optc"])
def test_a_link_leads_to_the_new_artifact(
    adder: Program, tmp_path: Path, cache: Path, name: str
) -> None:
    write_artifact(adder, tmp_path / name, cache=cache)
    link = tmp_path / f"current{Path(name).suffix}"
    link.symlink_to(name)
    written = write_artifact(adder, link, extra={"graphs/00.optc": b"new"}, cache=cache)
    assert link.is_symlink()
    assert written.path == tmp_path / name
    assert "graphs/00.optc" in written.manifest["files"]


@pytest.mark.parametrize("name", ["out", "out.optc"])
def test_other_files_are_left_alone(adder: Program, tmp_path: Path, cache: Path, name: str) -> None:
    out = tmp_path / name
    if name == "out":
        out.mkdir()
        (out / "thesis.tex").write_text("precious")
    else:
        out.write_text("precious")
    with pytest.raises(OptcError, match="E0503"):
        write_artifact(adder, out, cache=cache)
    kept = out / "thesis.tex" if name == "out" else out
    assert kept.read_text() == "precious"


@pytest.mark.parametrize("name", ["thesis.tex", "graphs/notes.txt", "data/x.npz"])
def test_files_beside_an_artifact_are_left_alone(
    adder: Program, tmp_path: Path, cache: Path, name: str
) -> None:
    """Its own files go, whatever is in them; one that it did not bring stops everything."""
    out = tmp_path / "out"
    write_artifact(adder, out, extra={"graphs/00.optc": b"old"}, cache=cache)
    (out / "graphs" / "00.optc").write_bytes(b"edited")
    write_artifact(adder, out, extra={"graphs/00.optc": b"new"}, cache=cache)
    assert (out / "graphs" / "00.optc").read_bytes() == b"new"
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("precious")
    with pytest.raises(OptcError, match=name):
        write_artifact(adder, out, cache=cache)
    assert (out / name).read_text() == "precious"
    assert (out / "graphs" / "00.optc").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["out", "out.optc"])
@pytest.mark.parametrize(
    ("problem", "code"),
    [(OSError(errno.ENOSPC, "No space left on device"), "E0151"), (KeyboardInterrupt(), None)],
)
def test_what_was_there_survives_a_failure(
    adder: Program,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    problem: BaseException,
    code: str | None,
) -> None:
    out = write_artifact(adder, tmp_path / name, cache=cache).path
    before = contents(tmp_path)

    def fail(*_: object) -> None:
        raise problem

    monkeypatch.setattr("optc.backends.aot.manifest.describe", fail)
    with pytest.raises(OptcError if code else KeyboardInterrupt, match=code):
        write_artifact(adder, out, cache=cache)
    assert contents(tmp_path) == before


def test_a_place_below_a_file_cannot_be_written(
    adder: Program, tmp_path: Path, cache: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OptcError, match="E0150"):
        write_artifact(adder, tmp_path / "file" / "out", cache=cache)


def test_files_in_a_zip_are_aligned_and_stored(adder: Program, tmp_path: Path, cache: Path) -> None:
    path = write_artifact(adder, tmp_path / "x.optc", cache=cache).path
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            name, extra = struct.unpack_from("<HH", raw, info.header_offset + 26)
            start = info.header_offset + 30 + name + extra
            assert start % 64 == 0
            assert raw[start : start + info.file_size] == archive.read(info)
        assert archive.namelist()[0] == "manifest.json"


def test_the_manifest_tells_what_there_is(adder: Program, adder_folder: Path) -> None:
    manifest = json.loads((adder_folder / "manifest.json").read_text())
    assert manifest["inputs"] == [{"name": "x", "shape": [1024], "dtype": "f32", "bytes": 4096}]
    assert manifest["peak_bytes"] == 4096 + 8192 + 2 * 4096
    calls = manifest["segments"][0]["calls"]
    assert [call["kernel"] for call in calls] == ["k_add", "k_double"]
    assert calls[0]["label"] == "add bias @ model.py:3"
    assert calls[0]["bytes"] == 12 * 1024
    assert set(manifest["files"]) == {"model.h", "model.so", "weights.bin"}


def test_a_program_that_is_not_well_formed_is_our_bug(adder: Program, tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="does not exist"):
        write_artifact(replace(adder, flow=(RunSegment("x"),)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_kernel_is_our_bug(adder: Program, tmp_path: Path, cache: Path) -> None:
    call = KernelCall("k_nowhere", (Operand(Space.INPUT, 0),))
    broken = replace(adder, segments=(Segment("main", (call,)),))
    with pytest.raises(InternalError, match="k_nowhere"):
        write_artifact(broken, tmp_path / "out", cache=cache)
    assert list(tmp_path.iterdir()) == []


def test_weights_are_loaded_when_they_are_written(
    adder: Program, tmp_path: Path, cache: Path
) -> None:
    array = np.arange(2048, dtype=np.float32)
    late = (Weight(0, array.nbytes, lambda: array),)
    path = write_artifact(replace(adder, weights=late), tmp_path / "out", cache=cache).path
    assert (path / "weights.bin").read_bytes()[64:] == array.tobytes()
    wrong = replace(adder, weights=(Weight(0, 8192, lambda: array[1:]),))
    with pytest.raises(InternalError, match="loaded as"):
        write_artifact(wrong, tmp_path / "out", cache=cache)


def test_a_digest_does_not_depend_on_the_pieces() -> None:
    data = np.random.default_rng(0).integers(0, 256, 5 * 8192 + 640, dtype=np.uint8)
    whole, pieces = Digest(), Digest()
    whole.update(data)
    for start in range(0, len(data), 2 * 8192):
        pieces.update(data[start : start + 2 * 8192])
    assert whole.value() == pieces.value()
    for position in (0, 7, 8191, 8192, len(data) - 1):
        changed = data.copy()
        changed[position] ^= 0x80
        other = Digest()
        other.update(changed)
        assert other.value() != whole.value()


def test_triples_become_targets_of_the_linker() -> None:
    assert zig_target("x86_64-unknown-linux-gnu") == "x86_64-linux-gnu.2.17"
    assert zig_target("aarch64-linux-gnu") == "aarch64-linux-gnu.2.17"
    assert zig_target("armv7l-linux-gnueabihf") == "arm-linux-gnueabihf.2.17"
    assert zig_target("aarch64-linux-musl") == "aarch64-linux-musl"
    for triple in ("riscv64-linux-gnu", "x86_64-pc-windows-msvc", "aarch64-apple-darwin", ""):
        with pytest.raises(OptcError, match="E0502"):
            zig_target(triple)


def test_without_zig_the_system_compiler_serves(
    adder: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("cc") or not shutil.which("ar"):
        pytest.skip("needs a system compiler")
    _hide_zig(monkeypatch)
    toolchain = find_toolchain(adder.triple)
    assert toolchain.name != "zig"
    paths = [
        write_artifact(adder, tmp_path / name, emit=tuple(Emit), toolchain=toolchain).path
        for name in "ab"
    ]
    assert contents(paths[0]) == contents(paths[1])


def test_without_any_compiler_there_is_one_sentence(
    adder: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _hide_zig(monkeypatch)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(OptcError, match=r"E0501(.|\n)*pip install ziglang"):
        write_artifact(adder, tmp_path / "out")


def _hide_zig(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "ziglang" else find(name)
    )


def test_a_full_disk_while_linking_is_told(tmp_path: Path) -> None:
    script = ("sh", "-c", "echo 'error: NoSpaceLeft' >&2; exit 1")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        Toolchain("full", script, script).compile(["a.c"], tmp_path)
