"""A folder that is written aside and takes its place, in whole, at the end.

What was there before is replaced only when it is an artifact and nothing else, or an empty folder.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optc.backends.aot import manifest as manifests
from optc.ir.diagnostics import error
from optc.ir.output import writing


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Give a folder to fill; it becomes `path` when the block ends well. Raises E0150, E0151."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Both in one hidden folder beside `path`: a rename must not cross file systems.
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            new = aside / "new"
            new.mkdir()
            yield new
            _swap(new, path, aside / "old")
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _swap(new: Path, path: Path, old: Path) -> None:
    if path.exists():
        path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        if old.exists():
            old.rename(path)
        raise


def check_replaceable(path: Path) -> None:
    """Raise E0503 when `path` holds something that is not ours to replace."""
    if not path.exists() and not path.is_symlink():
        return
    manifest = _manifest(path)
    if manifest is not None:
        _check_alone(path, manifest)
        return
    if path.is_dir() and not any(path.iterdir()):
        return
    what = "is a folder with other files" if path.is_dir() else "is another file"
    raise error("E0503", f"{path} {what}; it is left alone", help=_elsewhere(path))


def _check_alone(path: Path, manifest: Mapping[str, Any]) -> None:
    """Raise E0503 for an artifact's folder in which somebody else keeps files, too."""
    if not path.is_dir():
        return
    listed = manifest.get("files")
    ours = {manifests.NAME, *(listed if isinstance(listed, dict) else ())}
    found = (file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir())
    others = sorted(name for name in found if name not in ours)
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        message = f"{path} holds {others[0]}{more} beside the artifact; it is left alone"
        raise error("E0503", message, help=_elsewhere(path))


def _elsewhere(path: Path) -> str:
    return f"-o {path.with_name(f'{path.stem}-new{path.suffix}')}"


def is_artifact(path: Path) -> bool:
    """True for a folder or a zip with a manifest of ours."""
    return _manifest(path) is not None


def _manifest(path: Path) -> Mapping[str, Any] | None:
    try:
        if path.is_dir():
            text = (path / manifests.NAME).read_bytes()
        else:
            with zipfile.ZipFile(path) as archive:
                text = archive.read(manifests.NAME)
        content = json.loads(text)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    ours = isinstance(content, dict) and content.get("format") == manifests.FORMAT
    return content if ours else None
