"""Programs compiled for machines that are not there: will they fit, and how fast could they be?

jax compiles for a TPU topology on any machine that has the `libtpu` package. The figures are the
compiler's; none was measured on a chip.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from blip_jax.train import hlo
from blip_jax.train.flops import matmul_flops
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


@dataclasses.dataclass(frozen=True)
class Program:
    """One program, per device; all but the FLOPs by the compiler."""

    name: str
    memory: int  # bytes: arguments, results that reuse none of them, and temporaries
    flops: float  # of matrix products, what is computed again included
    collectives: dict[str, tuple[int, int]]  # kind -> (how many, bytes of their results)
    seconds: float | None  # the compiler's own estimate, where it makes one
    compile_seconds: float

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
        return describe("train step", mesh, step, state, on_batch(batch, mesh))


def on_batch(batch: Any, mesh: Mesh) -> Any:
    """Shapes split over the batch axes of the mesh."""
    sharding = NamedSharding(mesh, BATCH)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), batch)


def describe(name: str, mesh: Mesh, jitted: Callable[..., Any], *args: Any) -> Program:
    """Traces and compiles a jitted function for shapes, and reads off what was found."""
    traced = jitted.trace(*args)  # type: ignore[attr-defined]
    lowered, started = traced.lower(), time.perf_counter()
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - started
    memory, text = compiled.memory_analysis(), compiled.as_text()
    used = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    once = compiled.cost_analysis().get("optimal_seconds", 0.0)  # with one turn of each loop
    factor = hlo.loop_factor(text)
    return Program(
        name,
        used,
        matmul_flops(traced.jaxpr.jaxpr) / mesh.size,
        hlo.collectives(text),
        once * factor if factor and once > 0 else None,
        compile_seconds,
    )


def table(programs: list[Program], chip: str | None) -> str:
    """The programs as Markdown; with a chip of `CHIPS`, beside what it has."""
    memory, peak = CHIPS[chip] if chip else (None, None)
    room = f" of {memory / GIB:.0f}" if memory else ""
    lines = [
        f"| program | GiB a device{room} | TFLOP a device | collectives: count, MiB | time | MFU | "
        "compiled in |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for p in programs:
        moved = ", ".join(
            f"{kind} {count}×, {size / 2**20:.0f}" for kind, (count, size) in p.collectives.items()
        )
        estimate = f"{1000 * p.seconds:.1f} ms" if p.seconds else "none"
        share = p.mfu(peak) if peak else None
        mfu = f"{100 * share:.0f} %" if share else "none"
        cells = (
            p.name,
            f"{p.memory / GIB:.2f}",
            f"{p.flops / 1e12:.3f}",
            moved or "none",
            estimate,
            mfu,
            f"{p.compile_seconds:.0f} s",
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("\nOf a caption's tokens, whose number is not known before, one is counted.")
    return "\n".join(lines)
