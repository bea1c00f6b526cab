"""Who may import whom, read from the source.

optc -> autotune -> backends -> passes -> ir, never leftwards; and torch, tvm and torch_mlir only
where design says, so that a door that does not need them does not pay for them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx as nx

from tests.structure.tree import (
    FOLDERS,
    LAYERS,
    ROOT,
    Import,
    all_files,
    imports,
    module_name,
    source_files,
    syntax,
)

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


def lines_for_types(path: Path) -> set[int]:
    """Lines that only a type checker reads."""
    return {
        line
        for node in ast.walk(syntax(path))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def cycles() -> Iterator[list[str]]:
    """Files that need each other to run, also where an import stands in a function."""
    files = {module_name(path): path for path in source_files()}
    graph: nx.DiGraph[str] = nx.DiGraph()
    for name, path in files.items():
        typing = lines_for_types(path)
        for item in (found for found in imports(path) if found.line not in typing):
            whole = item.name if item.name in files else item.name.rpartition(".")[0]
            if whole in files:
                graph.add_edge(name, whole)
    for found in nx.strongly_connected_components(graph):
        if len(found) > 1:
            yield sorted(found)


def test_files_import_each_other_in_one_direction_only() -> None:
    assert list(cycles()) == []


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
