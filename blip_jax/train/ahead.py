"""Programs compiled for machines that are not there: will they fit, and how fast could they be?

jax compiles for a TPU topology on any machine that has the `libtpu` package. The figures are the
compiler's; none was measured on a chip.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from blip_jax.train.mesh import BATCH
from blip_jax.train.optimizer import frozen, make_optimizer
from blip_jax.train.state import Task, abstract_state, make_train_step

GIB = 2**30
# Name in a topology -> (memory of a device in bytes, bfloat16 FLOP/s of a device), by Google's
# pages on each version. A TPU7x chip is two devices.
CHIPS = {
    "v4": (32 * GIB, 275e12),
    "v5e": (16 * GIB, 197e12),
    "v5p": (95 * GIB, 459e12),
    "v6e": (32 * GIB, 918e12),
    "tpu7x": (96 * GIB, 1153e12),
}
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
_PAIRED = ("all-gather", "collective-permute")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Program:
    """What the compiler says of one program, per device."""

    name: str
    memory: int  # bytes: arguments, results that reuse none of them, and temporaries
    flops: float
    collectives: dict[str, tuple[int, int]]  # kind -> (how many, bytes of their results)
    seconds: float | None  # the compiler's own estimate, where it makes one

    def mfu(self, peak: float) -> float | None:
        """Share of the device's FLOP/s that the estimate implies."""
        return self.flops / (self.seconds * peak) if self.seconds else None


def topology_devices(name: str, slices: int = 1) -> list[Any]:
    """Devices of a topology such as "v5e:16x16", to compile for.

    Raises:
      ValueError: libtpu is not installed, or knows no such topology.
    """
    if chip_of(name) not in CHIPS:
        raise ValueError(
            f"topology {name!r}: expected VERSION:SHAPE with one of {', '.join(CHIPS)}"
        )
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, num_slices=slices)
    except Exception as error:  # the plugin raises what it likes
        raise ValueError(
            f"cannot compile for {name!r} (is the package libtpu installed?): {error}"
        ) from error
    return list(found.devices)


def chip_of(topology: str) -> str:
    """ "v5e:16x16" -> "v5e"."""
    return topology.partition(":")[0].lower()


def compile_step(
    task: Task, params: Any, batch: dict[str, jax.ShapeDtypeStruct], config: Any, mesh: Mesh
) -> Program:
    """The real train step of a run with `config` (as `train_settings`); all arrays are shapes."""
    optimizer = make_optimizer(config.optimizer, config.steps)
    still = frozen(config.optimizer.multipliers)
    with jax.set_mesh(mesh):
        state = abstract_state(task, params, optimizer, mesh, still)
        layout = jax.tree.map(lambda x: x.sharding, state)
        step = make_train_step(task, optimizer, layout, mesh, still, config.accumulate)
        return describe("train step", step, state, on_batch(batch, mesh))


def on_batch(batch: Any, mesh: Mesh) -> Any:
    """Shapes split over the batch axes of the mesh."""
    sharding = NamedSharding(mesh, BATCH)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), batch)


def describe(name: str, jitted: Callable[..., Any], *args: Any) -> Program:
    """Compiles a jitted function for shapes and reads off what the compiler found."""
    compiled = jitted.lower(*args).compile()  # type: ignore[attr-defined]
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    used = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    seconds = cost.get("optimal_seconds")
    return Program(
        name,
        used,
        cost.get("flops", 0.0),
        collectives(compiled.as_text()),
        seconds if seconds and seconds > 0 else None,
    )


def collectives(hlo: str) -> dict[str, tuple[int, int]]:
    """Collectives of a compiled program: kind -> (how many, bytes of their results).

    One inside a loop counts once.
    """
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for shapes, kind in _COLLECTIVE.findall(hlo):
        count[kind] += 1
        arrays = [array_bytes(*array) for array in _ARRAY.findall(shapes)]
        # What starts without waiting names its operand beside its result; a sum has many of both.
        size[kind] += max(arrays) if kind in _PAIRED else sum(arrays)
    return {kind: (count[kind], size[kind]) for kind in sorted(count)}


def array_bytes(dtype: str, shape: str) -> int:
    """Bytes of an HLO array such as ("bf16", "8,128")."""
    size = _BYTES.get(dtype, 4)
    for n in filter(None, shape.split(",")):
        size *= int(n)
    return size


def table(programs: list[Program], chip: str | None) -> str:
    """The programs as Markdown; with a chip of `CHIPS`, beside what it has."""
    memory, peak = CHIPS[chip] if chip else (None, None)
    room = f" of {memory / GIB:.0f}" if memory else ""
    lines = [
        f"| program | GiB a device{room} | TFLOP a device | collectives: count, MiB | time | MFU |",
        "| --- | ---: | ---: | --- | ---: | ---: |",
    ]
    for p in programs:
        moved = ", ".join(
            f"{kind} {count}×, {size / 2**20:.0f}" for kind, (count, size) in p.collectives.items()
        )
        time = f"{1000 * p.seconds:.1f} ms" if p.seconds else "none"
        share = p.mfu(peak) if peak else None
        mfu = f"{100 * share:.0f} %" if share else "none"
        cells = (
            p.name,
            f"{p.memory / GIB:.2f}",
            f"{p.flops / 1e12:.3f}",
            moved or "none",
            time,
            mfu,
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines.append(
        "\nFLOPs, collectives and time of a loop over layers or parts count one turn of it."
    )
    return "\n".join(lines)
