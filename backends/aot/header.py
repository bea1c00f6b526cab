"""Writes model.h, the documented C interface of one model; names begin with the model's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from optc.backends.aot.names import comment, identifier
from optc.backends.program import Port, Program, StateSlot

RUNTIME = Path(__file__).parent / "runtime"


@dataclass(frozen=True, slots=True)
class Function:
    """One function of the interface: `$` in its text stands for the model's prefix."""

    declaration: str
    body: str
    documentation: str

    def signature(self, prefix: str) -> str:
        """The declaration without a semicolon."""
        return self.declaration.replace("$", prefix)


FUNCTIONS = (
    Function(
        "int $_create(const char *path, const optc_options *options, $_model **out)",
        "return optc_rt_create(&model, path, options, (struct optc_rt_instance **)(void *)out);",
        "Makes an instance. `path`: the artifact's folder or its weights.bin; `options`: null for\n"
        "the defaults. Instances share no buffer and may run at the same time.",
    ),
    Function(
        "void $_destroy($_model *m)",
        "optc_rt_destroy(INSTANCE(m));",
        "Frees an instance; null is fine.",
    ),
    Function(
        "int $_run($_model *m, const void *const *inputs, void *const *outputs)",
        "return optc_rt_run(INSTANCE(m), inputs, outputs);",
        "Runs the model once: one pointer for each input and output, in order. Calls on one\n"
        "instance from several threads are safe and wait for each other.",
    ),
    Function(
        "const char *$_last_error(void)",
        "return optc_rt_last_error();",
        "What went wrong in the last call that failed on this thread, as a sentence.",
    ),
    Function("int $_input_count(void)", "return model.input_count;", "How many inputs there are."),
    Function(
        "int $_output_count(void)", "return model.output_count;", "How many outputs there are."
    ),
    Function("int $_state_count(void)", "return model.state_count;", "How many states there are."),
    Function(
        "const optc_port *$_input(int index)",
        "return index >= 0 && index < model.input_count ? &model.inputs[index] : 0;",
        "Name, type, shape and size of an input; null where there is none.",
    ),
    Function(
        "const optc_port *$_output(int index)",
        "return index >= 0 && index < model.output_count ? &model.outputs[index] : 0;",
        "Name, type, shape and size of an output; null where there is none.",
    ),
    Function(
        "const optc_port *$_state(int index)",
        "return index >= 0 && index < model.state_count ? &model.states[index].port : 0;",
        "Name, type, shape and size of a state; null where there is none.",
    ),
    Function(
        "int $_state_reset($_model *m)",
        "return optc_rt_state_reset(INSTANCE(m));",
        "Gives every state that the model changes the value it had when the instance was made.",
    ),
    Function(
        "int $_state_get($_model *m, int index, void *bytes)",
        "return optc_rt_state_get(INSTANCE(m), index, bytes);",
        "Copies a state out; `bytes` has room for it.",
    ),
    Function(
        "int $_state_set($_model *m, int index, const void *bytes)",
        "return optc_rt_state_set(INSTANCE(m), index, bytes);",
        "Replaces a state.",
    ),
    Function(
        "int $_set_parameter($_model *m, const char *name, float value)",
        "return optc_rt_set_parameter(INSTANCE(m), name, value);",
        "Sets a parameter for the runs to come: a state that the model reads and never writes,\n"
        "such as the threshold of an exit. $_state_reset leaves it alone; NaN is refused.",
    ),
    Function(
        "int $_get_parameter($_model *m, const char *name, float *value)",
        "return optc_rt_get_parameter(INSTANCE(m), name, value);",
        "Reads a parameter.",
    ),
    Function(
        "int $_set_threads($_model *m, int threads)",
        "return optc_rt_set_threads(INSTANCE(m), threads);",
        "Threads for the runs to come; 0: one for each physical core this process may use.",
    ),
    Function(
        "int $_profile_start($_model *m)",
        "return optc_rt_profile_start(INSTANCE(m));",
        "From now on times every kernel call; the counters begin at zero.",
    ),
    Function(
        "int $_profile_stop($_model *m)",
        "return optc_rt_profile_stop(INSTANCE(m));",
        "Stops timing; the counters stay.",
    ),
    Function(
        "int $_profile_get($_model *m, optc_profile_entry *entries, int capacity)",
        "return optc_rt_profile_get(INSTANCE(m), entries, capacity);",
        "Writes at most `capacity` entries and returns how many calls the program has.",
    ),
    Function(
        "int $_segment_count(void)", "return model.segment_count;", "How many segments there are."
    ),
    Function(
        "const char *$_segment(int index)",
        "return index >= 0 && index < model.segment_count ? model.segments[index] : 0;",
        "A segment's name; null where there is none.",
    ),
    Function(
        "uint64_t $_segment_runs($_model *m, int index)",
        "return optc_rt_segment_runs(INSTANCE(m), index);",
        "How often a segment ran since the instance was made or profiling began.",
    ),
    Function("int $_exit_count(void)", "return model.exit_count;", "How many exits there are."),
    Function(
        "const char *$_exit(int index)",
        "return index >= 0 && index < model.exit_count ? model.exits[index].name : 0;",
        "An exit's name, in the order they are met; null where there is none.",
    ),
    Function(
        "uint64_t $_exit_runs($_model *m, int index)",
        "return index >= 0 && index < model.exit_count\n"
        "    ? optc_rt_segment_runs(INSTANCE(m), model.exits[index].segment) : 0;",
        "How often runs left by an exit since the instance was made or profiling began.",
    ),
    Function(
        "int $_bench($_model *m, const void *const *inputs, void *const *outputs, int runs, "
        "uint64_t *nanoseconds)",
        "return optc_rt_bench(INSTANCE(m), inputs, outputs, runs, nanoseconds);",
        "Runs `runs` times and writes what each took.",
    ),
)


def exported_symbols(program: Program) -> tuple[str, ...]:
    """The names that model.so shows to others."""
    prefix = identifier(program.name)
    names = (function.signature(prefix).split("(")[0] for function in FUNCTIONS)
    return tuple(name.split()[-1].lstrip("*") for name in names)


def write_header(program: Program) -> str:
    """The text of model.h."""
    prefix = identifier(program.name)
    guard = f"OPTC_MODEL_{prefix.upper()}_H"
    shared = (RUNTIME / "optc.h").read_text()
    return "\n".join(
        [
            f"/* {comment(program.name)}: C interface of a compiled model, generated by optc.",
            "",
            *_ports_page(program),
            "",
            "   Functions that return int answer OPTC_OK (0) or another of the codes below. */",
            f"#ifndef {guard}",
            f"#define {guard}",
            "",
            shared,
            "#ifdef __cplusplus",
            'extern "C" {',
            "#endif",
            "",
            "#ifndef OPTC_API",
            '#define OPTC_API __attribute__((visibility("default")))',
            "#endif",
            "",
            *_sizes(program, prefix.upper()),
            f"typedef struct {prefix}_model {prefix}_model;",
            "",
            *_declarations(prefix),
            "#ifdef __cplusplus",
            "}",
            "#endif",
            "",
            "#endif",
            "",
        ]
    )


def _ports_page(program: Program) -> Iterator[str]:
    groups: tuple[tuple[str, tuple[Port | StateSlot, ...]], ...] = (
        ("input", program.inputs),
        ("output", program.outputs),
        ("state", program.states),
    )
    for kind, ports in groups:
        for index, port in enumerate(ports):
            shape = "x".join(map(str, port.shape)) or "scalar"
            size = f"{shape} {port.dtype.value}, {port.nbytes} bytes"
            what = "parameter" if isinstance(port, StateSlot) and port.parameter else kind
            yield f"   {what} {index}: {comment(port.name)}, {size}"


def _sizes(program: Program, prefix: str) -> Iterator[str]:
    yield f"#define {prefix}_INPUTS {len(program.inputs)}"
    yield f"#define {prefix}_OUTPUTS {len(program.outputs)}"
    for kind, ports in (("INPUT", program.inputs), ("OUTPUT", program.outputs)):
        for index, port in enumerate(ports):
            yield f"#define {prefix}_{kind}_{index}_BYTES {port.nbytes}u"
    yield ""


def _declarations(prefix: str) -> Iterator[str]:
    for function in FUNCTIONS:
        text = function.documentation.replace("$", prefix).replace("\n", "\n   ")
        yield f"/* {text} */"
        yield f"OPTC_API {function.signature(prefix)};"
        yield ""
