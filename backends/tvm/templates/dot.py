"""How a target multiplies and adds: the innermost step of matrix products and convolutions.

A sum's lane meets a *word* of each side: one element, or `group` neighbours along K that one
instruction multiplies and adds (four bytes, two halves). Templates count K in words and lay both
sides out so that neighbours lie side by side; everything else about a register tile is the same for
every type.

Sums of bytes are exact. `vpdpbusd` multiplies unsigned by signed, so an i8 left side is stored
with its sign bit flipped, which adds 128 to each element; sums start at what that adds too much
(`origin` times the column's sum of weights). Without it, bytes are widened to i16 pairs for
`pmaddwd`, which never saturates, as `pmaddubsw` would.

ARM's matrix instructions (`smmla`, `bfmmla`) take two rows by two columns at once, two words of
each: twice the products of a dot product. Sums then lie in `pairs`, see `tile.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.ir import Expr

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.operands import dot
from optc.backends.tvm.templates.legal import bf16_bits
from optc.ir.dtype import DType
from optc.ir.targets.target import Arch, Target

BYTES = (DType.U8, DType.I8)
_HALVES_LATENCY = 6  # of `vdpbf16ps`, measured on Zen 5, where sums of floats and bytes take 4
_PAIRS = {512: "avx512.pmaddw.d.512", 256: "avx2.pmadd.wd", 128: "sse2.pmadd.wd"}


@dataclass(frozen=True, slots=True)
class Dot:
    """One step of a sum in `sum`, of `group` elements of types `left` and `right`, as laid out.

    `intrinsic` takes words, and the sum too if it `adds`; without one, words are single elements.
    `flipped`: left elements have their sign bit flipped. `cost` is in multiply-adds. `pairs`: the
    instruction multiplies two rows by two columns, two words of each at a time. `apart`: a word's
    products are not added to each other, a column has `group` sums side by side. `latency`: cycles
    after which a sum can be added to again.
    """

    sum: DType
    left: DType
    right: DType
    group: int = 1
    intrinsic: str = ""
    adds: bool = True
    flipped: bool = False
    cost: float = 1.0
    pairs: bool = False
    apart: bool = False
    latency: int = 4

    @property
    def sums(self) -> int:
        """Sums of a column."""
        return self.group if self.apart else 1

    @property
    def origin(self) -> int:
        """Sums start at this times the sum of the right side's elements."""
        if not self.flipped:
            return 0
        return -128 if self.left is DType.U8 else 128

    @property
    def packing(self) -> Words:
        """How a constant right side is packed."""
        return Words(self.right, self.group, self.origin, self.pairs)

    @property
    def block(self) -> int:
        """Neighbours along K that one instruction takes of a row."""
        return self.group * (2 if self.pairs else 1)

    @property
    def panel(self) -> DType:
        """Type of the elements of a right side that is laid out when the kernel runs."""
        return self.right if self.right.bits * self.group in (self.right.bits, 32) else self.left

    @property
    def left_stored(self) -> str:
        """TVM's type of an element of the left side in scratch memory."""
        return "uint16" if self.left is DType.BF16 else tvm_dtype(self.left)

    @property
    def left_word(self) -> str:
        """TVM's type of `group` elements of the left side."""
        return "int32" if self.group > 1 else tvm_dtype(self.sum)

    def words(self, elements: int) -> int:
        """Words that `elements` take; what is left of the last one is zero."""
        return -(-elements // self.block) * (self.block // self.group)

    def add(self, total: Expr, left: Expr, right: Expr) -> Expr:
        """The sum after one more step, in a vector loop over sums."""
        kind = tvm_dtype(self.sum)
        if self.group == 1:
            left, right = _as(left, kind), _as(right, kind)
        if not self.intrinsic:
            return total + left * right
        if self.adds:
            return dot(self.intrinsic, kind, total, left, right)
        return total + dot(self.intrinsic, kind, left, right)

    def stored(self, value: Expr) -> Expr:
        """An element of the left side as it is laid out."""
        kind = tvm_dtype(self.left)
        if self.left is DType.BF16:
            return bits_of_half(value)
        if not self.flipped:
            return _as(value, kind)
        bits = tirx.bitwise_xor(_as(value, "uint8"), tirx.const(128, "uint8"))
        return _as(bits, kind)

    def constant(self, number: float) -> Expr:
        """A number as it is laid out."""
        if self.left is DType.BF16:
            return bf16_bits(tirx.const(number, "float32"))
        if self.flipped:
            number = number - self.origin
        return tirx.const(number, self.left_stored)


def dot_of(target: Target, left: DType, right: DType, *, whole: bool = True) -> Dot:
    """What suits elements of these types; halves are summed in f32, bytes in i32.

    `whole`: every sum is over all elements of its column, so that flipped signs can be made up for.
    """
    if left in BYTES:
        dot = _of_bytes(target, left, right)
        return dot if whole or not dot.flipped else _widened(target, right)
    if left is right is DType.BF16 and "avx512_bf16" in target.features:
        name = f"llvm.x86.avx512bf16.dpbf16ps.{target.vector_bits}"
        return Dot(DType.F32, left, right, 2, name, latency=_HALVES_LATENCY)
    if left is right is DType.BF16 and "bf16" in target.features:
        return Dot(DType.F32, left, right, 2, "llvm.aarch64.neon.bfdot")
    return elementwise(left, right)


def in_pairs(target: Target, left: DType, right: DType) -> Dot:
    """What suits products of two rows and more: by pairs of rows where the target can."""
    if left is right is DType.BF16 and "bf16" in target.features:
        return Dot(DType.F32, left, right, 2, "llvm.aarch64.neon.bfmmla", cost=0.5, pairs=True)
    if left in BYTES and right is DType.I8 and "i8mm" in target.features:
        name = f"llvm.aarch64.neon.{'us' if left is DType.U8 else 's'}mmla"
        return Dot(DType.I32, left, right, 4, name, cost=0.5, pairs=True)
    return dot_of(target, left, right)


def elementwise(left: DType, right: DType) -> Dot:
    """Floats one by one."""
    wide = DType.F64 if left is DType.F64 else DType.F32
    return Dot(wide, wide, right)


def single(target: Target, left: DType) -> Dot:
    """For sums in which every lane has elements of its own: words of one element.

    A byte widened to 32 bits is two halves, of which a weight of 16 bits meets the lower one.
    """
    if left not in BYTES:
        return elementwise(left, left)
    if target.arch is not Arch.X86_64:
        return Dot(DType.I32, DType.I32, DType.I32)
    if _has_vnni(target):
        name = f"llvm.x86.avx512.vpdpwssd.{target.vector_bits}"
        return Dot(DType.I32, DType.I32, DType.I32, intrinsic=name)
    name = f"llvm.x86.{_PAIRS[target.vector_bits]}"
    return Dot(DType.I32, DType.I32, DType.I32, intrinsic=name, adds=False, cost=2.0)


def _of_bytes(target: Target, left: DType, right: DType) -> Dot:
    if right is DType.I8 and _has_vnni(target):
        name = f"llvm.x86.avx512.vpdpbusd.{target.vector_bits}"
        return Dot(DType.I32, DType.U8, right, 4, name, flipped=left is DType.I8)
    if right is DType.I8 and "asimddp" in target.features:
        if left is DType.U8 and "i8mm" in target.features:
            return Dot(DType.I32, left, right, 4, "llvm.aarch64.neon.usdot")
        name = "llvm.aarch64.neon.sdot"
        return Dot(DType.I32, DType.I8, right, 4, name, flipped=left is DType.U8)
    return _widened(target, right)


def _widened(target: Target, right: DType) -> Dot:
    """Bytes become i16, whose products and sums of two no instruction rounds."""
    if target.arch is Arch.X86_64:
        name = f"llvm.x86.{_PAIRS[target.vector_bits]}"
        return Dot(DType.I32, DType.I16, _signed(right), 2, name, adds=False, cost=2.5)
    return Dot(DType.I32, DType.I16, _signed(right), cost=1.5)


def _signed(dtype: DType) -> DType:
    return DType.I16 if dtype is DType.U8 else dtype


def _has_vnni(target: Target) -> bool:
    wide = target.vector_bits >= 256 and "avx512_vnni" in target.features
    return wide or (target.vector_bits == 256 and "avx_vnni" in target.features)


def bits_of_half(value: Expr) -> Expr:
    """A bf16, or a float rounded to it, as u16: TVM keeps arrays of bf16 in f32."""
    if isinstance(value, tirx.Cast) and str(value.ty) == "bfloat16":
        value = value.value
    if str(value.ty) == "bfloat16":
        return tirx.reinterpret("uint16", value)
    return bf16_bits(_as(value, "float32"))


def _as(value: Expr, dtype: str) -> Expr:
    return value if str(value.ty) == dtype else tirx.Cast(dtype, value)


@dataclass(frozen=True, slots=True)
class Words:
    """How a constant right side is packed for a Dot: plain numbers, part of a pack's repr."""

    element: DType
    group: int = 1
    origin: int = 0
    pairs: bool = False

    @property
    def word(self) -> DType:
        """Type of the packed array."""
        return word_of(self.element, self.group)

    def rows(self, extent: int) -> int:
        """Rows of words that `extent` rows of elements take, with the one that sums start at."""
        return self.steps(extent) + (self.origin != 0)

    @property
    def columns(self) -> int:
        """Words in a row of the packed array for each column."""
        return 2 if self.pairs else 1

    def steps(self, extent: int) -> int:
        """Words along K that `extent` elements take."""
        return -(-extent // (self.group * self.columns)) * self.columns

    def pack(self, array: np.ndarray) -> np.ndarray:
        """[..., K, N] elements as [..., words, N]; neighbours along K share a word.

        With `pairs` as [..., words / 2, 2 N]: two words of a column side by side. N is even then.
        """
        array = array.astype(self.element.storage, copy=False)
        if self.group == 1:
            return array
        *lead, extent, columns = array.shape
        words = self.steps(extent)
        padded = np.zeros((*lead, words * self.group, columns), array.dtype)
        padded[..., :extent, :] = array
        split = padded.reshape(*lead, words, self.group, columns)
        neighbours = np.ascontiguousarray(np.moveaxis(split, -2, -1))
        found: np.ndarray = neighbours.view(self.word.storage)[..., 0]
        if not self.pairs:
            return found
        beside = np.swapaxes(found.reshape(*lead, words // 2, 2, columns), -1, -2)
        return np.ascontiguousarray(beside).reshape(*lead, words // 2, 2 * columns)

    def start(self, array: np.ndarray) -> np.ndarray:
        """[..., K, N] elements as the row [..., 1, N] that sums start at, no row without origin."""
        if not self.origin:
            columns = array.shape[-1] * self.columns
            return np.zeros((*array.shape[:-2], 0, columns), self.word.storage)
        sums = array.sum(axis=-2, keepdims=True, dtype=np.int64) * self.origin
        found: np.ndarray = sums.astype(self.word.storage)
        return found


def word_of(element: DType, group: int) -> DType:
    """What holds `group` neighbours."""
    if group == 1:
        return element
    return {16: DType.I16, 32: DType.I32, 64: DType.I64}[group * element.bits]
