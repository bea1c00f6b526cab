"""The package list equals the disk, and the view for type checking is the same tree."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.structure.packages import folders_mapped, packages_listed, packages_on_disk
from tests.structure.tree import FOLDERS, ROOT, module_name, source_files
from tests.structure.view import make_view


def test_every_package_on_disk_is_installed_and_the_other_way_round() -> None:
    assert packages_listed() == packages_on_disk(), "python -m tests.structure.packages --update"


def test_package_dir_maps_each_top_folder() -> None:
    assert {package: folder for folder, package in FOLDERS.items()} == folders_mapped()


def test_every_source_file_lies_in_a_package() -> None:
    packages = set(packages_on_disk())
    orphans = [
        path.relative_to(ROOT)
        for path in source_files()
        if path.name != "__init__.py" and module_name(path).rpartition(".")[0] not in packages
    ]
    assert not orphans, f"folders without __init__.py: {orphans}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_package_is_imported_from_its_folder(folder: str) -> None:
    # From the folder itself, so that a new file is seen at once: setuptools' strict editable mode,
    # which links the files that were there when it ran, would hide it.
    spec = importlib.util.find_spec(FOLDERS[folder])
    assert spec is not None
    assert spec.origin == str(ROOT / folder / "__init__.py")


def test_the_view_holds_every_module_under_its_package_name(tmp_path: Path) -> None:
    view = make_view(tmp_path)
    for path in source_files():
        name = module_name(path).replace(".", "/")
        seen = view / (f"{name}/__init__.py" if path.name == "__init__.py" else f"{name}.py")
        assert seen.resolve() == path
