"""Grad-CAM: which parts of an image a text was matched by (LAVIS, `common/gradcam.py`).

The map is attention times its positive influence on the match. Both are taken functionally: the
match is a function of what is added to the attention's probabilities.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from blip_jax.data.text import pre_caption
from blip_jax.inference.embed import MAX_TOKENS, text_ids
from blip_jax.inference.trained import Trained
from blip_jax.models.attention import attend, merge_heads
from blip_jax.models.blip import Blip, Params, linear
from blip_jax.models.med import TextBlock, TextEmbeddings
from blip_jax.models.views import encoder_view


@dataclasses.dataclass(frozen=True)
class ExplainResult:
    """Where a text was found. `heatmap` float32 [grid, grid] is 0 or more, rows from the top."""

    heatmap: np.ndarray
    image: Image.Image

    def picture(self, opacity: float = 0.5) -> Image.Image:
        """The heatmap, scaled to its maximum, over the image in the image's size."""
        from matplotlib import colormaps

        scaled = self.heatmap / max(float(self.heatmap.max()), 1e-12)
        smooth = Image.fromarray(scaled).resize(self.image.size, Image.Resampling.BICUBIC)
        colours = colormaps["jet"](np.clip(np.asarray(smooth), 0, 1))[..., :3]
        overlay = Image.fromarray((255 * colours).astype(np.uint8))
        return Image.blend(self.image, overlay, opacity)


def explain(
    model: Trained,
    pixels: np.ndarray,
    text: str,
    word: str | None = None,
    layer: int | None = None,
) -> np.ndarray:
    """The heatmap of one image [S, S, 3]: of the whole text, or of one word of it.

    Args:
      layer: number of the block whose cross-attention is shown; by default the one two thirds
        up, which is the original's 7 of 12.

    Raises:
      ValueError: the word is not in the text, or there is no such layer.
    """
    depth = model.config.text.depth
    layer = default_layer(model) if layer is None else layer
    if not 0 <= layer < depth:
        raise ValueError(f"layer {layer} is not one of the {depth} blocks, 0 to {depth - 1}")
    ids, mask = text_ids(model, [text])
    where = word_positions(model, ids[0], word) if word else np.arange(1, mask.sum() - 1)
    if not len(where):
        raise ValueError("the text has no words to explain")
    maps = token_maps(model.blip, layer, model.on_device, pixels[None], ids, mask)
    return heatmap(model, np.asarray(maps)[where])


def explain_words(model: Trained, pixels: np.ndarray, text: str) -> list[tuple[str, np.ndarray]]:
    """The words of a text as they are read, each with its heatmap, from one run.

    Args:
      pixels: one image [S, S, 3], or its tokens [S, W].
    """
    ids, mask = text_ids(model, [text], MAX_TOKENS)
    layer = default_layer(model)
    maps = np.asarray(token_maps(model.blip, layer, model.on_device, pixels[None], ids, mask))
    words = pre_caption(text).split()
    counts = [count - 2 for count in model.tokenizer.count(words)]
    ends = 1 + np.cumsum(counts, dtype=int)
    return [
        (word, heatmap(model, maps[end - count : end]))
        for word, count, end in zip(words, counts, ends, strict=True)
        if count and end < mask.sum()  # a long text is cut
    ]


def heatmap(model: Trained, maps: np.ndarray) -> np.ndarray:
    """The mean of tokens' maps [N, patches], as [grid, grid]."""
    grid = model.config.vision.grid
    return maps.mean(0).reshape(grid, grid)


def default_layer(model: Trained) -> int:
    """The block two thirds up."""
    return max(model.config.text.depth * 2 // 3 - 1, 0)


def word_positions(model: Trained, ids: np.ndarray, word: str) -> np.ndarray:
    """Where the pieces of a word first stand in ids [T].

    Raises:
      ValueError: nowhere.
    """
    cleaned = [pre_caption(word)]
    length = model.tokenizer.count(cleaned)[0]
    pieces = model.tokenizer.encode(cleaned, max_length=length)[0][0, 1:-1]
    for start in range(1, len(ids) - len(pieces) + 1):
        if len(pieces) and np.array_equal(ids[start : start + len(pieces)], pieces):
            return np.arange(start, start + len(pieces))
    raise ValueError(f"the word {word!r} is not in the text")


@functools.partial(jax.jit, static_argnums=(0, 1))
def token_maps(
    blip: Blip,
    layer: int,
    params: Params,
    pixels: jax.Array,
    ids: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    """One image [1, S, S, 3] and text [1, T] -> map float32 [T, patches] of every token."""
    c = blip.config
    first = {"enc": c.text.enc_id, "cls": c.text.cls_id}[c.conventions.match_first]
    ids = ids.at[:, 0].set(first)
    tokens = blip.image_tokens(params, pixels)
    args = (blip, layer, params, tokens, ids, mask)
    zero = jnp.zeros((1, c.text.heads, ids.shape[1], tokens.shape[1]))
    slope, attention = jax.grad(functools.partial(match_logit, *args), has_aux=True)(zero)
    return (attention * jax.nn.relu(slope))[0, :, :, 1:].mean(0)  # without the class token


def match_logit(
    blip: Blip,
    layer: int,
    params: Params,
    tokens: jax.Array,
    ids: jax.Array,
    mask: jax.Array,
    shift: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The match logit with `shift` [1, H, T, S] added to one block's attention to the image.

    Returns the logit [] and that block's probabilities [1, H, T, S].
    """
    c, view = blip.config, encoder_view(params)
    block: Any = TextBlock(c.text, c.dtype, True)
    bias = mask.astype(bool)[:, None, None, :]

    def one(x: jax.Array, layer: Params) -> tuple[jax.Array, None]:
        return block.apply({"params": layer}, x, tokens, bias, None)[0], None

    def run(x: jax.Array, layers: slice) -> jax.Array:
        return jax.lax.scan(one, x, jax.tree.map(lambda leaf: leaf[layers], view["blocks"]))[0]

    embeddings: Any = TextEmbeddings(c.text, c.dtype)
    positions = jnp.arange(ids.shape[1])[None]
    x = embeddings.apply({"params": view["embeddings"]}, ids, positions, True)
    x = run(x, slice(layer))
    shown = jax.tree.map(lambda leaf: leaf[layer], view["blocks"])
    shifted = functools.partial(shifted_block, shift=shift)
    x, attention = block.apply({"params": shown}, x, tokens, bias, method=shifted)
    x = run(x, slice(layer + 1, None))
    return linear(params["itm_head"], x[:, 0])[0, 1], attention


def shifted_block(
    block: TextBlock, x: jax.Array, image: jax.Array, mask: jax.Array, shift: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`TextBlock` with `shift` added to its attention to the image; x and the probabilities."""
    seen = []

    def add_shift(probabilities: jax.Array) -> jax.Array:
        seen.append(probabilities)
        return probabilities + shift

    x, _ = block.self_attend(x, mask)
    cross = block.cross_attention
    key, value = cross.keys_values(image)
    h = attend(cross.split(cross.query(x)), key, value, None, add_shift)
    x = block.add(cross, x, cross.out(merge_heads(h)))
    return block.add(block.mlp, x, block.mlp(x)), seen[0]
