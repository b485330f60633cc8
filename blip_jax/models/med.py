"""The text tower: MED, a BERT that encodes, grounds and decodes (the original's `models/med.py`).

One module serves three uses of one text transformer (paper section 3.1):

* unimodal encoder: no image, bidirectional attention;
* image-grounded encoder: cross-attention, bidirectional attention;
* image-grounded decoder: cross-attention, causal attention.

`blip_jax.models.views` says which parameters each use sees.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from blip_jax.config import BlipConfig, Dtype, TextConfig
from blip_jax.models.absorbed import Absorbed
from blip_jax.models.attention import Attention, KeysValues, Seen
from blip_jax.models.gradients import gelu
from blip_jax.models.layers import Mlp, Norm, Params, dense, normal, stacked
from blip_jax.models.placement import looked_up, on_mesh, on_several_devices
from blip_jax.models.products import product_by_rows


class TextEmbeddings(nn.Module):
    """Word plus position embeddings, normalised. Ids [B, T] -> [B, T, width]."""

    config: TextConfig
    dtype: Dtype

    def setup(self) -> None:
        c = self.config
        self.word = self.param("word", normal, (c.vocab_rows, c.width))
        self.position = self.param("position", normal, (c.max_positions, c.width))
        self.norm = Norm(c.norm_eps, self.dtype)
        self.drop = nn.Dropout(c.dropout)

    def __call__(
        self, input_ids: jax.Array, positions: jax.Array, deterministic: bool
    ) -> jax.Array:
        x = on_mesh(looked_up(self.word)[input_ids]) + self.position[positions]
        return self.drop(self.norm(x), deterministic=deterministic)


class TextBlock(nn.Module):
    """Post-LN block: self-attention, cross-attention if there is a source, MLP.

    The source is the image, or for VQA's decoder the question that was grounded in it.
    """

    config: TextConfig
    dtype: Dtype
    deterministic: bool
    by_rows: bool = False  # kernels are [out, in]

    def setup(self) -> None:
        c = self.config
        heads = (c.width, c.heads, c.norm_eps, self.dtype, c.attention_dropout)
        self.attention = Attention(*heads, by_rows=self.by_rows)
        self.cross_attention = self.make_cross_attention(*heads)
        self.mlp = Mlp(c.width, c.mlp_width, c.norm_eps, self.dtype, self.by_rows)
        self.drop = nn.Dropout(c.dropout)

    def make_cross_attention(self, *heads: Any) -> Any:
        """What reads the source; NLVR2 has another."""
        return Attention(*heads, by_rows=self.by_rows)

    def __call__(
        self,
        x: jax.Array,
        source: jax.Array | Seen | None,
        mask: jax.Array,
        source_mask: jax.Array | None,
        asked: int | None = None,
    ) -> tuple[jax.Array, KeysValues]:
        """x [B, T, W], source [B / N, S, W'], masks -> x, self-attention keys and values.

        The source may be given as `read` gives it instead. Where no more than the first `asked`
        positions are asked for, x comes back as [B, asked, W].
        """
        x, keys_values = self.self_attend(x, mask, asked)
        if source is not None:
            attention = self.cross_attention
            # N texts query their source as one.
            together = x.reshape(len(jax.tree.leaves(source)[0]), -1, x.shape[-1])
            h = self.attend(attention, together, source, source_mask)
            x = self.add(attention, x, h.reshape(x.shape))
        return self.add(self.mlp, x, self.mlp(x)), keys_values

    def read(self, source: jax.Array, queries: int) -> Seen:
        """A source [B, S, W'] as the cross-attention takes it, for so many queries to each."""
        seen: Seen = self.cross_attention.read(source, queries)
        return seen

    def self_attend(
        self, x: jax.Array, mask: jax.Array, asked: int | None = None
    ) -> tuple[jax.Array, KeysValues]:
        """The first branch of the block: x [B, T, W] and its mask -> x, keys and values.

        x comes back at the first `asked` positions, or at all.
        """
        keys_values = self.attention.keys_values(x)
        x = x[:, :asked]
        h = self.attend(self.attention, x, keys_values, mask)
        return self.add(self.attention, x, h), keys_values

    def attend(
        self,
        attention: Attention,
        x: jax.Array,
        source: jax.Array | Seen,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        return attention(x, source, mask, self.deterministic)

    def add(self, branch: Attention | Mlp, x: jax.Array, h: jax.Array) -> jax.Array:
        """norm(x + dropout(h)), with the norm of the branch that h came from."""
        return on_mesh(branch.norm(x + self.drop(h, deterministic=self.deterministic)))


class DecodingBlock(TextBlock):
    """The same block for one new token in each of K beams, over a static cache.

    The beams of an image share what the cross-attention sees of it: they attend to it as K query
    positions would.
    """

    by_rows: bool = True

    def __call__(  # type: ignore[override]
        self,
        x: jax.Array,
        cross: Seen,
        cache: KeysValues,
        position: jax.Array,
        source_mask: jax.Array | None,
    ) -> tuple[jax.Array, KeysValues]:
        """x [B, K, W]; cross; cache [B, K, H, T, D]; position [B] -> x, cache."""
        slots = jnp.arange(cache[0].shape[3])
        write = (slots[None] == position[:, None])[:, None, None, :, None]
        rows = x.shape[0] * x.shape[1]
        alone = x.reshape(rows, 1, -1)  # a beam sees itself and what it wrote
        new = self.attention.keys_values(alone)
        cache = jax.tree.map(
            lambda n, c: jnp.where(write, n.reshape(*c.shape[:3], 1, -1), c), new, cache
        )
        mask = jnp.repeat(slots[None] <= position[:, None], x.shape[1], axis=0)[:, None, None]
        flat = jax.tree.map(lambda c: c.reshape(rows, *c.shape[2:]), cache)
        h = self.attend(self.attention, alone, flat, mask)
        x = self.add(self.attention, x, h.reshape(x.shape))
        h = self.attend(self.cross_attention, x, cross, source_mask)
        x = self.add(self.cross_attention, x, h)
        return self.add(self.mlp, x, self.mlp(x)), cache


class TextTransformer(nn.Module):
    """A view of the text tower over whole texts; `params` = {embeddings, blocks}."""

    config: BlipConfig

    @nn.compact
    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        source: jax.Array | None = None,
        source_mask: jax.Array | None = None,
        *,
        causal: bool = False,
        deterministic: bool = True,
    ) -> jax.Array:
        """Encodes texts.

        Args:
          input_ids, attention_mask: int [B, T], right-padded.
          source: tokens [B / N, S, W'] of the image (or of VQA's question), each that of N texts
            which follow each other; None for the unimodal encoder.
          source_mask: int [B / N, S]; None where all of the source may be seen.
          causal: True for the decoder.
          deterministic: False drops out, with the "dropout" rng.

        Returns:
          Hidden states [B, T, W].
        """
        embeddings = TextEmbeddings(self.config.text, self.config.dtype, name="embeddings")
        x = embeddings(input_ids, positions_of(input_ids, self.config.text), deterministic)
        c = self.config
        scan: Any = {"length": c.text.depth, "in_axes": (nn.broadcast,) * 3}
        blocks = stacked(TextBlock, c.text.remat, c.unroll, **scan)
        run = blocks(c.text, c.dtype, deterministic, name="blocks")
        masks = text_mask(attention_mask, causal), padding_mask(source_mask)
        hidden: jax.Array = run(x, source, *masks)[0]
        return hidden


def first_token(
    config: BlipConfig,
    view: Params,
    input_ids: jax.Array,
    attention_mask: jax.Array,
    source: jax.Array | None = None,
    source_mask: jax.Array | None = None,
) -> jax.Array:
    """What `TextTransformer` says of the first token of texts that may see all of themselves.

    ITC, ITM and other heads ask for no other, so the last block computes no other. Without
    dropout, and not for training: a gradient would be as large as all layers in each of them.

    Args:
      view: {embeddings, blocks}; the others as `TextTransformer` takes them.

    Returns:
      Hidden states [B, W].
    """
    embeddings: Any = TextEmbeddings(config.text, config.dtype)
    block: Any = TextBlock(config.text, config.dtype, deterministic=True)
    positions = positions_of(input_ids, config.text)
    x = embeddings.apply({"params": view["embeddings"]}, input_ids, positions, True)
    masks = text_mask(attention_mask, causal=False), padding_mask(source_mask)

    def through(x: jax.Array, i: jax.Array | int, asked: int | None = None) -> jax.Array:
        layer = jax.tree.map(
            functools.partial(
                jax.lax.dynamic_index_in_dim,
                index=i,
                keepdims=False,
                allow_negative_indices=False,
            ),
            view["blocks"],
        )
        return block.apply({"params": layer}, x, source, *masks, asked)[0]

    last = len(jax.tree.leaves(view["blocks"])[0]) - 1
    x = jax.lax.fori_loop(0, last, lambda i, x: through(x, i), x, unroll=config.unroll)
    return through(x, last, asked=1)[:, 0]


def begin(
    config: BlipConfig,
    view: Params,
    prompt: jax.Array,
    attention_mask: jax.Array,
    source: jax.Array,
    queries: int,
    source_mask: jax.Array | None = None,
) -> tuple[jax.Array, list[Seen], list[KeysValues]]:
    """Runs prompts [B, P] through the decoder, its layers one by one, as `feed` goes on.

    Returns the hidden states [B, P, W], and of each layer what it sees of the source [B, S, W'],
    for so many `queries` to each, and the keys and values [B, H, P, D] of the prompts.
    """
    embeddings: Any = TextEmbeddings(config.text, config.dtype)
    block: Any = TextBlock(config.text, config.dtype, deterministic=True, by_rows=True)
    positions = positions_of(prompt, config.text)
    x = embeddings.apply({"params": view["embeddings"]}, prompt, positions, True)
    masks = text_mask(attention_mask, causal=True), padding_mask(source_mask)
    cross, written = [], []
    for layer in view["blocks"]:
        cross.append(at_rest(block.apply({"params": layer}, source, queries, method="read")))
        x, new = block.apply({"params": layer}, x, cross[-1], *masks)
        written.append(new)
    return x, cross, written


def at_rest(seen: Seen) -> Seen:
    """The same; keys and values are kept in memory as their shape says.

    The compiler for processors would keep them as the projection left them, positions before
    heads, and copy them once for the prompt and once more for the loop over tokens.
    """

    def in_order(x: jax.Array) -> jax.Array:
        rows = jax.lax.optimization_barrier(x.reshape(-1, *x.shape[2:]))
        return rows.reshape(x.shape)

    def placed(x: jax.Array) -> jax.Array:
        return jax.lax.platform_dependent(x, cpu=in_order, default=lambda x: x)

    if isinstance(seen, Absorbed) or on_several_devices():
        return seen
    return jax.tree.map(placed, seen)


def feed(
    config: BlipConfig,
    view: Params,
    tokens: jax.Array,
    position: jax.Array,
    cross: list[Seen],
    cache: list[KeysValues],
    source_mask: jax.Array | None = None,
) -> tuple[jax.Array, list[KeysValues]]:
    """Feeds tokens [B, K] at position [B] to the decoder, its layers one by one.

    The blocks of `view` are a list of layers, and so are cross, as `begin` gives it, and cache, of
    [B, K, H, T, D]: apart, each lies where a matrix product can read it. Returns the hidden states
    [B, K, W] and the cache with the new keys and values at `position`.
    """
    embeddings: Any = TextEmbeddings(config.text, config.dtype)
    block: Any = DecodingBlock(config.text, config.dtype, deterministic=True)
    x = embeddings.apply({"params": view["embeddings"]}, tokens, position[:, None], True)
    mask = padding_mask(source_mask)
    written = []
    for layer, seen in zip(view["blocks"], zip(cross, cache, strict=True), strict=True):
        x, new = block.apply({"params": layer}, x, *seen, position, mask)
        written.append(new)
    return x, written


def positions_of(input_ids: jax.Array, config: TextConfig) -> jax.Array:
    """Positions [1, T] of texts [B, T]; ValueError where there are not so many."""
    length = input_ids.shape[1]
    if length > config.max_positions:
        raise ValueError(
            f"texts of {length} tokens do not fit text.max_positions {config.max_positions}"
        )
    return jnp.arange(length)[None]


def text_mask(attention_mask: jax.Array, causal: bool) -> jax.Array:
    """What the positions of texts [B, T] may see: bool [B, 1, 1, T], or [B, 1, T, T] if causal."""
    mask = attention_mask.astype(bool)[:, None, None, :]
    length = attention_mask.shape[1]
    return mask & jnp.tril(jnp.ones((1, 1, length, length), bool)) if causal else mask


def padding_mask(padding: jax.Array | None) -> jax.Array | None:
    """Padding mask int [B, S] of a source -> bool [B, 1, 1, S], for every head and query."""
    return None if padding is None else padding.astype(bool)[:, None, None, :]


class LmHead(nn.Module):
    """Hidden states [..., W] -> logits [..., V], float32; the output matrix is `word` [V, W].

    Rows that pad the vocabulary get a logit of -inf.
    """

    config: TextConfig
    dtype: Dtype
    by_rows: bool = False  # its own kernel is [out, in]

    @nn.compact
    def __call__(self, x: jax.Array, word: jax.Array) -> jax.Array:
        c = self.config
        bias = self.param("bias", nn.initializers.zeros, (c.vocab_rows,))
        x = gelu(dense(c.width, self.dtype, "transform", self.by_rows)(x))
        x = Norm(c.norm_eps, self.dtype, name="norm")(x)
        logits = product_by_rows(x, word.astype(x.dtype))
        logits = on_mesh(logits, "tensor").astype(jnp.float32)
        logits = logits + bias.reshape((1,) * (logits.ndim - 1) + (-1,))
        if c.vocab_rows == c.vocab_size:
            return logits
        return jnp.where(jnp.arange(c.vocab_rows) < c.vocab_size, logits, -jnp.inf)
