"""Attention to a source whose keys and values are never made.

Where few queries ask a source, most of the work would be to project all of it to keys and values.
A query can take the key kernel upon itself instead, and what it finds can go through the value
kernel afterwards: the same sums in another order ("absorbed" in DeepSeek-V2, arXiv 2405.04434,
section 2.1.2).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from blip_jax.models.layers import again, by_parts
from blip_jax.models.placement import on_several_devices
from blip_jax.models.products import contract, contract_by_rows


def pays(queries: int, tokens: int, head_width: int) -> bool:
    """Whether that is less work, for so many queries to a source of so many tokens.

    Per head and width of the source each query takes 4 (head_width + tokens) FLOPs more, and the
    4 head_width tokens of projecting the source are saved.
    """
    return queries * (head_width + tokens) < head_width * tokens


@struct.dataclass
class Absorbed:
    """A source, and the kernels that queries and what they find go through.

    Attributes:
      source: [B, S, W].
      key, value: kernels [H, D, W].
      bias: of the values, [H, 1, D]. That of the keys would move all scores of a query alike.
    """

    source: jax.Array
    key: jax.Array
    value: jax.Array
    bias: jax.Array

    def attend(
        self,
        query: jax.Array,
        mask: jax.Array | None,
        drop: Callable[[jax.Array], jax.Array] | None = None,
    ) -> jax.Array:
        """As `attention.attend` with keys and values of the source: query [B, H, T, D], a mask
        bool [B, 1, 1, S] -> [B, H, T, D]."""
        heads, length, width = query.shape[1:]

        # What is as wide as the source for every query and head, a gradient does not keep.
        @again
        def score(query: jax.Array, source: jax.Array) -> jax.Array:
            """-> [B, H * T, S]."""
            asked = contract("...td,...dw->...tw", _heads_first(query), self.key)
            asked = _rows_first(asked, len(query)).reshape(len(query), heads * length, -1)
            return contract_by_rows(asked, source)

        @again
        def find(probs: jax.Array, source: jax.Array) -> jax.Array:
            """[B, H * T, S] -> [B, H, T, D]."""
            found = contract("...ts,...sw->...tw", probs, source)
            found, share = (
                _heads_first(x.reshape(len(x), heads, length, -1))
                for x in (found, probs.sum(-1, keepdims=True))
            )
            y = contract_by_rows(found, self.value) + share * self.bias
            return _rows_first(y, len(probs))

        def at_once(query: jax.Array, source: jax.Array) -> jax.Array:
            scores = score(query, source).astype(jnp.float32) * width**-0.5
            if mask is not None:
                scores = jnp.where(mask[:, 0], scores, jnp.finfo(jnp.float32).min)
            probs = jax.nn.softmax(scores, axis=-1)
            return find((probs if drop is None else drop(probs)).astype(source.dtype), source)

        if mask is not None or drop is not None or on_several_devices():
            return at_once(query, self.source)
        scores = heads * length * self.source.shape[1] * 4
        y: jax.Array = by_parts(at_once, scores, query, self.source)
        return y


def _heads_first(x: jax.Array) -> jax.Array:
    """[B, H, T, D] -> [H, B * T, D]."""
    x = jnp.moveaxis(x, 1, 0)
    return x.reshape(len(x), -1, x.shape[-1])


def _rows_first(x: jax.Array, rows: int) -> jax.Array:
    """[H, B * T, D] -> [B, H, T, D]."""
    return jnp.moveaxis(x.reshape(len(x), rows, -1, x.shape[-1]), 0, 1)
