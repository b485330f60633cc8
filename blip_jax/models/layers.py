"""The layers both towers are made of: attention on 2-D kernels, the MLP, normalisation."""

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
from blip_jax.models.products import contract, product, product_by_rows

Params = dict[str, Any]

INITIAL_STD = 0.02
normal = nn.initializers.normal(INITIAL_STD)

KEPT = "product"  # the name of what `remat="dots"` does not compute again

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


def by_parts(function: Callable[..., jax.Array], bytes_each: int, *arrays: jax.Array) -> jax.Array:
    """A function of rows, on a processor over a few rows after the others.

    What the caches hold between two matrix products need not go through memory. Accelerators take
    all rows at once, and so do the meshes of runs, which may have the rows on several devices.

    Args:
      function: arrays [N, ...] -> array [N, ...], each row by itself.
      bytes_each: of the widest value it computes of a row; `CACHED` of them go together. The
        backward pass computes such values again.
      arrays: [N, ...] each.
    """
    rows = len(arrays[0])
    fit = max(CACHED // bytes_each, 1)
    parts = next((n for n in range(1, rows) if rows % n == 0 and rows // n <= fit), rows)
    if parts <= 1 or on_several_devices():
        return function(*arrays)
    again = jax.checkpoint(function, prevent_cse=False)

    def few(*arrays: jax.Array) -> jax.Array:
        split = tuple(x.reshape(parts, -1, *x.shape[1:]) for x in arrays)
        y = jax.lax.map(lambda part: again(*part), split)
        return y.reshape(rows, *y.shape[2:])

    return jax.lax.platform_dependent(*arrays, cpu=few, default=function)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    drop: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Scaled dot-product attention, softmax in float32.

    Args:
      query: [B, H, T, D].
      key, value: [B, H, S, D].
      mask: bool, broadcastable to [B, H, T, S]; True where attention is allowed.
      drop: applied to the probabilities (attention dropout).

    Returns:
      [B, H, T, D] in the dtype of `value`.
    """

    def at_once(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        """Over [..., T, D]: all scores [..., T, S], then all probabilities."""
        scores = contract("...td,...sd->...ts", query, key).astype(jnp.float32)
        scores = scores * (query.shape[-1] ** -0.5)
        if mask is not None:
            scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
        probs = jax.nn.softmax(scores, axis=-1)
        probs = (probs if drop is None else drop(probs)).astype(value.dtype)
        return contract("...ts,...sd->...td", probs, value)

    if mask is not None or drop is not None or on_several_devices():
        return at_once(query, key, value)
    heads = (x.reshape(-1, *x.shape[2:]) for x in (query, key, value))
    scores = query.shape[2] * key.shape[2] * 4
    return by_parts(at_once, scores, *heads).reshape(query.shape)


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """[..., T, H*D] -> [..., H, T, D]."""
    return jnp.moveaxis(x.reshape(*x.shape[:-1], heads, -1), -2, -3)


def merge_heads(x: jax.Array) -> jax.Array:
    """[..., H, T, D] -> [..., T, H*D]."""
    x = jnp.moveaxis(x, -3, -2)
    return x.reshape(*x.shape[:-2], -1)


class Attention(nn.Module):
    """Multi-head attention on 2-D kernels, and the `norm` of its residual branch.

    The caller applies `norm`: before (ViT) or after (MED) the attention.
    """

    width: int  # of queries and of the output
    heads: int
    norm_eps: float
    dtype: Dtype
    dropout: float = 0.0  # on the probabilities
    by_rows: bool = False  # kernels are [out, in]

    def setup(self) -> None:
        make = functools.partial(dense, self.width, self.dtype, by_rows=self.by_rows)
        self.query, self.key, self.value, self.out = make(), make(), make(), make()
        self.norm = Norm(self.norm_eps, self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def split(self, x: jax.Array) -> jax.Array:
        """[..., T, H*D] -> [..., H, T, D]."""
        return split_heads(x, self.heads)

    def keys_values(self, source: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Projects a source [B, S, W] to keys and values [B, H, S, D]."""
        return self.split(self.key(source)), self.split(self.value(source))

    def __call__(
        self,
        x: jax.Array,
        keys_values: tuple[jax.Array, jax.Array],
        mask: jax.Array | None,
        deterministic: bool,
    ) -> jax.Array:
        drops = self.dropout > 0 and not deterministic
        drop = functools.partial(self.drop, deterministic=False) if drops else None
        y = attend(self.split(self.query(x)), *keys_values, mask, drop)
        return self.out(on_mesh(merge_heads(y), "tensor"))


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
        hidden = on_mesh(self.up(x), "tensor")
        return self.down(gelu(hidden))


def stacked(block: type[nn.Module], remat: Remat, unroll: int, **scan: Any) -> type[nn.Module]:
    """Scans `block` over a leading layer axis of its parameters, rematerialised as asked.

    "dots" keeps what `dense` gives, by its name: `product` hides its matrix product from jax's
    own policies for them.
    """
    if remat != "none":
        policy = {"full": None, "dots": jax.checkpoint_policies.save_only_these_names(KEPT)}
        block = nn.remat(block, prevent_cse=False, policy=policy[remat])
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        unroll=unroll,
        **scan,
    )
