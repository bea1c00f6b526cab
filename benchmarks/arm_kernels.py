"""Quality of ARM kernels without an ARM machine: what the innermost loop is made of.

    python -m benchmarks.arm_kernels        # writes benchmarks/results/arm_kernels.md

Counts in the disassembly of the zero-trial kernel: multiply-adds or dot products of one iteration
of the densest loop, loads beside them, and spills (loads and stores by the stack pointer).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.kernel_cases import task
from optc.backends.kernel import Job
from optc.backends.tvm.kernel import build
from optc.ir.dtype import DType
from optc.ir.graph import Node
from optc.ir.ops import Conv, Linear, Task
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType

RESULT = Path(__file__).parent / "results" / "arm_kernels.md"
TARGETS = ("aarch64", "cortex-a76", "neoverse-v1")
SCALABLE = ("neoverse-v1:sve=256", "a64fx")  # floats alone: bytes and halves stay with NEON
_TOOLS = ("llvm-objdump", "aarch64-linux-gnu-objdump")
_NEWER = "+dotprod,+i8mm,+bf16,+fullfp16,+sve"  # otherwise llvm's prints them as unknown
_USEFUL = re.compile(
    r"^(fmla|fmad|fmlal|smlal2?|umlal2?|mla|sdot|udot|usdot|sudot|smmla|usmmla|ummla|bfdot|bfmmla)$"
)
# Multiply-adds of 128 bits, by what the name begins with; others have four.
_EACH = {"sdot": 16, "udot": 16, "usdot": 16, "sudot": 16, "bfdot": 8, "bfmmla": 16, "smmla": 32,
         "usmmla": 32, "ummla": 32}  # fmt: skip
_SOME = 8  # products of a loop that is more than the rest of another one
_LINE = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*)$")


@dataclass(frozen=True)
class Instruction:
    """One line of a disassembly."""

    address: int
    name: str
    operands: str

    @property
    def goes_to(self) -> int | None:
        """Where a branch goes."""
        found = re.search(r"(?:0x)?([0-9a-f]+)(?: <.*>)?$", self.operands)
        branches = self.name.startswith("b.") or self.name in ("b", "cbz", "cbnz", "tbz", "tbnz")
        return int(found.group(1), 16) if branches and found else None


@dataclass(frozen=True)
class Loop:
    """What one iteration of a loop holds."""

    useful: dict[str, int]
    loads: int
    moves: int  # from register to register
    spills: int
    size: int

    @property
    def products(self) -> int:
        """Multiply-adds and dot products."""
        return sum(self.useful.values())

    def each(self, bits: int) -> float:
        """Instructions for 64 multiply-adds, on vectors of `bits`."""
        made = sum(_EACH.get(name, 4) * count for name, count in self.useful.items()) * bits / 128
        return 64 * self.size / made


def disassembled(data: bytes) -> list[Instruction]:
    """The instructions of an object; raises FileNotFoundError without a disassembler."""
    tool = next(filter(None, map(shutil.which, _TOOLS)), None)
    if tool is None:
        raise FileNotFoundError(f"no {' or '.join(_TOOLS)}: apt install binutils-aarch64-linux-gnu")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.o")
        path.write_bytes(data)
        every = (f"--mattr={_NEWER}",) if "llvm" in tool else ()
        command = (tool, "-d", "-j", ".text", "--no-show-raw-insn", *every, str(path))
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = map(_LINE.match, text.splitlines())
    return [Instruction(int(m[1], 16), m[2].lower(), m[3].strip()) for m in lines if m]


def hottest(code: Sequence[Instruction]) -> Loop:
    """The innermost loop that is densest in products, of those with some."""
    spans = {
        (item.goes_to, item.address)
        for item in code
        if item.goes_to is not None and item.goes_to <= item.address
    }
    inner = [
        (low, high)
        for low, high in spans
        if not any((a, b) != (low, high) and low <= a and b <= high for a, b in spans)
    ]
    loops = [_loop([i for i in code if low <= i.address <= high]) for low, high in inner]
    return max(loops, key=lambda loop: loop.products / loop.size if loop.products >= _SOME else 0)


def _loop(body: Sequence[Instruction]) -> Loop:
    useful: dict[str, int] = {}
    for item in body:
        name = item.name.split(".")[0]
        if _USEFUL.match(name):
            useful[name] = useful.get(name, 0) + 1
    memory = [item for item in body if item.name.startswith(("ld", "st"))]
    spills = sum("[sp" in item.operands for item in memory)
    loads = sum(item.name.startswith("ld") for item in memory)
    moves = sum(item.name in ("mov", "dup", "movprfx") for item in body)
    return Loop(useful, loads, moves, spills, len(body))


def layers() -> list[tuple[str, Node]]:
    """What is counted."""
    found: list[tuple[str, Node]] = []
    for left, right in (
        (DType.F32, DType.F32),
        (DType.U8, DType.I8),
        (DType.I8, DType.I8),
        (DType.BF16, DType.BF16),
    ):
        types = TensorType((128, 768), left), TensorType((768, 768), right)
        found.append((f"linear 128x768x768 {left.value}", task(Linear(), *types)))
        op = Conv((1, 1), ((1, 1), (1, 1)), (1, 1), 1, True)
        image = TensorType((1, 28, 28, 128), left), TensorType((128, 128, 3, 3), right)
        found.append((f"conv 3x3 28x28x128 {left.value}", task(op, *image)))
        op = Conv((1, 1), ((0, 0), (0, 0)), (1, 1), 1, True)
        image = TensorType((1, 28, 28, 128), left), TensorType((128, 128, 1, 1), right)
        found.append((f"conv 1x1 28x28x128 {left.value}", task(op, *image)))
    return found


def table() -> str:
    """The page."""
    lines = [
        "# ARM kernels, counted",
        "",
        "One iteration of the innermost loop that is densest in products, zero trials.",
        f"`python -m benchmarks.arm_kernels`, {datetime.now(UTC):%Y-%m-%d}.",
        "`size`: its instructions; `per 64`: those for 64 multiply-adds. Moves: between registers.",
        "",
        "| kernel | target | template | products | loads | moves | spills | size | per 64 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, node in layers():
        for target in (*TARGETS, *(SCALABLE if name.endswith(DType.F32.value) else ())):
            assert isinstance(node.op, Task)
            kernel = build(Job(node.op.body, frozenset((1,))), find_target(target))
            loop = hottest(disassembled(kernel.object))
            products = ", ".join(f"{count} {what}" for what, count in loop.useful.items())
            lines.append(
                f"| {name} | {target} | {kernel.template} | {products} | {loop.loads} "
                f"| {loop.moves} | {loop.spills} | {loop.size} "
                f"| {loop.each(find_target(target).vector_bits):.1f} |"
            )
    return "\n".join([*lines, "", *WORDS]) + "\n"


WORDS = (
    "Scalable vectors (SVE) take fewer instructions for the same work, but a row's element is",
    "broadcast by a move where NEON multiplies by a lane. Neoverse V1 starts four NEON operations",
    "or two of SVE's 256 bits in a cycle (its Software Optimization Guide): there the moves cost",
    "what fewer instructions win, and `neoverse-v1` stays with NEON without `:sve=256`. `a64fx`",
    "starts two operations of either width and takes SVE's 512 bits. Convolutions by pairs",
    "(`paired-conv`) multiply two positions by two channels, on an image stored with its border.",
)


if __name__ == "__main__":
    RESULT.write_text(table())
    sys.stdout.write(RESULT.read_text())
