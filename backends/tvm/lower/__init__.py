"""How each op is said in TVM's tensor expressions, one module per family.

f16 and bf16 are computed in f32: a smooth op reads what its producer computed before rounding when
both end up in one kernel, so values are rounded where they are written to memory.
"""
