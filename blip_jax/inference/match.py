"""Scoring texts against images: ITM's probability and ITC's cosine."""

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from blip_jax.inference.batching import batches
from blip_jax.inference.embed import embed_images, embed_texts, encode_images, text_ids
from blip_jax.inference.pixels import Rows
from blip_jax.inference.results import MatchMatrix
from blip_jax.inference.trained import Trained
from blip_jax.models.blip import Blip, Params


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
    rows, texts, length = ids.shape
    ids, mask = ids.reshape(-1, length), mask.reshape(-1, length)
    text = blip.text_embeds(params, ids, mask).reshape(rows, texts, -1)
    itm = itm_probability(blip, params, tokens, ids, mask)
    return itm.reshape(rows, texts), jnp.einsum("be,bne->bn", image, text)


@functools.partial(jax.jit, static_argnums=0)
def match_probability(
    blip: Blip,
    params: Params,
    tokens: jax.Array,
    owners: jax.Array,
    ids: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    """ITM probability float32 [P] of texts [P, T], each with the image `owners` [P] says.

    tokens are those of B images [B, S, W].
    """
    return itm_probability(blip, params, tokens[owners], ids, mask)


def itm_probability(
    blip: Blip, params: Params, tokens: jax.Array, ids: jax.Array, mask: jax.Array
) -> jax.Array:
    """ITM probability float32 [P] of texts [P, T], as many for each of the images [B, S, W].

    What stands first in the texts does not matter.
    """
    text = blip.config.text
    first = {"enc": text.enc_id, "cls": text.cls_id}[blip.config.conventions.match_first]
    logits = blip.match_logits(params, tokens, ids.at[:, 0].set(first), mask)
    return jax.nn.softmax(logits)[:, 1]


def match_pairs(
    model: Trained, pixels: Rows, texts: Sequence[str], batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """ITM probability and ITC cosine, float32 [N], of each image with the text of its place."""
    ids, mask = text_ids(model, texts)
    scores = []
    for rows, count in batches(len(pixels), batch_size):
        batch = (pixels[rows], ids[rows, None], mask[rows, None])
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

    Images and their tokens are held a batch at a time; what grows with N * M are the scores.
    """
    embeds = embed_texts(model, texts, batch_size)
    ids, mask = text_ids(model, texts)
    itc = np.empty((len(pixels), len(texts)), np.float32)
    itm = np.full_like(itc, np.nan)
    wanted = np.ones(itc.shape, bool)
    if top_k is not None and top_k < min(itc.shape):
        wanted = among_best(embed_images(model, pixels, batch_size) @ embeds.T, top_k)
    for rows, count in batches(len(pixels), batch_size):
        tokens, image = encode_images(model.blip, model.on_device, pixels[rows])
        itc[rows[:count]] = np.asarray(image)[:count] @ embeds.T
        for owners, chosen in pair_batches(wanted[rows[:count]], batch_size):
            batch = (tokens, owners, ids[chosen], mask[chosen])
            scores = match_probability(model.blip, model.on_device, *batch)
            itm[rows[owners], chosen] = scores  # what fills a batch up repeats its last pair
    return MatchMatrix(itm, itc)


def among_best(scores: np.ndarray, top_k: int) -> np.ndarray:
    """Bool [N, M]: a score is one of the `top_k` highest of its row or of its column."""
    found = np.zeros(scores.shape, bool)
    for row, marks in zip(scores, found, strict=True):
        marks[np.argpartition(-row, top_k - 1)[:top_k]] = True
    for column, marks in zip(scores.T, found.T, strict=True):
        marks[np.argpartition(-column, top_k - 1)[:top_k]] = True
    return found


def pair_batches(wanted: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(image, text) numbers of the pairs to score, a batch of them at a time."""
    owners, chosen = np.nonzero(wanted)
    for rows, _ in batches(len(chosen), batch_size):
        yield owners[rows], chosen[rows]
