"""Gives LLVM's dot-product instructions the operand types that they are declared with.

Templates write such an instruction lane by lane: a sum, and for each side a word of neighbours
along K (four bytes, or two halves). TVM makes vectors of words of it; LLVM wants vectors of the
neighbours. Words of half the instruction's width hold bytes that are extended to it.

TVM's LLVM back end knows no vectors of bf16: instructions on those are called through a function
in LLVM's language that comes with the kernel and is inlined.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Call, Expr, StringImm
from tvm.tirx import PrimFunc

_X86, _ARM = "llvm.x86.", "llvm.aarch64.neon."
# Each with the type of a neighbour; the last two operands are the words.
_NEIGHBOUR: Mapping[str, str] = MappingProxyType(
    {
        **{f"{_X86}avx512.vpdpbusd.{bits}": "int8" for bits in (128, 256, 512)},
        **{f"{_X86}avx512.vpdpwssd.{bits}": "int16" for bits in (128, 256, 512)},
        f"{_X86}sse2.pmadd.wd": "int16",
        f"{_X86}avx2.pmadd.wd": "int16",
        f"{_X86}avx512.pmaddw.d.512": "int16",
        **{f"{_X86}avx512bf16.dpbf16ps.{bits}": "bfloat16" for bits in (128, 256, 512)},
        **{f"{_ARM}{name}": "int8" for name in ("sdot", "udot", "usdot", "smmla", "usmmla")},
        **{f"{_ARM}{name}": "bfloat16" for name in ("bfdot", "bfmmla")},
    }
)
# Those that vectors of other widths may meet too, with the width they are for.
_LANES: Mapping[str, int] = MappingProxyType(
    {
        **{f"{_X86}avx512.vpdpwssd.{bits}": bits // 32 for bits in (128, 256, 512)},
        f"{_X86}sse2.pmadd.wd": 4,
        f"{_X86}avx2.pmadd.wd": 8,
        f"{_X86}avx512.pmaddw.d.512": 16,
    }
)
_CALL = "tirx.call_llvm_pure_intrin"
_IMPORT = "pragma_import_llvm"
_THROUGH_WORDS = """
declare <{n} x float> @{name}(<{n} x float>, <{m} x bfloat>, <{m} x bfloat>)
define private <{n} x float> @{wrapper}(<{n} x float> %sum, <{n} x i32> %a, <{n} x i32> %b) {{
  %x = bitcast <{n} x i32> %a to <{m} x bfloat>
  %y = bitcast <{n} x i32> %b to <{m} x bfloat>
  %r = call <{n} x float> @{name}(<{n} x float> %sum, <{m} x bfloat> %x, <{m} x bfloat> %y)
  ret <{n} x float> %r
}}
"""


def dot(name: str, dtype: str, *operands: Expr) -> Expr:
    """One lane of the instruction `name`, whose result is of `dtype`."""
    return tirx.call_llvm_pure_intrin(dtype, name, *operands)


def typed_operands(function: PrimFunc) -> PrimFunc:
    """The function, vectorised before, with words turned into vectors of neighbours."""
    known = {_identity(name): name for name in _NEIGHBOUR}
    known.pop(0, None)  # of a processor that this LLVM was built without
    halves: dict[str, str] = {}

    def call(item: Call, mutator: tvm_ffi.StructuralMutator) -> Expr:
        item = mutator.default_mutate(item)
        name = known.get(int(item.args[0])) if item.op.name == _CALL else None
        if name is None:
            return item
        if _NEIGHBOUR[name] == "bfloat16":
            wrapper = name.replace(".", "_").replace("llvm", "optc")
            halves[wrapper] = name
            return tirx.call_pure_extern(str(item.ty), wrapper, *item.args[1:])
        identity, *sums, left, right = item.args
        if tvm.DataType(str(item.ty)).lanes != _LANES.get(name, 0) and name in _LANES:
            return _written_out(sums, left, right)
        words = [_neighbours(word, _NEIGHBOUR[name]) for word in (left, right)]
        return Call(item.op, [identity, *sums, *words], ret_ty=item.ty)

    body = tvm_ffi.structural_mutate(function.body, (Call, call))
    for wrapper, name in halves.items():
        lanes, name = _instruction(name)
        text = _THROUGH_WORDS.format(name=name, wrapper=wrapper, n=lanes, m=2 * lanes)
        body = tirx.AttrStmt(tirx.const(0, "int32"), _IMPORT, StringImm(text), body)
    return function.with_body(body)


def _instruction(name: str) -> tuple[int, str]:
    """Sums of an instruction on halves, and its name in full."""
    if name.startswith(_ARM):
        return 4, f"{name}" + ("" if name.endswith("mmla") else ".v4f32.v8bf16")
    return int(name.rsplit(".", 1)[1]) // 32, name


def _written_out(sums: list[Expr], left: Expr, right: Expr) -> Expr:
    """The sum of both products of halves, and of what is summed up already."""
    kind = str(right.ty).replace("int16", "int32")
    if kind != str(right.ty):
        raise ValueError("words of two bytes meet vectors of the whole width only")
    sixteen = tirx.const(16, kind)
    low = [tirx.shift_right(tirx.shift_left(word, sixteen), sixteen) for word in (left, right)]
    high = [tirx.shift_right(word, sixteen) for word in (left, right)]
    total = low[0] * low[1] + high[0] * high[1]
    return sums[0] + total if sums else total


def _identity(name: str) -> int:
    return int(tvm.target.codegen.llvm_lookup_intrinsic_id(name))


def _neighbours(word: Expr, kind: str) -> Expr:
    held, wanted = tvm.DataType(str(word.ty)), tvm.DataType(kind)
    count = held.bits * held.lanes // wanted.bits
    if held.bits >= 2 * wanted.bits:
        return tirx.reinterpret(f"{kind}x{count}", word)
    signed = "uint8" if str(held).startswith("uint") else "int8"
    return tirx.Cast(f"{kind}x{2 * count}", tirx.reinterpret(f"{signed}x{2 * count}", word))
