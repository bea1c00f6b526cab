"""Every pass by name, as lazy `name -> "module:Class"` lines; third parties join by entry point."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.metadata import entry_points
from types import MappingProxyType

from optc.ir.diagnostics import error
from optc.passes.base import Pass

BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "canonicalize": "optc.passes.canonicalize.canonicalize:Canonicalize",
        "remove-dead": "optc.passes.canonicalize.remove_dead:RemoveDead",
        "fold-constants": "optc.passes.canonicalize.fold_constants:FoldConstants",
        "merge-equal": "optc.passes.canonicalize.merge_equal:MergeEqual",
        "simplify-movement": "optc.passes.canonicalize.simplify_movement:SimplifyMovement",
        "simplify-unary": "optc.passes.canonicalize.simplify_unary:SimplifyUnary",
        "simplify-arithmetic": "optc.passes.canonicalize.simplify_arithmetic:SimplifyArithmetic",
        "simplify-rounding": "optc.passes.canonicalize.simplify_rounding:SimplifyRounding",
        "eliminate-transposes": "optc.passes.canonicalize.eliminate_transposes:EliminateTransposes",
        "simplify-matmul": "optc.passes.canonicalize.simplify_matmul:SimplifyMatMul",
        "matmul-to-linear": "optc.passes.canonicalize.matmul_to_linear:MatMulToLinear",
        "fold-pad": "optc.passes.canonicalize.fold_pad:FoldPad",
        "fold-batch-norm": "optc.passes.canonicalize.fold_batch_norm:FoldBatchNorm",
        "fold-scale": "optc.passes.canonicalize.fold_scale:FoldScale",
        "fold-linear-chains": "optc.passes.canonicalize.fold_linear_chains:FoldLinearChains",
        "merge-linears": "optc.passes.canonicalize.merge_linears:MergeLinears",
        "raise-softmax": "optc.passes.raising.raise_softmax:RaiseSoftmax",
        "raise-layer-norm": "optc.passes.raising.raise_layer_norm:RaiseLayerNorm",
        "raise-rms-norm": "optc.passes.raising.raise_rms_norm:RaiseRmsNorm",
        "raise-gelu": "optc.passes.raising.raise_gelu:RaiseGelu",
        "raise-silu": "optc.passes.raising.raise_silu:RaiseSilu",
        "raise-hard-swish": "optc.passes.raising.raise_hard_swish:RaiseHardSwish",
        "raise-attention": "optc.passes.raising.raise_attention:RaiseAttention",
        "decompose-attention": "optc.passes.decompose.decompose_attention:DecomposeAttention",
        "decompose-pooling": "optc.passes.decompose.decompose_pooling:DecomposePooling",
        "decompose-unsupported": "optc.passes.decompose.decompose_unsupported:DecomposeUnsupported",
        "prune-channels": "optc.passes.prune.prune_channels:PruneChannels",
        "prune-heads": "optc.passes.prune.prune_heads:PruneHeads",
        "prune-blocks": "optc.passes.prune.prune_blocks:PruneBlocks",
        "match-statistics": "optc.passes.prune.match_statistics:MatchStatistics",
        "reconstruct-weights": "optc.passes.prune.reconstruct_weights:ReconstructWeights",
        "quantize": "optc.passes.precision.quantize:Quantize",
        "quantize-weights": "optc.passes.precision.quantize_weights:QuantizeWeights",
        "integerize": "optc.passes.precision.integerize:Integerize",
        "assign-precision": "optc.passes.precision.assign_precision:AssignPrecision",
        "equalize-ranges": "optc.passes.precision.equalize_ranges:EqualizeRanges",
        "smooth-activations": "optc.passes.precision.smooth_activations:SmoothActivations",
        "correct-biases": "optc.passes.precision.correct_biases:CorrectBiases",
        "convert-precision": "optc.passes.precision.convert_precision:ConvertPrecision",
        "unpack-nibbles": "optc.passes.precision.unpack_nibbles:UnpackNibbles",
        "insert-exits": "optc.passes.early_exit.insert_exits:InsertExits",
        "assign-layout": "optc.passes.layout.assign_layout:AssignLayout",
        "fuse": "optc.passes.fusion.fuse:Fuse",
        "split-weights": "optc.passes.memory.split_weights:SplitWeights",
        "map-memory": "optc.passes.memory.map_memory:MapMemory",
        "reorder-nodes": "optc.passes.memory.reorder_nodes:ReorderNodes",
    }
)  # fmt: skip
GROUP = "optc.passes"


def names() -> Mapping[str, str]:
    """All pass names with their places; raises E0131 when a plugin takes a name that is taken."""
    table = dict(BUILT_IN)
    for plugin in entry_points(group=GROUP):
        if table.get(plugin.name, plugin.value) != plugin.value:
            both = f"{table[plugin.name]} and {plugin.value}"
            raise error("E0131", f"two passes are called {plugin.name}: {both}")
        table[plugin.name] = plugin.value
    return table


def find_pass(name: str) -> type[Pass]:
    """The class of the pass called `name`; raises E0130 with the nearest names."""
    table = names()
    if name not in table:
        near = get_close_matches(name, table, 3, 0.4)
        offer = f"; did you mean {', '.join(near)}?" if near else ""
        raise error("E0130", f"unknown pass {name!r}{offer}", help="optc passes")
    module, _, cls = table[name].partition(":")
    found: type[Pass] = getattr(importlib.import_module(module), cls)
    return found
