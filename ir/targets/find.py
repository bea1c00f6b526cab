"""A target by its name and options, as `--target` takes them."""

from __future__ import annotations

import re
from dataclasses import replace
from difflib import get_close_matches

from optc.ir.diagnostics import error
from optc.ir.targets.catalogue import TARGETS
from optc.ir.targets.detect import host
from optc.ir.targets.target import Target


def find_target(name: str) -> Target:
    """The target called `name`: `host`, `cuda` (sm_80), a row of the table, with options.

    Options follow a colon: `cores=N`, `winograd=off` for convolutions by their definition, and on
    ARM `sve=256` or `sve=512` for scalable vectors of that many bits and more.
    Raises E0140 with the nearest names, and E0141.
    """
    base, _, options = name.partition(":")
    if base == "host":
        target = host()
    else:
        key = {"cuda": "cuda-sm_80"}.get(base, re.sub(r"^sm_", "cuda-sm_", base))
        if key not in TARGETS:
            near = get_close_matches(base, ["host", "cuda", *TARGETS], 3, 0.4)
            hint = f"--target {near[0]}" if near else "optc targets"
            offer = f"; did you mean {', '.join(near)}?" if near else ""
            raise error("E0140", f"unknown target {base!r}{offer}", help=hint)
        target = TARGETS[key]
    for option in filter(None, options.split(",")):
        target = _with(target, base, option)
    return target


def _with(target: Target, base: str, option: str) -> Target:
    if cores := re.fullmatch(r"cores=([1-9]\d*)", option):
        return replace(target, cores=int(cores.group(1)))
    if switch := re.fullmatch(r"winograd=(on|off)", option):
        return replace(target, winograd=switch.group(1) == "on")
    if (length := re.fullmatch(r"sve=(256|512)", option)) and "sve" in target.features:
        bits = int(length.group(1))
        return replace(target, vector_bits=bits, features=(*target.features, f"sve{bits}"))
    raise error("E0141", f"target option {option!r} is not known", help=f"--target {base}:cores=4")
