"""Parameters with the config and tokenizer they belong to."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Self

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from blip_jax.config import BlipConfig
from blip_jax.models.blip import Blip, Params
from blip_jax.tokenizer import Tokenizer

ROWS = "rows"  # the mesh axis that splits a batch


@dataclasses.dataclass(frozen=True)
class Trained:
    """What every function of this package takes; `blip_jax.model.Model` is one with methods."""

    params: Params
    config: BlipConfig
    tokenizer: Tokenizer
    inference_only: bool = False  # the parameters are those of `for_inference`

    @property
    def blip(self) -> Blip:
        """The pure functions, for anyone who wants them."""
        return Blip(self.config)

    @functools.cached_property
    def on_device(self) -> Params:
        """The parameters where programs run and as they take them (`Blip.working`), made once and
        not at every call; those of `params` stay beside them."""
        return self.blip.working(jax.device_put(self.params))

    def for_inference(self) -> Self:
        """The same model with its parameters as programs take them and in no other form.

        Once the model that it is made of is dropped, a captioner's decoder is there once and
        kernels are in the config's dtype alone, which then is fixed. It cannot be saved.
        """
        return dataclasses.replace(self, params=self.on_device, inference_only=True)

    def on_every_device(self) -> Self:
        """The same model, `for_inference`, on every device of this process.

        Embedding, matching, captions, answers, statements and classes then share their batches
        out. Of devices that are no power of two, the largest power of two among them is used.
        """
        devices = jax.local_devices()
        count = 1 << (len(devices).bit_length() - 1)
        if count == 1:
            return self.for_inference()
        mesh = jax.make_mesh((count,), (ROWS,), (AxisType.Auto,), devices=devices[:count])
        everywhere = jax.device_put(self.params, NamedSharding(mesh, P()))
        return dataclasses.replace(self, params=everywhere).for_inference()

    @functools.cached_property
    def mesh(self) -> Mesh | None:
        """What `on_every_device` made; None on one device."""
        sharding = getattr(jax.tree.leaves(self.params)[0], "sharding", None)
        mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
        return mesh if isinstance(mesh, Mesh) and mesh.axis_names == (ROWS,) else None

    @property
    def device_count(self) -> int:
        """Devices that share a batch."""
        return 1 if self.mesh is None else self.mesh.size

    def rows(self, batch_size: int) -> int:
        """Rows of a batch that the devices share evenly: `batch_size`, or a few more."""
        return -(-batch_size // self.device_count) * self.device_count

    def place(self, batch: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
        """A batch as programs take it: split over the devices that share it, if any do.

        One that does not divide is copied to all of them.
        """
        if self.mesh is None:
            return batch
        spec = P(ROWS) if len(batch) % self.mesh.size == 0 else P()
        return jax.device_put(batch, NamedSharding(self.mesh, spec))

    def share(
        self, *batch: np.ndarray | jax.Array
    ) -> tuple[Mesh | None, list[np.ndarray | jax.Array]]:
        """The mesh that `spread` shares a batch out on, and its arrays, placed there.

        Where not all arrays divide, as the one image of many questions does not, every device
        has all of them and the mesh is None.
        """
        if self.mesh is None:
            return None, list(batch)
        divide = all(len(x) % self.mesh.size == 0 for x in batch)
        layout = NamedSharding(self.mesh, P(ROWS) if divide else P())
        return (self.mesh if divide else None), [jax.device_put(x, layout) for x in batch]

    def texts(self, ids: np.ndarray) -> list[list[str]]:
        """Token ids [B, K, T] -> K texts a row."""
        return [self.tokenizer.decode(row) for row in ids]


def spread(function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """A function (params, *arrays of rows) -> arrays of rows, each device with rows of its own.

    `params` may be any tree; all devices get all of it.
    """
    if mesh is None:
        return function

    @jax.jit
    def shared(params: Any, *arrays: jax.Array) -> Any:
        specs = (P(), *(P(ROWS),) * len(arrays))
        # Unchecked: what goes round in a decoder's loop begins the same on all devices and does
        # not stay so, which the check refuses.
        each = jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=P(ROWS), check_vma=False
        )
        return each(params, *arrays)

    return shared


@functools.lru_cache(maxsize=32)
def program(
    function: Callable[..., Any], blip: Blip, mesh: Mesh | None, **options: Any
) -> Callable[..., Any]:
    """A function (blip, params, *arrays of rows, **options), jitted and `spread` over a mesh."""
    return jax.jit(spread(functools.partial(function, blip, **options), mesh))
