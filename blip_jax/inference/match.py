"""Scoring texts against images: ITM's probability and ITC's cosine."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from blip_jax.files import Progress, silent
from blip_jax.inference.batching import batches
from blip_jax.inference.embed import embed_images, embed_texts, encode_images, text_ids
from blip_jax.inference.pairs import NONE, Layout
from blip_jax.inference.pixels import Rows
from blip_jax.inference.results import MatchMatrix
from blip_jax.inference.trained import Trained, spread
from blip_jax.models.blip import Blip, Params

PAIRS_AN_IMAGE = 8  # a batch of pairs has so many times the rows of a batch of images


@functools.partial(jax.jit, static_argnums=0)
def score_texts(
    blip: Blip, params: Params, pixels: jax.Array, ids: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Images [B, S, S, 3] with N texts each [B, N, T] -> ITM probability and ITC cosine [B, N]."""
    return score_tokens(blip, params, *encode_images(blip, params, pixels), ids, mask)


@functools.partial(jax.jit, static_argnums=0)
def score_tokens(
    blip: Blip,
    params: Params,
    tokens: jax.Array,
    image: jax.Array,
    ids: jax.Array,
    mask: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The same of what `encode_images` made of the images: tokens [B, S, W], vectors [B, E].

    Cross-attention keys and values are computed once an image, whatever N.
    """
    flat = [x.reshape(-1, x.shape[-1]) for x in (ids, mask)]
    text = blip.text_embeds(params, *flat).reshape(*ids.shape[:2], -1)
    itm = jax.nn.softmax(match_logits(blip, params, tokens, ids, mask))[..., 1]
    return itm, (image[:, None] * text).sum(-1)


def match_logits(
    blip: Blip, params: Params, tokens: jax.Array, ids: jax.Array, mask: jax.Array
) -> jax.Array:
    """ITM logits float32 [B, N, 2] of images' tokens [B, S, W] with N texts each [B, N, T].

    What stands first in the texts does not matter.
    """
    text = blip.config.text
    first = {"enc": text.enc_id, "cls": text.cls_id}[blip.config.conventions.match_first]
    flat = [x.reshape(-1, x.shape[-1]) for x in (ids.at[..., 0].set(first), mask)]
    return blip.match_logits(params, tokens, *flat).reshape(*ids.shape[:2], 2)


def match_pairs(
    model: Trained, pixels: Rows, texts: Sequence[str], batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """ITM probability and ITC cosine, float32 [N], of each image with the text of its place."""
    ids, mask = text_ids(model, texts)
    scores = []
    for rows, count in batches(len(pixels), batch_size):
        batch = map(model.place, (pixels[rows], ids[rows, None], mask[rows, None]))
        pair = jax.device_get(score_texts(model.blip, model.on_device, *batch))
        scores.append(np.stack(pair)[:, :count, 0])
    itm, itc = np.concatenate(scores, 1)
    return itm, itc


def match_matrix(
    model: Trained,
    pixels: Rows,
    texts: Sequence[str],
    top_k: int | None,
    batch_size: int,
) -> MatchMatrix:
    """All of N images with all of M texts.

    With `top_k`, ITM only for the pairs that either side wants: each image's `top_k` texts of
    highest ITC and each text's `top_k` images, which takes a look at every image before.
    """
    embeds = embed_texts(model, texts, batch_size)
    wanted = np.ones((len(pixels), len(texts)), bool)
    if top_k is not None and top_k < min(wanted.shape):
        cosine = embed_images(model, pixels, batch_size) @ embeds.T
        wanted = among_best(cosine, top_k) | among_best(cosine.T, top_k).T
    pairs = np.argwhere(wanted)
    logits, image = pair_logits(model, pixels, *text_ids(model, texts), pairs, batch_size)
    itm = np.full(wanted.shape, np.nan, np.float32)
    itm[wanted] = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    return MatchMatrix(itm, image @ embeds.T)


def among_best(scores: np.ndarray, top_k: int) -> np.ndarray:
    """Bool [N, M]: a score is one of the `top_k` highest of its row; all are of a short row."""
    found = np.zeros(scores.shape, bool)
    top_k = min(top_k, scores.shape[1])
    for row, marks in zip(scores, found, strict=True):
        marks[np.argpartition(-row, top_k - 1)[:top_k]] = True
    return found


def pair_logits(
    model: Trained,
    pixels: Rows,
    ids: np.ndarray,
    mask: np.ndarray,
    pairs: np.ndarray,
    batch_size: int,
    progress: Progress = silent,
) -> tuple[np.ndarray, np.ndarray]:
    """ITM logits of any pairs of N images and M texts.

    Images and their tokens are held `batch_size` at a time, and encoded once; batches of pairs
    mix what they are of. A model on several devices gives each its share of the images.

    Args:
      ids, mask: int [M, T].
      pairs: int [P, 2], image and text, sorted by image.

    Returns:
      Logits float32 [P, 2], and the images' unit vectors [N, E].
    """
    layout = Layout.of(pairs, mask)
    shares = model.device_count
    logits = np.empty((len(pairs), 2), np.float32)
    embeds = []
    done = 0
    for images, count in batches(len(pixels), -(-batch_size // shares) * shares, shares):
        own = model.place(pixels[images])
        tokens, image = encode_images(model.blip, model.on_device, own)
        embeds.append(np.asarray(image)[:count])
        block = (int(images[0]), len(images) // shares, shares, PAIRS_AN_IMAGE * batch_size)
        for length, owners, numbers in layout.batches(*block):
            text = pairs[numbers, 1]
            batch = [model.place(x) for x in (owners, ids[text, :length], mask[text, :length])]
            found = np.asarray(row_logits(model.blip, model.mesh, model.on_device, tokens, *batch))
            real = numbers != NONE
            logits[numbers[real]] = found[real]
            done += int(real.sum())
            progress(done, len(pairs))
    return logits, np.concatenate(embeds)


@functools.partial(jax.jit, static_argnums=(0, 1))
def row_logits(
    blip: Blip,
    mesh: Mesh | None,
    params: Params,
    tokens: jax.Array,
    owners: jax.Array,
    ids: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    """Logits [R, G, 2] of rows of G texts [R, G, T]; `owners` [R] says whose tokens [B, S, W].

    On a mesh every device has its own images, and owners are counted among those.
    """

    def share(
        params: Params, tokens: jax.Array, owners: jax.Array, ids: jax.Array, mask: jax.Array
    ) -> jax.Array:
        return match_logits(blip, params, tokens[owners], ids, mask)

    found: jax.Array = spread(share, mesh)(params, tokens, owners, ids, mask)
    return found
