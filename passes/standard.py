"""The standard order of passes: what a compilation runs when the user asks for nothing.

Shared by the driver and the tests. Fusion and layout are the driver's, as they depend on a target.
"""

from __future__ import annotations

from optc.passes.base import Pass
from optc.passes.canonicalize.canonicalize import Canonicalize
from optc.passes.canonicalize.fold_linear_chains import FoldLinearChains
from optc.passes.canonicalize.merge_linears import MergeLinears
from optc.passes.decompose.decompose_pooling import DecomposePooling
from optc.passes.decompose.decompose_unsupported import DecomposeUnsupported
from optc.passes.precision.integerize import Integerize
from optc.passes.raising.raise_attention import RaiseAttention
from optc.passes.raising.raise_gelu import RaiseGelu
from optc.passes.raising.raise_hard_swish import RaiseHardSwish
from optc.passes.raising.raise_layer_norm import RaiseLayerNorm
from optc.passes.raising.raise_rms_norm import RaiseRmsNorm
from optc.passes.raising.raise_silu import RaiseSilu
from optc.passes.raising.raise_softmax import RaiseSoftmax

CANONICALIZE: tuple[Pass, ...] = (Canonicalize(),)

RAISE: tuple[Pass, ...] = (
    RaiseSoftmax(),
    RaiseLayerNorm(),  # before RMS norm, which is its second half
    RaiseRmsNorm(),
    RaiseGelu(),
    RaiseHardSwish(),
    RaiseSilu(),
    Canonicalize(),  # a softmax without casts and reshapes around it, for attention
    RaiseAttention(),
    FoldLinearChains(),
    Canonicalize(),
)

LOWER: tuple[Pass, ...] = (
    DecomposePooling(),
    DecomposeUnsupported(),
    MergeLinears(),  # after the user's passes, which know layers by the names in the model
    Integerize(),  # what is quantized, by the user's passes or in the model
    Canonicalize(),
)
