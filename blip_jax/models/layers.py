"""What both towers are made of beside attention: maps on 2-D kernels, the MLP, normalisation."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from blip_jax.config import Dtype, Remat
from blip_jax.models.gradients import gelu, normalised
from blip_jax.models.placement import on_mesh, on_several_devices
from blip_jax.models.products import product, product_by_rows

Params = dict[str, Any]

INITIAL_STD = 0.02
normal = nn.initializers.normal(INITIAL_STD)

KEPT = "product"  # the name of what `remat="dots"` does not compute again

# What such a function, or one of a module, computes on its way, a gradient computes again.
again = functools.partial(jax.checkpoint, prevent_cse=False)
module_again = functools.partial(nn.remat, prevent_cse=False)

CACHED = 2**23  # bytes that a processor's caches can be trusted to hold


def dense(
    features: int, dtype: Dtype, name: str | None = None, by_rows: bool = False
) -> "nn.Dense | DenseByRows":
    """A linear map, its new parameters float32, computed in `dtype`; or `DenseByRows`."""
    if by_rows:
        return DenseByRows(features, dtype, name=name)

    def contracted(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
        return checkpoint_name(product(x, kernel), KEPT)

    kind = jnp.dtype(dtype)
    return nn.Dense(features, dtype=kind, kernel_init=normal, dot_general=contracted, name=name)


class DenseByRows(nn.Module):
    """The same map by a kernel [features, K], as `product_by_rows` reads it."""

    features: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", normal, (self.features, x.shape[-1]))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = product_by_rows(x.astype(self.dtype), kernel.astype(self.dtype))
        return y + bias.astype(self.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


class Norm(nn.Module):
    """LayerNorm whose statistics are float32 whatever comes in; the result has `dtype`."""

    eps: float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        x = normalised(x.astype(jnp.float32), scale, bias, self.eps)
        return x.astype(self.dtype)


def by_parts(function: Callable[..., Any], bytes_each: int, *arrays: jax.Array) -> Any:
    """A function of rows, on a processor over a few rows after the others.

    What the caches hold between two matrix products need not go through memory. Accelerators take
    all rows at once, and so do the meshes of runs, which may have the rows on several devices.

    Args:
      function: arrays [N, ...] -> one or several [N, ...], each row by itself.
      bytes_each: of the widest value it computes of a row; `CACHED` of them go together. The
        backward pass computes such values again.
      arrays: [N, ...] each.
    """
    rows = len(arrays[0])
    fit = max(CACHED // bytes_each, 1)
    parts = next((n for n in range(1, rows) if rows % n == 0 and rows // n <= fit), rows)
    if parts <= 1 or on_several_devices():
        return function(*arrays)
    each = again(function)

    def few(*arrays: jax.Array) -> Any:
        split = tuple(x.reshape(parts, -1, *x.shape[1:]) for x in arrays)
        found = jax.lax.map(lambda part: each(*part), split)
        return jax.tree.map(lambda y: y.reshape(rows, *y.shape[2:]), found)

    return jax.lax.platform_dependent(*arrays, cpu=few, default=function)


class Mlp(nn.Module):
    """Two linear maps with an exact (erf) GELU between, and the `norm` of the branch."""

    width: int
    hidden: int
    norm_eps: float
    dtype: Dtype
    by_rows: bool = False  # kernels are [out, in]

    def setup(self) -> None:
        self.up = dense(self.hidden, self.dtype, by_rows=self.by_rows)
        self.down = dense(self.width, self.dtype, by_rows=self.by_rows)
        self.norm = Norm(self.norm_eps, self.dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.narrow(self.widen(x))

    def widen(self, x: jax.Array) -> jax.Array:
        """x [..., width] -> what GELU takes, [..., hidden]."""
        return on_mesh(self.up(x), "tensor")

    def narrow(self, hidden: jax.Array) -> jax.Array:
        """[..., hidden] -> [..., width]."""

        def go_on(mlp: Any, hidden: jax.Array) -> jax.Array:
            return mlp.down(gelu(hidden))

        # A block's widest values: of them, those before GELU alone are kept for the gradient.
        y: jax.Array = module_again(go_on)(self, hidden)
        return y


def stacked(block: type[nn.Module], remat: Remat, unroll: int, **scan: Any) -> type[nn.Module]:
    """Scans `block` over a leading layer axis of its parameters, rematerialised as asked.

    "dots" keeps what `dense` gives, by its name: `product` hides its matrix product from jax's
    own policies for them.
    """
    if remat != "none":
        policy = {"full": None, "dots": jax.checkpoint_policies.save_only_these_names(KEPT)}
        block = module_again(block, policy=policy[remat])
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        unroll=unroll,
        **scan,
    )
