"""The layers both towers are made of: attention on 2-D kernels, the MLP, normalisation."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from blip_jax.config import Dtype, Remat

Params = dict[str, Any]

INITIAL_STD = 0.02
normal = nn.initializers.normal(INITIAL_STD)

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


def dense(features: int, dtype: Dtype, name: str | None = None) -> nn.Dense:
    """A linear map with float32 parameters, computed in `dtype`."""
    return nn.Dense(features, dtype=jnp.dtype(dtype), kernel_init=normal, name=name)


class Norm(nn.Module):
    """LayerNorm whose statistics are float32 whatever comes in; the result has `dtype`."""

    eps: float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        x = x.astype(jnp.float32)
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.eps)
        shape = (1,) * (x.ndim - 1) + (-1,)
        return (x * scale.reshape(shape) + bias.reshape(shape)).astype(self.dtype)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    drop: Callable[[jax.Array], jax.Array] = lambda p: p,
) -> jax.Array:
    """Scaled dot-product attention, softmax in float32.

    Args:
      query: [B, T, H, D].
      key, value: [B, S, H, D].
      mask: bool, broadcastable to [B, H, T, S]; True where attention is allowed.
      drop: applied to the probabilities (attention dropout).

    Returns:
      [B, T, H, D] in the dtype of `value`.
    """
    scores = jnp.einsum("bthd,bshd->bhts", query, key).astype(jnp.float32)
    scores = scores * (query.shape[-1] ** -0.5)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    probs = drop(jax.nn.softmax(scores, axis=-1)).astype(value.dtype)
    return jnp.einsum("bhts,bshd->bthd", probs, value)


class Attention(nn.Module):
    """Multi-head attention on 2-D kernels, and the `norm` of its residual branch.

    The caller applies `norm`: before (ViT) or after (MED) the attention.
    """

    width: int  # of queries and of the output
    heads: int
    norm_eps: float
    dtype: Dtype
    dropout: float = 0.0  # on the probabilities

    def setup(self) -> None:
        self.query = dense(self.width, self.dtype)
        self.key = dense(self.width, self.dtype)
        self.value = dense(self.width, self.dtype)
        self.out = dense(self.width, self.dtype)
        self.norm = Norm(self.norm_eps, self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def split(self, x: jax.Array) -> jax.Array:
        """[..., T, H*D] -> [..., T, H, D]."""
        return x.reshape(*x.shape[:-1], self.heads, -1)

    def keys_values(self, source: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Projects a source [B, S, W] to keys and values [B, S, H, D]."""
        return self.split(self.key(source)), self.split(self.value(source))

    def __call__(
        self,
        x: jax.Array,
        keys_values: tuple[jax.Array, jax.Array],
        mask: jax.Array | None,
        deterministic: bool,
    ) -> jax.Array:
        drop = functools.partial(self.drop, deterministic=deterministic)
        y = attend(self.split(self.query(x)), *keys_values, mask, drop)
        return self.out(on_mesh(y.reshape(x.shape), "tensor"))


class Mlp(nn.Module):
    """Two linear maps with an exact (erf) GELU between, and the `norm` of the branch."""

    width: int
    hidden: int
    norm_eps: float
    dtype: Dtype

    def setup(self) -> None:
        self.up = dense(self.hidden, self.dtype)
        self.down = dense(self.width, self.dtype)
        self.norm = Norm(self.norm_eps, self.dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = on_mesh(self.up(x), "tensor")
        return self.down(nn.gelu(hidden, approximate=False))


def stacked(block: type[nn.Module], remat: Remat, unroll: int, **scan: Any) -> type[nn.Module]:
    """Scans `block` over a leading layer axis of its parameters, rematerialised as asked."""
    if remat != "none":
        policy = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}
        block = nn.remat(block, prevent_cse=False, policy=policy[remat])
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        unroll=unroll,
        **scan,
    )
