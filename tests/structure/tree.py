"""What the source tree holds: the folders behind the package names, and their files.

One table, `FOLDERS`, says which folder is which package; the guards, the type-checking view and
the size report all read it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Package of each top folder, in the order in which one may import the next: from right to left.
FOLDERS = {
    "ir": "optc.ir",
    "passes": "optc.passes",
    "backends": "optc.backends",
    "autotune": "optc.autotune",
    "optc": "optc",
}
LAYERS = tuple(folder for folder in FOLDERS if folder != "optc")


@dataclass(frozen=True)
class Import:
    """One import of a file: the full name of what it imports, and where."""

    name: str
    path: Path
    line: int
    level: int  # dots before the name

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {'.' * self.level}{self.name}"


def source_files() -> Iterator[Path]:
    """Every Python file of the packages."""
    for folder in FOLDERS:
        yield from sorted((ROOT / folder).rglob("*.py"))


def all_files() -> Iterator[Path]:
    """Every Python file of ours, tests, benchmarks and examples included."""
    yield from source_files()
    for folder in ("tests", "benchmarks", "examples"):
        yield from sorted((ROOT / folder).rglob("*.py"))


@cache
def syntax(path: Path) -> ast.Module:
    """The parsed file."""
    return ast.parse(path.read_text(), str(path))


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file, wherever in the file it stands."""
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Import):
            yield from (Import(item.name, path, node.lineno, 0) for item in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = f"{node.module}." if node.module else ""
            for item in node.names:
                yield Import(base + item.name, path, node.lineno, node.level)


def module_name(path: Path) -> str:
    """The name under which a source file is imported."""
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    parts = (FOLDERS[folder], *rest)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
