"""The device mesh, and the one table that says how parameters lie on it."""

import math
import re
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from blip_jax.models.placement import BATCH_AXES

AXES = ("slice", "data", "fsdp", "tensor")  # from the slowest network to the fastest
BATCH = P(BATCH_AXES)

# Last dimensions of a parameter -> mesh axes, by the first pattern found in its path. The leading
# layer axis of stacked blocks is never split, and a dimension that an axis does not divide stays
# whole. Optimizer moments and teacher carry the same paths, so they lie like their parameters.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"embeddings/word$", ("tensor", "fsdp")),
    (r"(query|key|value|up)/kernel$", ("fsdp", "tensor")),
    (r"(out|down)/kernel$", ("tensor", "fsdp")),
    (r"(transform|_proj|patch)/kernel$", (None, "fsdp")),
    (r"queue/(image|text)$", ("fsdp", None)),
)


def make_mesh(shape: dict[str, int], devices: list[Any] | None = None) -> Mesh:
    """A mesh over all devices; an axis of -1 takes what the others leave.

    `slice` counts groups of devices that only a slower network joins: they share the batch, and
    each holds all parameters. It is found out where it is 1.

    Raises:
      ValueError: the axes do not multiply to the number of devices, `slice` is not the number of
        slices the devices say they are in, or "tensor" reaches beyond a process.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [shape.get(axis, 1) for axis in AXES]
    if any(size < 1 and size != -1 for size in sizes):
        raise ValueError(f"config.mesh {dict(shape)}: every axis is at least 1, or -1")
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    sizes[0] = slices if sizes[0] == 1 else sizes[0]
    rest = math.prod(size for size in sizes if size != -1)
    sizes = [len(devices) // rest if size == -1 else size for size in sizes]
    if math.prod(sizes) != len(devices):
        wanted = ", ".join(f"{a}={s}" for a, s in zip(AXES, sizes, strict=True))
        raise ValueError(f"config.mesh ({wanted}) does not multiply to {len(devices)} devices")
    if slices > 1 and sizes[0] != slices:
        raise ValueError(f"config.mesh.slice is {sizes[0]}, but the devices are in {slices} slices")
    if slices > 1:
        grid = mesh_utils.create_hybrid_device_mesh(
            (1, *sizes[1:]), (slices, 1, 1, 1), devices=devices
        )
    else:
        grid = mesh_utils.create_device_mesh(sizes, devices=devices)
    mesh = Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    if {d.process_index for d in devices} == set(range(jax.process_count())):
        local = mesh.local_mesh.shape["tensor"]
        if local != mesh.shape["tensor"]:  # processes would hold different rows of one batch
            raise ValueError(
                f"config.mesh.tensor is {mesh.shape['tensor']}, but a process has {local} of those "
                "devices; use fsdp across processes"
            )
    return mesh


def path_name(path: tuple[Any, ...]) -> str:
    """A tree path as `vision/blocks/attention/query/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def partition(name: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The PartitionSpec of a parameter by `RULES`."""
    for pattern, axes in RULES:
        if re.search(pattern, name) and len(shape) >= len(axes):
            lead = len(shape) - len(axes)
            fit = (
                a if a and n % mesh.shape[a] == 0 else None
                for a, n in zip(axes, shape[lead:], strict=True)
            )
            return P(*(None,) * lead, *fit)
    return P()


def shardings(tree: Any, mesh: Mesh) -> Any:
    """NamedShardings for a tree of arrays or shapes."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: NamedSharding(mesh, partition(path_name(path), x.shape, mesh)), tree
    )


def laid_out(tree: Any, mesh: Mesh) -> Any:
    """Arrays or shapes -> shapes with the shardings of `shardings`."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        tree,
        shardings(tree, mesh),
    )


def put_batch(batch: dict[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's share of a batch -> global arrays, split over the batch axes."""
    sharding = NamedSharding(mesh, BATCH)
    return {
        k: jax.make_array_from_process_local_data(
            sharding, v, (len(v) * jax.process_count(), *v.shape[1:])
        )
        for k, v in batch.items()
    }
