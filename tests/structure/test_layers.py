"""Who may import whom, read from the source.

optc -> autotune -> backends -> passes -> ir, never leftwards; and torch, tvm and torch_mlir only
where design says, so that a door that does not need them does not pay for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.structure.tree import FOLDERS, LAYERS, ROOT, Import, all_files, imports, source_files

RANK = {package: rank for rank, package in enumerate(FOLDERS.values())}

# Heavy package -> the files (by path prefix) that may import it.
HEAVY = {
    "torch": ("ir/capture", "ir/to_torch", "backends/reference", "backends/mlir"),
    "transformers": (),
    "tvm": ("backends/tvm", "autotune/metaschedule", "autotune/remote.py"),
    "tvm_ffi": ("backends/tvm", "autotune/metaschedule"),
    "torch_mlir": ("backends/mlir",),
    "ziglang": ("backends/aot",),
}


def layer(name: str) -> int | None:
    """The rank of the layer that a dotted name belongs to; None for other people's packages."""
    top = ".".join(name.split(".")[:2])
    if top in RANK:
        return RANK[top]
    return RANK["optc"] if name.split(".")[0] == "optc" else None


def layer_of_file(path: Path) -> int:
    """The rank of the layer that a source file belongs to."""
    return RANK[FOLDERS[path.relative_to(ROOT).parts[0]]]


def upward_imports() -> Iterator[Import]:
    """Imports of a layer further left than the importing file's."""
    for path in source_files():
        for item in imports(path):
            rank = layer(item.name)
            if rank is not None and rank > layer_of_file(path):
                yield item


def misplaced_heavy_imports() -> Iterator[Import]:
    """Imports of a heavy package outside the places that `HEAVY` lists."""
    for path in source_files():
        place = path.relative_to(ROOT).as_posix()
        for item in imports(path):
            places = HEAVY.get(item.name.split(".")[0])
            if places is not None and not place.startswith(places):
                yield item


def test_layers_import_rightwards_only() -> None:
    assert [str(item) for item in upward_imports()] == []


def test_heavy_packages_are_imported_in_their_places_only() -> None:
    assert [str(item) for item in misplaced_heavy_imports()] == []


def test_imports_are_absolute() -> None:
    relative = [str(item) for path in all_files() for item in imports(path) if item.level]
    assert relative == []


def test_layers_are_imported_by_their_package_names() -> None:
    bare = [
        str(item)
        for path in all_files()
        for item in imports(path)
        if not item.level and item.name.split(".")[0] in LAYERS
    ]
    assert bare == []


def test_the_package_knows_nothing_of_its_tests() -> None:
    outside = ("tests", "benchmarks", "examples", "pytest", "hypothesis")
    found = [
        str(item)
        for path in source_files()
        for item in imports(path)
        if item.name.split(".")[0] in outside
    ]
    assert found == []
