"""`host`: the machine optc runs on, read from Linux's /proc and /sys."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from optc.ir.diagnostics import error
from optc.ir.targets.catalogue import BF16, DOT, TARGETS, V2, V3, V4, VNNI
from optc.ir.targets.target import Arch, MemorySpace, Target

_LEVELS = (  # features that must be there, the row to start from, and what they are called
    (BF16, "znver4", "AVX-512 with VNNI and bf16"),
    (VNNI, "cascadelake", "AVX-512 with VNNI"),
    (V4, "x86-64-v4", "AVX-512"),
    (V3, "x86-64-v3", "AVX2"),
    (V2, "x86-64-v2", "SSE4.2"),
)


def host() -> Target:
    """The machine this runs on; raises E0142 when it is none that optc knows."""
    machine = platform.machine()
    flags = _flags()
    level = ""
    if machine in ("x86_64", "AMD64"):
        found = ((TARGETS[row], text) for need, row, text in _LEVELS if set(need) <= flags)
        base, level = next(found, (None, ""))
    elif machine in ("aarch64", "arm64"):
        base = TARGETS["cortex-a76" if set(DOT) <= flags else "aarch64"]
    elif machine.startswith("armv7"):
        base = TARGETS["armv7"]
    else:
        base = None
    if base is None:
        raise error("E0142", f"this machine ({machine}) is not supported", help="optc targets")
    # A neutral CPU name: kernels may use the features listed, whoever made the chip.
    cpu = "x86-64-v4" if base.cpu in ("znver4", "cascadelake") else base.cpu
    text = f"{_model_name()}: {level or base.description.split(':')[-1].strip()}"
    return replace(
        base, name="host", cpu=cpu, cores=physical_cores(), memory=_caches(), description=text
    )


def runs_here(target: Target) -> bool:
    """Whether this machine has all instructions of a target."""
    here = host()
    return target.arch is here.arch and set(target.features) <= set(here.features)


def host_with(features: Sequence[str]) -> Target:
    """This machine as code sees it that was compiled for `features` only: fewer instructions."""
    whole = host()
    if whole.arch is not Arch.X86_64:
        return replace(whole, features=tuple(features))
    bits = 512 if "avx512f" in features else 256 if "avx2" in features else 128
    return replace(whole, features=tuple(features), vector_bits=bits, fma="fma" in features)


def physical_cores() -> int:
    """Cores this process may run on, hyper-threads of one core counted once."""
    allowed = os.sched_getaffinity(0)
    cores = set()
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text() if siblings.exists() else str(cpu))
    return max(1, len(cores))


def _flags() -> set[str]:
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", _cpuinfo(), re.MULTILINE)
    return set(found.group(1).split()) if found else set()


def _model_name() -> str:
    """What the processor calls itself; x86 ones with their numbers: virtual machines hide names."""
    found = {
        key: re.search(rf"^{key}\s*:\s*(.*)$", _cpuinfo(), re.MULTILINE)
        for key in ("model name", "cpu family", "model")
    }
    name, family, model = (match.group(1).strip() if match else "" for match in found.values())
    if not name:
        return platform.machine()
    return f"{name} (family {family}, model {model})" if family and model else name


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def _caches() -> tuple[MemorySpace, ...]:
    spaces: dict[str, int] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind = (
                (index / "level").read_text().strip(),
                (index / "type").read_text().strip(),
            )
            size = re.fullmatch(r"(\d+)([KM])", (index / "size").read_text().strip())
        except OSError:
            continue
        if size and kind != "Instruction":
            spaces[f"l{level}"] = int(size.group(1)) * (1 << (10 if size.group(2) == "K" else 20))
    spaces["dram"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return tuple(MemorySpace(name, size) for name, size in spaces.items())
