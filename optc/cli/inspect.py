"""`optc inspect`: what a model, a graph or an artifact holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from optc.cli.options import cache_folder, capture_options, is_artifact, read_module
from optc.cli.terminal import console, plain_table, styled
from optc.ir.diagnostics import error
from optc.report.numbers import bytes_text, count_text, place_text, seconds_text, shape_text

if TYPE_CHECKING:
    from optc.inspect import ModuleFacts

ROWS = 30  # of the node table, unless --all


@click.command("inspect")
@click.argument("path", metavar="MODEL|GRAPH|OUT", type=click.Path(path_type=Path))
@capture_options
@click.option(
    "--memory", is_flag=True, help="What lies in memory: weights, activations, states, the largest."
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="MAP.svg",
    help="With --memory, of an artifact: the memory map as a picture.",
)
@click.option("--all", "everything", is_flag=True, help=f"Every node, not the costliest {ROWS}.")
@click.option("--json", "as_json", is_flag=True, help="All of it as JSON.")
def inspect_command(
    path: Path,
    shape: str,
    unsafe_load: bool,
    example: Path | None,
    memory: bool,
    output: Path | None,
    everything: bool,
    as_json: bool,
) -> None:
    """Show ops, parameters, multiply-adds, bytes, and the least time of every node on this machine.

    Takes a model (.pt2), a graph in text form, or an artifact (a folder or a .optc file). Nodes
    that come from a line of your source show it.
    """
    if output is not None and not (memory and is_artifact(path)):
        raise error(
            "E0703",
            "the memory map is of an artifact",
            help=f"optc inspect --memory out/ -o {output}",
        )
    if is_artifact(path):
        if output is not None:
            _write_map(path, output)
        _inspect_artifact(path, memory, everything, as_json)
        return
    from optc.inspect import inspect_module
    from optc.ir.targets.find import find_target
    from optc.limits import limits_of

    module = read_module(path, shape, unsafe_load, example)
    host = find_target("host")
    facts = inspect_module(module, limits_of(host, host.cores, cache_folder()))
    if as_json:
        click.echo(json.dumps(_plain(facts), indent=1))
        return
    _show_facts(facts)
    if memory:
        _show_memory(facts)
    _show_nodes(facts, everything)


def _plain(facts: ModuleFacts) -> dict[str, object]:
    ports = {
        kind: [{"name": p.name, "type": str(p.type)} for p in getattr(facts, kind)]
        for kind in ("inputs", "outputs", "states")
    }
    totals = (
        "parameters",
        "weight_bytes",
        "peak_bytes",
        "peak_node",
        "macs",
        "flops",
        "bytes",
        "seconds",
    )
    return {
        "name": facts.name,
        **ports,
        **{name: getattr(facts, name) for name in totals},
        "ops": dict(facts.ops),
        "nodes": [asdict(node) for node in facts.nodes],
    }


def _show_facts(facts: ModuleFacts) -> None:
    out = console()
    out.print(styled((facts.name, "bold")))
    for kind in ("inputs", "outputs", "states"):
        for port in getattr(facts, kind):
            out.print(f"  {kind[:-1]:7} {port.name}: {port.type}")
    table = plain_table(
        "ops", "parameters", "weights", "multiply-adds", "operations", "moved", "least time"
    )
    table.add_row(
        str(len(facts.nodes)),
        count_text(facts.parameters),
        bytes_text(facts.weight_bytes),
        count_text(facts.macs),
        count_text(facts.flops),
        bytes_text(facts.bytes),
        seconds_text(facts.seconds),
    )
    out.print(table)
    out.print(", ".join(f"{name} {count}" for name, count in facts.ops.items()))


def _show_memory(facts: ModuleFacts) -> None:
    table = plain_table("memory", "bytes", "", numbers=("bytes",))
    table.add_row("weights", bytes_text(facts.weight_bytes), "read only, mapped from the file")
    table.add_row(
        "activations", bytes_text(facts.peak_bytes), f"the most at once, at {facts.peak_node}"
    )
    state = sum(port.type.nbytes for port in facts.states)
    table.add_row("states", bytes_text(state), "kept from call to call")
    console().print(table)


def _show_nodes(facts: ModuleFacts, everything: bool) -> None:
    numbers = ("MACs", "bytes", "flop/byte", "least time")
    table = plain_table("node", "op", "type", *numbers, "bound", "source", numbers=numbers)
    ranked = sorted(facts.nodes, key=lambda node: -node.seconds)[:ROWS]
    chosen = facts.nodes if everything else [node for node in facts.nodes if node in set(ranked)]
    for node in chosen:
        table.add_row(
            node.name,
            node.op,
            node.result,
            count_text(node.macs) if node.macs else "",
            bytes_text(node.bytes),
            f"{node.intensity:.1f}",
            seconds_text(node.seconds),
            node.bound,
            place_text(node.place),
        )
    console().print(table)
    if len(chosen) < len(facts.nodes):
        console().print(
            f"the {len(chosen)} costliest of {len(facts.nodes)} nodes; --all shows the rest"
        )


def _inspect_artifact(path: Path, memory: bool, everything: bool, as_json: bool) -> None:
    from optc.bundle import open_bundle

    manifest = open_bundle(path, cache_folder() / "artifacts").manifest
    if as_json:
        click.echo(json.dumps(manifest, indent=1))
        return
    out = console()
    target = manifest["target"]
    machine = f"{target['triple']} {target['cpu']}"
    out.print(styled((manifest["name"], "bold"), f": artifact for {machine}"))
    out.print(f"needs: {' '.join(target['features']) or 'no CPU features'}")
    for kind in ("inputs", "outputs", "states"):
        for port in manifest[kind]:
            out.print(f"  {kind[:-1]:7} {port['name']}: {shape_text(port['shape'], port['dtype'])}")
    out.print(_files(manifest["files"]))
    if memory:
        out.print(_artifact_memory(manifest))
    calls = [call for segment in manifest["segments"] for call in segment["calls"]]
    out.print(_calls(calls, everything))
    if not everything and len(calls) > ROWS:
        out.print(
            f"the {ROWS} of {len(calls)} kernel calls with the most operations; --all shows all"
        )


def _write_map(path: Path, output: Path) -> None:
    from optc.bundle import open_bundle
    from optc.ir.output import check_writable, replace_file
    from optc.report.memory_map import MemoryMap, map_svg

    manifest = open_bundle(path, cache_folder() / "artifacts").manifest
    facts = manifest.get("memory_map")
    if facts is None:
        raise error(
            "E0511", f"{path} has no memory map: it is of an older optc", help="compile it again"
        )
    window = int(manifest.get("stream", {}).get("window_bytes", 0))
    drawn = MemoryMap.of(facts, int(manifest["arena_bytes"]), window)
    check_writable(output)
    with replace_file(output) as aside:
        title = f"{manifest['name']}: {bytes_text(manifest['peak_bytes'])} at most"
        aside.write_text(map_svg(drawn, title, alone=True), encoding="utf-8")


def _files(files: Mapping[str, Any]) -> Table:
    table = plain_table("file", "size", "sha256", numbers=("size",))
    graphs = {name: entry for name, entry in files.items() if name.startswith("graphs/")}
    for name, entry in files.items():
        if name not in graphs:
            table.add_row(name, bytes_text(entry["bytes"]), entry["sha256"][:16])
    if graphs:
        total = sum(entry["bytes"] for entry in graphs.values())
        table.add_row(f"graphs/ ({len(graphs)} files)", bytes_text(total), "")
    return table


def _artifact_memory(manifest: Mapping[str, Any]) -> Table:
    table = plain_table("memory", "bytes", "", numbers=("bytes",))
    plan = manifest.get("stream")
    if plan is None:
        how, held = "read only, mapped from weights.bin", manifest["weights_bytes"]
        if manifest.get("stored_bytes", held) < held:
            how = f"widened from half bytes: {bytes_text(manifest['stored_bytes'])} in weights.bin"
    else:
        how = f"of {bytes_text(manifest['weights_bytes'])}: a window, what stays, and picked rows"
        held = plan["window_bytes"] + plan["pinned_bytes"] + plan["table_rows_bytes"]
    table.add_row("weights", bytes_text(held), how)
    table.add_row(
        "arena",
        bytes_text(manifest["arena_bytes"]),
        "activations and workspaces, one block for each instance",
    )
    table.add_row("states", bytes_text(manifest["state_bytes"]), "kept from call to call")
    ports = sum(port["bytes"] for kind in ("inputs", "outputs") for port in manifest[kind])
    table.add_row("inputs, outputs", bytes_text(ports), "the caller's buffers")
    table.add_row("peak", bytes_text(manifest["peak_bytes"]), "all of it; code and process apart")
    return table


def _calls(calls: Sequence[Mapping[str, Any]], everything: bool) -> Table:
    numbers = ("operations", "bytes", "flop/byte")
    table = plain_table("kernel call", "source", *numbers, numbers=numbers)
    ranked = sorted(
        range(len(calls)), key=lambda index: (-calls[index]["flops"], -calls[index]["bytes"])
    )
    for index in range(len(calls)) if everything else sorted(ranked[:ROWS]):
        row = calls[index]
        intensity = row["flops"] / row["bytes"] if row["bytes"] else 0.0
        label, _, place = row["label"].partition(" @ ")
        table.add_row(
            label,
            place_text(place),
            count_text(row["flops"]),
            bytes_text(row["bytes"]),
            f"{intensity:.1f}",
        )
    return table
