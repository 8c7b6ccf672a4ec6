"""A plan as a table."""

from collections.abc import Mapping
from typing import Any

from mari_cli.config import Parallel
from mari_cli.errors import counted, duration, size
from mari_cli.report.format import listed


def rows(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(figure, value, what to know of it) of a plan."""
    model, step, flops, memory = found["model"], found["step"], found["flops"], found["memory"]
    device, disk, run, clock = found["device"], found["disk"], found["run"], found["time"]
    sequences = " + ".join(f"{count} {role}" for role, count in step["sequences"].items())
    processes, layout = found["processes"], found["layout"]
    several = run["requests"] > 1
    of_largest = ", in the run of the request with the most to forget" if several else ""
    of_each = f", for each of {run['requests']} requests" if several else ""
    shapes = f"{model['name']}, shapes: {model['shapes']}"
    if model["trained"] < model["parameters"]:
        shapes += f", {model['trained'] / 1e6:.2f} M trained"
    out = [
        ("model", f"{model['parameters'] / 1e6:.1f} M", shapes),
        ("device", device["name"], f"{size(device['memory'])}, {model['precision']} ({device['source']})"),
    ]
    if processes["count"] > 1:
        kept = "in shards" if processes["parallel"] == Parallel.fsdp else "whole in each"
        told = f"weights {kept}; operations and memory are those of one process, with such a device each"
        out.append(("processes", str(processes["count"]), told))
    padding = f"{step['padding']:.1%} in the heaviest step; the rows below are of that step"
    beside = "{:.3f} × fine-tuning on the same".format
    out += [
        ("layout", "packed" if layout["packed"] else "padded", layout["reason"]),
        ("settings", found["settings"]["changed"] or "as configured", found["why"]),
        ("tokens a step", f"{run['tokens']:.0f}", f"{sequences} sequences{of_largest}"),
        ("padding", f"{run['padding']:.1%}", padding),
        ("operations a step", f"{flops['step'] / 1e12:.3g} T", beside(flops["ratio"])),
        ("memory at the peak", size(memory["peak"]), beside(memory["ratio"])),
    ]
    out += [(f"  {part}", size(count), "") for part, count in memory["parts"].items()]
    spare = memory["needed"] - memory["peak"]
    if spare:
        out.append(("  kept free", size(spare), "for CUDA itself, and what cannot be fitted together"))
    if (support := found["support"])["operations"]:
        told = f"`{support['source']}`, before step 1: {support['forward_tokens']:,} tokens read"
        if support["training_tokens"]:
            told += f", at most {support['training_tokens']:,} trained on"
        steps = support["operations"] / flops["step"]
        told += f"; {steps:.3g} times a step's{of_each}"
        out.append(("support", f"{support['operations'] / 1e12:.3g} T", told))
    if audit := found["audit"]:
        told = f"{counted(audit['cases'], 'case')} on {counted(audit['items'], 'item')} of "
        told += f"{counted(audit['models'], 'model')}, at the end of the run"
        out.append(("audit", f"{audit['forward_passes']:,}", f"forward passes of one item, about; {told}"))
    kept = disk["reference"] + disk["context"] + disk["support"]
    states = "hidden states in `cache` for marginal information, one model at a time; gone afterwards"
    out += [
        ("disk: reference", size(kept), "kept in `cache` for further runs"),
        ("disk: measuring", size(disk["measured"]), states),
        ("disk: run", size(disk["run"]), f"two states to resume from, and the kept weights{of_each}"),
    ]
    if clock["step_seconds"] is not None:
        share, peak = clock["assumed_share_of_peak"], device["flops"] / 1e12
        told = f"if {share:.0%} of {peak:.3g} T a second are reached"
        not_counted = ["evaluations", *["the support"] * bool(support["operations"])]
        if models := run["not_counted"]:
            not_counted.append(f"the fine-tuning of {listed(models)}")
        steps = f"{counted(run['steps'], 'step')}{of_each}, without {listed(not_counted)}"
        out += [
            ("time a step", duration(clock["step_seconds"]), told),
            ("time of the run", duration(clock["run_seconds"]), steps),
        ]
    return out
