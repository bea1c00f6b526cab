"""The package list equals the disk, and the view for type checking is the same tree."""

from __future__ import annotations

import importlib.util
from pathlib import Path

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


def test_the_editable_install_finds_every_module_at_once() -> None:
    # setuptools' strict editable mode would hide files made after the installation.
    for path in source_files():
        spec = importlib.util.find_spec(module_name(path))
        assert spec is not None, f"{module_name(path)} is not found"
        assert spec.origin == str(path)


def test_the_view_holds_every_module_under_its_package_name(tmp_path: Path) -> None:
    view = make_view(tmp_path)
    for path in source_files():
        name = module_name(path).replace(".", "/")
        seen = view / (f"{name}/__init__.py" if path.name == "__init__.py" else f"{name}.py")
        assert seen.resolve() == path
