"""NLVR2: a text encoder that reads two images (the original's `models/nlvr_encoder.py`).

Each block has two cross-attentions, one an image, and one residual norm. The first six blocks
take the mean of what both say; the others put it through a linear map, their `merge`::

    cross_attention/left/, right/    query, key, value, out, stacked over all layers
    cross_attention/norm/            the same
    cross_attention/merge/           stacked over the layers from `FIRST_MERGE` on
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from blip_jax.config import BlipConfig, Dtype
from blip_jax.models.attention import Attention
from blip_jax.models.layers import Norm, Params, dense, stacked
from blip_jax.models.med import TextBlock, TextEmbeddings

FIRST_MERGE = 6  # layer, whatever the depth; models of six layers or fewer only average
Images = tuple[jax.Array, jax.Array]  # tokens of the left and of the right ones


class TwinAttention(nn.Module):
    """Cross-attention to two images, and the `norm` of its residual branch."""

    width: int
    heads: int
    norm_eps: float
    dtype: Dtype
    dropout: float
    merges: bool  # a learnt mixture of both instead of their mean

    def setup(self) -> None:
        heads = (self.width, self.heads, self.norm_eps, self.dtype, self.dropout)
        self.left = Attention(*heads)
        self.right = Attention(*heads)
        self.norm = Norm(self.norm_eps, self.dtype)
        if self.merges:
            self.merge = dense(self.width, self.dtype)

    def __call__(self, x: jax.Array, images: Images, deterministic: bool) -> jax.Array:
        left, right = (
            attention(x, image, None, deterministic)
            for attention, image in zip((self.left, self.right), images, strict=True)
        )
        return self.merge(jnp.concatenate([left, right], -1)) if self.merges else (left + right) / 2


class NlvrBlock(TextBlock):
    """MED's block with a `TwinAttention`."""

    merges: bool = False

    def make_cross_attention(self, *heads: Any) -> TwinAttention:
        return TwinAttention(*heads, merges=self.merges)

    def __call__(  # type: ignore[override]
        self, x: jax.Array, images: Images, mask: jax.Array
    ) -> tuple[jax.Array, None]:
        x, _ = self.self_attend(x, mask)
        h = self.cross_attention(x, images, self.deterministic)
        x = self.add(self.cross_attention, x, h)
        return self.add(self.mlp, x, self.mlp(x)), None


def blocks(config: BlipConfig, length: int, merges: bool, deterministic: bool) -> Any:
    """`length` blocks of one kind, scanned."""
    scan: Any = {"length": length, "in_axes": (nn.broadcast, nn.broadcast)}
    kind = stacked(NlvrBlock, config.text.remat, config.unroll, **scan)
    return kind(config.text, config.dtype, deterministic, merges=merges)


def encode(
    config: BlipConfig,
    text: Params,
    input_ids: jax.Array,
    attention_mask: jax.Array,
    images: Images,
    rng: jax.Array | None = None,
) -> jax.Array:
    """Texts int [B, T] with two images each -> hidden states [B, T, W].

    How many of the last blocks merge is what the parameters say.
    """
    keys = [None] * 3 if rng is None else list(jax.random.split(rng, 3))
    rngs = [{} if key is None else {"dropout": key} for key in keys]
    deterministic = rng is None
    embeddings: Any = TextEmbeddings(config.text, config.dtype)
    positions = jnp.arange(input_ids.shape[1])[None]
    x = embeddings.apply(
        {"params": text["embeddings"]}, input_ids, positions, deterministic, rngs=rngs[0]
    )
    mask = attention_mask.astype(bool)[:, None, None, :]
    for (part, length, merges), names in zip(parts(text["blocks"]), rngs[1:], strict=True):
        if length:
            run = blocks(config, length, merges, deterministic)
            x, _ = run.apply({"params": part}, x, images, mask, rngs=names)
    return x


def parts(tree: Params) -> list[tuple[Params, int, bool]]:
    """Stacked blocks -> those that average and those that merge: tree, number, merges."""
    cross = tree["cross_attention"]
    plain = tree | {"cross_attention": {k: v for k, v in cross.items() if k != "merge"}}
    depth = cross["norm"]["scale"].shape[0]
    merging = cross["merge"]["bias"].shape[0] if "merge" in cross else 0
    early = jax.tree.map(lambda x: x[: depth - merging], plain)
    late = jax.tree.map(lambda x: x[depth - merging :], plain)
    if merging:
        late["cross_attention"]["merge"] = cross["merge"]
    return [(early, depth - merging, False), (late, merging, True)]


def init_text(config: BlipConfig, rng: jax.Array, embeddings: Params) -> Params:
    """{embeddings, blocks} with random blocks."""
    c = config
    x = jnp.zeros((1, 2, c.text.width), c.dtype)
    image = jnp.zeros((1, c.vision.tokens, c.vision.width), c.dtype)
    mask = jnp.ones((1, 1, 1, 2), bool)
    merges = c.text.depth > FIRST_MERGE
    tree = blocks(c, c.text.depth, merges, True).init(rng, x, (image, image), mask)["params"]
    if merges:
        cross = tree["cross_attention"]
        cross["merge"] = jax.tree.map(lambda leaf: leaf[FIRST_MERGE:], cross["merge"])
    return {"embeddings": embeddings, "blocks": tree}
