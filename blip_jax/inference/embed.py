"""Images and texts as unit vectors of the joint space."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from blip_jax.data.text import pre_caption
from blip_jax.inference.batching import TEXT_STEP, batches, encode
from blip_jax.inference.pixels import Rows
from blip_jax.inference.trained import Trained
from blip_jax.models.blip import Blip, Params

MAX_TOKENS = 40  # of a text that is embedded or matched


def embed_images(model: Trained, pixels: Rows, batch_size: int) -> np.ndarray:
    """Images [N, S, S, 3] -> unit vectors [N, E], float32."""
    vectors = []
    for rows, count in batches(len(pixels), batch_size):
        found = encode_images(model.blip, model.on_device, model.place(pixels[rows]))[1]
        vectors.append(np.asarray(found)[:count])
    return np.concatenate(vectors)


def embed_texts(model: Trained, texts: Sequence[str], batch_size: int) -> np.ndarray:
    """Texts -> unit vectors [N, E], float32."""
    return embed_ids(model, *text_ids(model, texts), batch_size)


def embed_ids(model: Trained, ids: np.ndarray, mask: np.ndarray, batch_size: int) -> np.ndarray:
    """Texts [N, T] with [CLS] first -> unit vectors [N, E], float32."""
    vectors = []
    for rows, count in batches(len(ids), batch_size):
        batch = [model.place(x[rows]) for x in (ids, mask)]
        vectors.append(np.asarray(encode_texts(model.blip, model.on_device, *batch))[:count])
    return np.concatenate(vectors)


def text_ids(
    model: Trained, texts: Sequence[str], step: int = TEXT_STEP
) -> tuple[np.ndarray, np.ndarray]:
    """Texts -> ids with [CLS] first, and mask, int32 [N, T]; T is a multiple of `step`."""
    most = min(MAX_TOKENS, model.config.text.max_positions)
    return encode(model.tokenizer, [pre_caption(text) for text in texts], most, step=step)


@functools.partial(jax.jit, static_argnums=0)
def encode_images(blip: Blip, params: Params, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pixels -> image tokens [B, S, W] and unit vectors [B, E]."""
    tokens = blip.image_tokens(params, pixels)
    return tokens, blip.image_embeds(params, tokens)


encode_texts = jax.jit(Blip.text_embeds, static_argnums=0)
