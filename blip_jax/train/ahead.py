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
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from blip_jax.train import hlo
from blip_jax.train.flops import matmul_bytes, matmul_flops
from blip_jax.train.mesh import BATCH
from blip_jax.train.optimizer import frozen, make_optimizer
from blip_jax.train.state import Task, abstract_state, make_train_step

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device of a topology, by Google's pages on each version; a TPU7x chip is two."""

    memory: int  # bytes
    peak: float  # bfloat16 FLOP/s
    bandwidth: float  # of its memory, bytes/s
    cycle: float  # FLOPs a cycle: the matrix units' multiplications and additions

    def seconds(self, cycles: int) -> float:
        """At the clock that the peak implies."""
        return cycles * self.cycle / self.peak


CHIPS = {  # by name in a topology
    "v4": Chip(32 * GIB, 275e12, 1.2e12, 2 * 8 * 128**2),
    "v5e": Chip(16 * GIB, 197e12, 819e9, 2 * 4 * 128**2),
    "v5p": Chip(95 * GIB, 459e12, 2765e9, 2 * 8 * 128**2),
    "v6e": Chip(32 * GIB, 918e12, 1638e9, 2 * 4 * 256**2),
    "tpu7x": Chip(96 * GIB, 1153e12, 3690e9, 2 * 4 * 256**2),
}


@dataclasses.dataclass(frozen=True)
class Program:
    """One program, per device; all but the FLOPs by the compiler."""

    name: str
    memory: int  # bytes: arguments, results that reuse none of them, and temporaries
    flops: float  # of matrix products, what is computed again included
    moved: float  # bytes that those read and write
    collectives: dict[str, tuple[int, int]]  # kind -> (how many, bytes of their results)
    cycles: int  # that the compiler expects of its instructions in a row; 0 where it does not say
    compile_seconds: float


def topology_devices(name: str, slices: int = 1) -> list[Any]:
    """Devices of a topology such as "v5e:16x16", to compile for.

    Raises:
      ValueError: libtpu is not installed, or knows no such topology.
    """
    chip_of(name)  # libtpu's own error for an unknown one says little
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, num_slices=slices)
    except Exception as error:  # the plugin raises what it likes
        raise ValueError(
            f"cannot compile for {name!r} (is the package libtpu installed?): {error}"
        ) from error
    return list(found.devices)


def chip_of(topology: str) -> Chip:
    """That of a topology such as "v5e:16x16"; ValueError where none is known by the name."""
    chip = CHIPS.get(topology.partition(":")[0].lower())
    if chip is None:
        raise ValueError(
            f"topology {topology!r}: expected VERSION:SHAPE with one of {', '.join(CHIPS)}"
        )
    return chip


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
        return describe("train step", mesh, step, state, lying(batch, mesh, BATCH))


def lying(tree: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
    """Shapes that all lie on the mesh as `spec` says."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def describe(
    name: str, mesh: Mesh, jitted: Callable[..., Any], *args: Any, turns: int = 1
) -> Program:
    """Traces and compiles a jitted function for shapes, and reads off what was found.

    `turns` is how often the body of a `while` is run at most.
    """
    traced = jitted.trace(*args)  # type: ignore[attr-defined]
    jaxpr = traced.jaxpr.jaxpr
    lowered, started = traced.lower(), time.perf_counter()
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - started
    memory, text = compiled.memory_analysis(), compiled.as_text()
    platform = mesh.devices.flat[0].platform
    used = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    return Program(
        name,
        used,
        matmul_flops(jaxpr, platform, turns) / mesh.size,
        matmul_bytes(jaxpr, platform, turns) / mesh.size,
        hlo.collectives(text),
        hlo.cycles(text),
        compile_seconds,
    )


def table(programs: list[Program], chip: Chip | None) -> str:
    """The programs as Markdown; with a chip, beside what it has."""
    room = f" of {chip.memory / GIB:.0f}" if chip else ""
    columns = (
        "program",
        f"GiB a device{room}",
        "TFLOP a device",
        "collectives: count, MiB",
        "time",
        "MFU",
        "compiled in",
    )
    rows = [columns, ("---", "---:", "---:", "---", "---:", "---:", "---:")]
    rows += [cells(program, chip) for program in programs]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def cells(program: Program, chip: Chip | None) -> tuple[str, ...]:
    """A row of the table."""
    moved = ", ".join(
        f"{kind} {count}×, {size / 2**20:.0f}"
        for kind, (count, size) in program.collectives.items()
    )
    seconds = chip.seconds(program.cycles) if chip else 0
    share = program.flops / (seconds * chip.peak) if chip and seconds else 0
    return (
        program.name,
        f"{program.memory / GIB:.2f}",
        f"{program.flops / 1e12:.3f}",
        moved or "none",
        f"{1000 * seconds:.1f} ms" if seconds else "none",
        f"{100 * share:.0f} %" if share else "none",
        f"{program.compile_seconds:.0f} s",
    )
