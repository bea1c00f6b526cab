"""Where results that can be made again are kept, for those who name no place."""

from __future__ import annotations

from pathlib import Path


def default_cache() -> Path:
    """`~/.cache/optc`: compiled runtimes, unpacked artifacts, measured limits."""
    return Path.home() / ".cache" / "optc"
