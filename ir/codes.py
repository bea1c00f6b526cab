"""The page behind every diagnostic code, shown by `optc explain CODE`.

A code is raised in exactly one meaning; a test holds this table equal to the codes that the source
raises. Ranges: 01xx the IR and what a target is, 02xx capture, 03xx passes, 04xx kernels, 05xx
artifacts and their loading, 07xx the command line and its tools. Append within a range; a number
is never used again for something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

from optc.ir.diagnostics import error


@dataclass(frozen=True, slots=True)
class Page:
    """What a code means and what to do about it."""

    title: str
    text: str


_PAGES: dict[str, Page] = {
    # 01xx: text form, modules, weights, targets
    "E0101": Page(
        "text form cannot be read",
        "The text of a module is parsed and every type in it is inferred again. The message names the line\n"
        "and column, and a caret points at the place. Text that optc prints always parses; look at what was\n"
        "edited by hand. `optc ops` lists every op, `optc opt graph.optc` prints a graph back.",
    ),
    "E0110": Page(
        "the weights of a constant are not here",
        "A large constant is printed as the digest of its content; the content lies in the file beside the\n"
        "text, `graph.optc.weights`. Something wanted the content and there is no such file. Copy both files\n"
        "together, or write the graph again. Graphs inside an artifact have no weights files: give the model\n"
        "they were made from, as `optc diff model.pt2 out/` does.",
    ),
    "E0111": Page(
        "a weights file is damaged",
        "Each constant is named by the SHA-256 of its type and content, and the content found does not have\n"
        "that digest, or the file ends early. Copy it again from where it was written, or write it again.",
    ),
    "E0112": Page(
        "a file cannot be read",
        "The file is missing, is a folder, may not be read by this user, or is not what its name says. The\n"
        "message gives the system's reason.",
    ),
    "E0120": Page(
        "a value is defined twice",
        "In a graph every value is defined once: as an input, a constant, or an output of one node. Found by\n"
        "the verifier, which runs on every graph that is read and after every pass.",
    ),
    "E0121": Page(
        "a constant's type is not the type of its value",
        "The verifier compares the type that a value declares with the type of the constant behind it.",
    ),
    "E0122": Page(
        "a value is used before it is defined",
        "Nodes are in an order that can be executed: what a node reads, and what the graph returns, must be\n"
        "an input, a constant, or an output of an earlier node.",
    ),
    "E0123": Page(
        "an op does not give the types that are written",
        "The types of a node's outputs follow from its op and its inputs. The verifier infers them again and\n"
        "found others, or the op refuses its inputs; the message says which.",
    ),
    "E0124": Page(
        "two things have one name",
        "Graphs of a module have distinct names, and so have its inputs and states.",
    ),
    "E0125": Page(
        "the flow does not fit the graphs",
        "A step of the flow runs a graph that does not exist, gives it another number or other types of\n"
        "values than it takes, or leaves an output or a state of the module without a value.",
    ),
    "E0130": Page(
        "unknown pass",
        "No pass has this name. `optc passes` lists them all; the nearest names are in the message.",
    ),
    "E0131": Page(
        "two passes have one name",
        "A plugin (entry point group `optc.passes`) offers a pass under a name that is taken. The message\n"
        "names both places; one of them must be renamed or uninstalled.",
    ),
    "E0132": Page(
        "a pass does not take this option",
        "Options are written in braces after the pass: `prune-channels{ratio=0.3,seed=1}`. The option is not\n"
        "known, or its value cannot be read as the type it takes. `optc passes NAME` shows all of them.",
    ),
    "E0133": Page(
        "a pipeline cannot be read",
        "A pipeline is a comma-separated list of passes, each with its options in braces:\n"
        "`-p 'fold-batch-norm,prune-channels{ratio=0.3}'`. Quote it, so that the shell leaves the braces alone.",
    ),
    "E0140": Page(
        "unknown target",
        "No target has this name. `optc targets` lists them all; the nearest names are in the message.\n"
        "`host` is the machine optc runs on, `cuda` is cuda-sm_80.",
    ),
    "E0141": Page(
        "unknown target option",
        "A target may be followed by the number of cores to compile for: `--target cortex-a76:cores=2`.",
    ),
    "E0142": Page(
        "this machine is not supported as a target",
        "`host` could not be matched with a known machine: it needs an x86-64 with SSE4.2, a 64-bit ARM, or\n"
        "a 32-bit ARM with NEON. Choose a target by name; `optc targets` lists them.",
    ),
    "E0150": Page(
        "the output cannot be written",
        "The folder is missing, is a file, is read-only, or belongs to someone else; the message gives the\n"
        "system's reason. Output is written aside and renamed when it is complete, so nothing was changed.",
    ),
    "E0151": Page(
        "no space left",
        "The disk, a quota or a limit on file sizes was reached while the output was written. What had been\n"
        "written was removed again; an earlier output in the same place is still there, untouched.",
    ),
    # 05xx: artifacts and their loading
    "E0501": Page(
        "no C compiler for the target",
        "The driver and the runtime of an artifact are C, compiled and linked by zig, which `pip install\n"
        "ziglang` brings for every CPU target. Without it the system's compiler is taken: `cc` for this\n"
        "machine, `aarch64-linux-gnu-gcc` and the like for others. Neither was found.",
    ),
    "E0502": Page(
        "artifacts for this triple cannot be linked",
        "The runtime is written for Linux on x86-64, 64-bit ARM and 32-bit ARM, with glibc or musl.",
    ),
    "E0503": Page(
        "the output place holds something else",
        "An artifact replaces an artifact or an empty folder, never other files. Give -o a new place, or\n"
        "remove what is there.",
    ),
    "E0510": Page(
        "this is no artifact that can be loaded",
        "An artifact is a folder with a manifest.json, or a `.optc` file, both made by `optc compile`. To be\n"
        "loaded it also needs model.so, which is there unless `--emit` asked for something else.",
    ),
    "E0511": Page(
        "an artifact of a newer optc",
        "The format of the artifact is newer than what this version reads. Upgrade optc where it is loaded,\n"
        "or compile the model with the older version.",
    ),
    "E0512": Page(
        "an artifact for another kind of CPU",
        "The kernels are machine code. Compile the model for this machine, with `--target host` here or with\n"
        "this machine's name elsewhere.",
    ),
    "E0513": Page(
        "the CPU lacks features that the kernels need",
        "The artifact says which CPU features its kernels use, and loading refuses where one is missing\n"
        "instead of failing with an illegal instruction later. Compile for a smaller target, such as\n"
        "`--target x86-64-v3`.",
    ),
    "E0514": Page(
        "a file of the artifact is damaged or missing",
        "Every file's digest is in the manifest, and the digest of the weights in the library; one does not\n"
        "match. The copy is incomplete, or files of two artifacts were mixed. Copy or compile it again.",
    ),
    "E0515": Page(
        "the system refuses the library",
        "model.so could not be loaded, or a `.optc` file not be unpacked; the message gives the system's\n"
        "reason. A file system mounted `noexec` is one, another C library (musl instead of glibc) another.",
    ),
    "E0520": Page(
        "inputs are missing, unknown, or given twice",
        "Inputs are given by position or by name, like the arguments of a function; nested ones are taken\n"
        "apart into `outer.inner`. The message lists all inputs with shape and dtype.",
    ),
    "E0521": Page(
        "an input has another shape than the model was compiled for",
        "Shapes are fixed when a model is compiled. Pad, slice or transpose the input, or compile again with\n"
        "`--shape`.",
    ),
    "E0522": Page(
        "an input has another dtype than the model was compiled for",
        "Nothing is converted silently. bf16 inputs are ml_dtypes.bfloat16 arrays, or their raw bits as\n"
        "uint16; a numpy array of Python floats is f64, and `x.astype(np.float32)` is what most models want.",
    ),
    "E0523": Page(
        "an argument cannot be used",
        "Inputs are numpy arrays, or anything with `__array_interface__` or `__dlpack__` in host memory;\n"
        "counts are whole numbers; an artifact that was closed must be loaded again.",
    ),
    "E0524": Page(
        "a kernel failed",
        "A kernel refused its arguments or reported an error while the model ran; the message names it.",
    ),
    "E0525": Page(
        "no memory for an instance",
        "An instance needs the arena and the states in memory (`peak_bytes` in the manifest, which counts the\n"
        "mapped weights too). Close other instances or free some memory.",
    ),
    "E0526": Page(
        "no state has this name",
        "States are the buffers that the model updates, such as a key-value cache. The message lists them.",
    ),
    # 07xx: the command line and its tools
    "E0701": Page(
        "unknown option",
        "The command does not take this option; the nearest names are in the message and `optc COMMAND --help`\n"
        "explains all of them.",
    ),
    "E0702": Page(
        "unknown command",
        "`optc --help` lists the commands; the nearest names are in the message.",
    ),
    "E0703": Page(
        "the command line is not complete or not consistent",
        "An argument is missing, there is one too many, or an option's value is not of its kind.\n"
        "`optc COMMAND --help` shows what the command takes.",
    ),
    "E0704": Page(
        "there is no such code",
        "`optc explain` takes the code in brackets of a diagnostic, such as E0140.",
    ),
    "E0705": Page(
        "out of memory",
        "The system refused memory. Close what else runs, compile with fewer threads, or use a larger machine:\n"
        "compiling takes about three times the size of the model's weights.",
    ),
    "E0790": Page(
        "a bug in optc",
        "A promise of the compiler was broken; it is not your model's fault. The file named in the message\n"
        "holds what reproduces it: the graph and the pass, or the trace of the failure. Please report it with\n"
        "that file. The exit code is 70.",
    ),
}  # fmt: skip

PAGES: Mapping[str, Page] = MappingProxyType(_PAGES)


def page(code: str) -> Page:
    """The page of a code, in any case; raises E0704 with the nearest codes."""
    found = PAGES.get(code.upper())
    if found is None:
        near = get_close_matches(code.upper(), PAGES, 3, 0.4)
        offer = f"; the nearest are {', '.join(near)}" if near else ""
        raise error("E0704", f"no diagnostic has the code {code!r}{offer}", help="optc explain E0140")
    return found
