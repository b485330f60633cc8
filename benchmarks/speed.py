"""What the model's passes cost, beside transformers' torch models in the same run.

    python benchmarks/speed.py --list
    python benchmarks/speed.py caption_greedy match_one --batch_size 8 --rounds 5 --out speed.json

Weights are random and the same length is written by both, so that both do the same work. A row
runs ours and theirs in turn, `--rounds` times two calls after a first one of each; figures are
medians of the second calls.
Beside them stand the matrix products of our side and how near they come to the rate that the
machine has for nothing else (`benchmarks/roofline.py` draws both).
"""

import argparse
import dataclasses
import functools
import importlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from inputs import TEXTS, Args, Call

SIDES = ("ours", "theirs")  # modules, each imported where it runs
SETTINGS = ("size", "image_size", "batch_size", "dtype", "remat")  # flags that a figure depends on


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure: what is counted, and how much of it a call does."""

    about: str
    unit: str
    items: int | None = None  # as many as a batch has where it is none


ROWS = {
    "caption_greedy": Row("pictures captioned by greedy decoding", "captions"),
    "caption_nucleus": Row("pictures captioned by nucleus sampling, p = 0.9", "captions"),
    "caption_beam": Row("pictures captioned by beam search, 3 beams", "captions"),
    "match_one": Row(
        f"ITM of a picture with {TEXTS} texts; theirs encodes it once too, by hand", "pairs", TEXTS
    ),
    "match_one_forward": Row(
        "the same; theirs by its forward, which takes a picture a text", "pairs", TEXTS
    ),
    "match_pairs": Row(f"ITM of {TEXTS} pictures with a text each", "pairs", TEXTS),
    "capfilt": Row(
        "a nucleus caption and two match scores a picture, captioner and filter apart", "images"
    ),
    "capfilt_shared": Row("the same by models that share a vision tower", "images"),
    "train_caption": Row("a step of caption fine-tuning", "samples"),
    "train_pretrain": Row(
        "a step of pre-training with teacher, queues of 57,600 and the three losses", "samples"
    ),
}


def turn(call: Call) -> float:
    """Seconds of the second of two calls: the first finds again what memory the other side's
    made the process give up, which a virtual machine may be slow to give."""
    call()
    return seconds(call)


def seconds(call: Call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def build(name: str, side: str, args: Args) -> Call:
    return importlib.import_module(side).CALLS[name](args)


def measure(name: str, args: Args) -> dict[str, Any]:
    """One row: medians, and the ratio of each pair of calls that followed each other."""
    import ours

    row = ROWS[name]
    items = row.items or args.batch_size
    # A call of its own, gone again: a traced step is spoilt.
    flops, moved = ours.work(build(name, "ours", args))
    calls = [build(name, side, args) for side in SIDES]
    first = [seconds(call) for call in calls]
    pairs = [[turn(call) for call in calls] for _ in range(args.rounds)]
    taken, by_them = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {
        "row": name,
        "unit": f"{row.unit}/s",
        "ours": items / taken,
        "theirs": items / by_them,
        "ratio": statistics.median(b / a for a, b in pairs),
        "spread": [min(b / a for a, b in pairs), max(b / a for a, b in pairs)],
        "first_call_seconds": first,
        "gflop": flops / 1e9,
        "gbyte": moved / 1e9,
        "gflops": flops / 1e9 / taken,
        **({"peak_gib": {side: peak(name, side, args) for side in SIDES}} if args.memory else {}),
    }


def peak(name: str, side: str, args: Args) -> float:
    """Most memory, GiB, of a process that imports, builds and runs one side alone, twice."""
    given = [f"--{key}={getattr(args, key)}" for key in SETTINGS]
    given += ["--compile"] * args.compile
    command = [sys.executable, __file__, name, f"--only={side}", *given]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def alone(name: str, args: Args) -> float:
    """GiB that this process held at most, running one side: of a GPU, or else (on Linux) of the
    machine's memory."""
    call = build(name, args.only, args)
    call()
    call()
    held = importlib.import_module(args.only).device_peak()
    if held is not None:
        return held / 2**30
    # What getrusage tells begins at the most that the parent held.
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) / 2**20


@functools.cache
def machine(dtype: str) -> dict[str, float]:
    """GFLOP/s and GB/s that the machine has at best."""
    import ours

    calls = ours.probes(dtype).items()
    return {name: amount / min(seconds(call) for _ in range(20)) for name, (call, amount) in calls}


def facts(args: Args) -> dict[str, Any]:
    """What a figure means nothing without."""
    import jax
    import torch
    import transformers

    return {
        "command": " ".join(["python", "benchmarks/speed.py", *sys.argv[1:]]),
        "device": str(jax.devices()[0].device_kind),
        "machine": machine(args.dtype),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "versions": {m.__name__: m.__version__ for m in (jax, torch, transformers)},
        **{k: getattr(args, k) for k in (*SETTINGS, "rounds")},
    }


def table(results: list[dict[str, Any]], best: float) -> str:
    """Markdown; `best` is the machine's GFLOP/s, first results are ours / theirs."""
    lines = [
        "| row | ours | transformers | ratio (lowest to highest) | of the machine's rate "
        "| first result, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in results:
        low, high = r["spread"]
        ours, theirs = r["first_call_seconds"]
        lines.append(
            f"| {r['row']} | {r['ours']:.3g} {r['unit']} | {r['theirs']:.3g} {r['unit']} | "
            f"{r['ratio']:.2f} ({low:.2f} to {high:.2f}) | {100 * r['gflops'] / best:.0f} % | "
            f"{ours:.0f} / {theirs:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", help="all where none is named")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--size", choices=("tiny", "b16", "l16"), default="b16")
    parser.add_argument("--image_size", type=int, default=384)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--remat", choices=("none", "dots"), default="none", help="of our training")
    parser.add_argument("--compile", action="store_true", help="torch.compile theirs")
    parser.add_argument("--memory", action="store_true", help="peak memory of each side, alone")
    parser.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.list:
        print("\n".join(f"{name:18} {row.about}" for name, row in ROWS.items()))
        return
    if unknown := [name for name in args.rows if name not in ROWS]:
        parser.error(f"no row {unknown[0]!r}; --list names them")
    # Both sides share a GPU, and jax would take most of it for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if args.only:
        print(alone(args.rows[0], args))
        return
    results = []
    for name in args.rows or ROWS:
        results.append(measure(name, args))
        print(json.dumps(results[-1]), flush=True)
        if args.out:
            args.out.write_text(json.dumps(facts(args) | {"results": results}, indent=1) + "\n")
    print("\n" + table(results, machine(args.dtype)["gflops"]))


if __name__ == "__main__":
    main()
