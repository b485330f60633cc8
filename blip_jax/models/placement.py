"""How activations lie on the mesh of a run."""

import math

import jax
from jax.sharding import PartitionSpec as P

# Mesh axes that split a batch; the fourth, "tensor", splits heads, MLPs and the vocabulary.
BATCH_AXES = ("slice", "data", "fsdp")


def on_mesh(x: jax.Array, last: str | None = None) -> jax.Array:
    """Says how an activation [B, ...] lies on the mesh: rows over the batch axes, the last
    dimension over `last`.

    Left alone, the compiler may follow the parameters instead, and gather activations where it
    should gather weights. Does nothing without a mesh, or for a size it does not divide.
    """
    sizes = mesh_sizes()
    if not sizes:
        return x
    ways = math.prod(sizes[axis] for axis in BATCH_AXES)
    rows = BATCH_AXES if x.shape[0] % ways == 0 else None
    last = last if last and x.shape[-1] % sizes[last] == 0 else None
    spec = P(rows, *(None,) * (x.ndim - 2), last)
    return jax.lax.with_sharding_constraint(x, spec)


def looked_up(table: jax.Array) -> jax.Array:
    """Says that a table [V, W] is whole along W where rows of it are looked up.

    What is looked up would else be split along W, like the table, and have to be gathered whole
    before its rows could be split. Does nothing without a mesh.
    """
    sizes = mesh_sizes()
    if not sizes:
        return table
    rows = "tensor" if table.shape[0] % sizes["tensor"] == 0 else None
    return jax.lax.with_sharding_constraint(table, P(rows, None))


def mesh_sizes() -> dict[str, int]:
    """Devices along each axis of the mesh of a run; empty without one."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not {*BATCH_AXES, "tensor"} <= set(mesh.shape):
        return {}
    return dict(mesh.shape)


def on_several_devices() -> bool:
    """Whether the mesh of a run has more than one."""
    return math.prod(mesh_sizes().values()) > 1
