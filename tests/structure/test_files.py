"""Habits that a reader counts on: short files, honest names, documented doors."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.structure.tree import FOLDERS, ROOT, all_files, source_files, syntax

LONGEST = 400
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc", "stuff"}
BELOW_THE_COMMAND_LINE = ("ir/", "passes/", "backends/", "autotune/")
DEFINITION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
SUFFIXES = (".py", ".c", ".h")


def place(path: Path, line: int = 1) -> str:
    """A path and line that an editor can open."""
    return f"{path.relative_to(ROOT)}:{line}"


def public_definitions(
    path: Path,
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Public functions and classes of a module, and public methods of its public classes."""
    for node in syntax(path).body:
        if isinstance(node, DEFINITION) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (
                    item
                    for item in node.body
                    if isinstance(item, DEFINITION) and not item.name.startswith("_")
                )


def test_no_file_is_longer_than_the_wall() -> None:
    tops = ("optc", "ir", "passes", "backends", "autotune", "tests", "benchmarks", "examples")
    files = [path for top in tops for path in (ROOT / top).rglob("*") if path.suffix in SUFFIXES]
    lengths = {place(path): len(path.read_text().splitlines()) for path in files}
    assert {name: count for name, count in lengths.items() if count > LONGEST} == {}


def test_no_module_is_named_for_nothing() -> None:
    named = [place(path) for path in all_files() if NAMELESS & set(path.stem.split("_"))]
    folders = {path.parent for path in all_files() if path.parent.name in NAMELESS}
    assert named == []
    assert folders == set()


def test_no_pass_or_file_stutters_its_kind() -> None:
    stutter = [place(path) for path in source_files() if path.stem.endswith(("_pass", "_op"))]
    assert stutter == []


def test_every_file_says_why_it_exists() -> None:
    packages = set(source_files())
    files = [path for path in all_files() if path in packages or path.read_text().strip()]
    silent = [place(path) for path in files if not ast.get_docstring(syntax(path))]
    assert silent == []


def test_every_public_definition_has_a_docstring() -> None:
    silent = [
        f"{place(path, node.lineno)} {node.name}"
        for path in source_files()
        for node in public_definitions(path)
        if not ast.get_docstring(node)
    ]
    assert silent == []


def test_only_the_facade_reads_the_environment() -> None:
    # A compiler whose output depends on a variable nobody wrote down cannot be reproduced.
    # Handing all of it to a child process (`{**os.environ, ...}`) reads nothing in particular.
    reading = re.compile(r"(?<!\*\*)\bos\.(environ|getenv)\b")
    found = [
        place(path, number)
        for path in source_files()
        if path.relative_to(ROOT).as_posix().startswith(BELOW_THE_COMMAND_LINE)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if reading.search(line)
    ]
    assert found == []


def test_todo_names_its_issue() -> None:
    vague = re.compile(r"(#|//|/\*)\s*(TODO|FIXME|XXX)\b(?!\(#\d+\))")
    found = [
        place(path, number)
        for path in all_files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if vague.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("folder", [*FOLDERS, "tests", "benchmarks", "examples"])
def test_every_top_folder_says_what_lives_there(folder: str) -> None:
    text = (ROOT / folder / "README.md").read_text()
    assert text.startswith(f"# {folder}")
    assert folder == "examples" or "Invariants: " in text
    assert folder in ("examples", "autotune") or "To add" in text
