"""The light doors stay light: what a fresh process has loaded after them.

`import optc` and `optc --help` load neither torch nor tvm; an artifact is loaded with numpy only;
and nothing is ever imported as bare `ir`, `passes`, `backends` or `autotune`.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.structure.tree import LAYERS, ROOT

HEAVY = {"torch", "tvm", "tvm_ffi", "torch_mlir", "transformers"}
NOT_FOR_LOADING = HEAVY | {"click", "rich", "jinja2", "networkx", "scipy", "ziglang"}

HELP = """
from optc.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
"""
LIST = """
import json, sys
print("\\n" + json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def loaded_after(code: str) -> set[str]:
    """Top-level packages that a fresh process has loaded after running `code`."""
    result = subprocess.run(
        [sys.executable, "-I", "-c", code + LIST],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import optc", NOT_FOR_LOADING | {"numpy"}),
        ("import optc.ir, optc.passes, optc.backends, optc.autotune", HEAVY),
        ("import optc; optc.load", NOT_FOR_LOADING),
        (HELP, HEAVY),
    ],
    ids=["import", "layers", "load", "help"],
)
def test_a_light_door_loads_no_heavy_package(code: str, unwanted: set[str]) -> None:
    assert loaded_after(code) & (unwanted | set(LAYERS)) == set()


def test_a_bare_layer_cannot_be_imported_in_tests() -> None:
    with pytest.raises(ImportError, match="optc"):
        __import__("ir")
