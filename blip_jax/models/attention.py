"""Multi-head attention on 2-D kernels."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from blip_jax.config import Dtype
from blip_jax.models.absorbed import Absorbed, pays
from blip_jax.models.layers import KEPT, Norm, by_parts, dense
from blip_jax.models.placement import on_mesh, on_several_devices
from blip_jax.models.products import contract, product_by_rows

KeysValues = tuple[jax.Array, jax.Array]  # [B, H, S, D] each
Seen = KeysValues | Absorbed  # what a source is to an attention


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

    def keys_values(self, source: jax.Array) -> KeysValues:
        """Projects a source [B, S, W] to keys and values [B, H, S, D]."""
        return self.split(self.key(source)), self.split(self.value(source))

    def read(self, source: jax.Array, queries: int) -> Seen:
        """A source [B, S, W] that so many queries ask in turn, in the form that is less work."""
        absorbed = pays(queries, source.shape[1], self.width // self.heads)
        if self.is_initializing() or not absorbed:
            return self.keys_values(source)
        bias = self.value.variables["params"]["bias"].astype(self.dtype)
        return Absorbed(
            source.astype(self.dtype),
            self.head_kernels(self.key),
            self.head_kernels(self.value),
            bias.reshape(self.heads, 1, -1),
        )

    def head_kernels(self, layer: nn.Module) -> jax.Array:
        """The kernel of the keys or values as [H, D, W]."""
        kernel = layer.variables["params"]["kernel"].astype(self.dtype)
        kernel = kernel if self.by_rows else kernel.T
        return kernel.reshape(self.heads, -1, kernel.shape[-1])

    def __call__(
        self, x: jax.Array, source: jax.Array | Seen, mask: jax.Array | None, deterministic: bool
    ) -> jax.Array:
        """x [B, T, W] asks a source [B, S, W'], or what `read` made of it, -> [B, T, W]."""
        return self.answer(self.ask(x), source, mask, deterministic)

    def ask(self, x: jax.Array) -> jax.Array:
        """x [B, T, W] -> queries [B, H, T, D]."""
        return self.split(self.query(x))

    def answer(
        self,
        query: jax.Array,
        source: jax.Array | Seen,
        mask: jax.Array | None,
        deterministic: bool,
    ) -> jax.Array:
        """Of queries [B, H, T, D] what `__call__` gives of the x that they are of."""
        drop = None
        if self.dropout > 0 and not deterministic:
            rng = self.make_rng("dropout")
            drop = functools.partial(self.drop, deterministic=False, rng=rng)
        if isinstance(source, jax.Array):
            y = attend_once(query, self.read(source, query.shape[2]), mask, drop)
        elif isinstance(source, Absorbed):
            y = source.attend(query, mask, drop)
        else:
            y = attend(query, *source, mask, drop)
        y = checkpoint_name(merge_heads(y), KEPT)
        return self.out(on_mesh(y, "tensor"))


def attend_once(
    query: jax.Array,
    seen: Seen,
    mask: jax.Array | None,
    drop: Callable[[jax.Array], jax.Array] | None,
) -> jax.Array:
    """As `attend`, to a source that no one asks again.

    There fewer operations are less time on a processor alone: by the compilers of TPUs it takes
    longer to go through a kernel a head at a time.
    """
    if not isinstance(seen, Absorbed):
        return attend(query, *seen, mask, drop)

    def through(query: jax.Array, seen: Absorbed) -> jax.Array:
        return seen.attend(query, mask, drop)

    def projected(query: jax.Array, seen: Absorbed) -> jax.Array:
        def project(kernel: jax.Array) -> jax.Array:
            y = product_by_rows(seen.source, kernel.reshape(-1, kernel.shape[-1]))
            y = checkpoint_name(y, KEPT)
            return split_heads(y, len(kernel))

        key, value = project(seen.key), project(seen.value) + seen.bias[None]
        return attend(query, key, value, mask, drop)

    return jax.lax.platform_dependent(query, seen, cpu=through, default=projected)
