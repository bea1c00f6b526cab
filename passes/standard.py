"""The standard order of passes: what a compilation runs when the user asks for nothing.

Shared by the driver and the tests. Fusion and layout are the driver's, as they depend on a target.
"""

from __future__ import annotations

from optc.passes.base import Pass
from optc.passes.canonicalize.canonicalize import Canonicalize

CANONICALIZE: tuple[Pass, ...] = (Canonicalize(),)
