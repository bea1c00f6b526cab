"""Capture: `torch.export` programs to modules. The only place under `ir` that imports torch."""

from optc.ir.capture.entry import capture

__all__ = ["capture"]
