"""`python -m benchmarks COMMAND`: every measurement by name; `--help` says what each takes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec

COMMANDS: Mapping[str, tuple[str, str]] = {
    "kernels": ("benchmarks.kernels", "kernels against the limit over a grid of shapes"),
    "winograd": ("benchmarks.winograd", "Winograd convolutions beside direct ones"),
    "winograd-errors": ("benchmarks.winograd_errors", "rounding of Winograd's way by points"),
    "ranking": ("benchmarks.ranking", "the analytic ranking of settings against measurements"),
    "tuning": ("benchmarks.tuning", "what tuning gains against trials and time"),
    "scaling": ("benchmarks.scaling", "compile time against node count"),
    "prune": ("benchmarks.prune_models", "every model pruned, held to masking, compiled, run"),
    "prune-quality": ("benchmarks.prune_quality", "what pruning costs on real data"),
    "exits": ("benchmarks.exit_models", "early exits and routing on real data"),
    "together": ("benchmarks.together", "four families in one artifact, beside each alone"),
    "families": ("benchmarks.families", "one table for each family, the same columns"),
    "memory": ("benchmarks.memory", "arenas beside their bound; tiers, simulated"),
    "streaming": ("benchmarks.streaming", "models within a part of the memory they need"),
    "peers": ("benchmarks.peers.command", "models beside PyTorch, ONNX Runtime, OpenVINO, ..."),
}

DRAWN = ("kernels", "tuning", "scaling", "peers")  # commands that end with a picture


def main() -> int:
    """Run the command named first; list them where there is none of that name."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name not in COMMANDS:
        width = max(map(len, COMMANDS))
        print("usage: python -m benchmarks COMMAND ...\n")
        print("\n".join(f"  {key:{width}}  {text}" for key, (_, text) in COMMANDS.items()))
        return 0 if name in ("-h", "--help") else 2
    if name in DRAWN and find_spec("matplotlib") is None:
        print(f"{name} draws a picture and needs matplotlib: pip install -e '.[bench]'")
        return 2
    run: Callable[[list[str]], int] = importlib.import_module(COMMANDS[name][0]).main
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
