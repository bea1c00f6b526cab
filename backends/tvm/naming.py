"""C names of kernels."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

from optc.backends.kernel import Job
from optc.ir.targets.target import Target


def symbol_of(job: Job, target: Target, choice: str) -> str:
    """A C name: what the task does, for people, and a digest of all that shapes the kernel."""
    machine = replace(target, dtypes=frozenset())  # a set's order changes from process to process
    key = f"{job.structure} {machine!r} {choice}"
    name = re.sub(r"\W", "_", job.body.name)[:60]
    return f"optc_{name}_{hashlib.sha256(key.encode()).hexdigest()[:16]}"
