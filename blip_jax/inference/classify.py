"""Classes of images with texts, by a model of task "classify"."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from blip_jax.data.text import pre_caption
from blip_jax.inference.batching import batches, encode
from blip_jax.inference.pixels import Rows
from blip_jax.inference.trained import Trained
from blip_jax.models.blip import Blip, Params


def classify(model: Trained, pixels: Rows, texts: Sequence[str], batch_size: int) -> np.ndarray:
    """Probabilities float32 [N, len(config.classes)] of N images with a text each."""
    cleaned = [pre_caption(text) for text in texts]
    ids, mask = encode(model.tokenizer, cleaned, model.config.text.max_positions, "[ENC]")
    found = []
    for rows, count in batches(len(texts), batch_size):
        batch = map(model.place, (pixels[rows], ids[rows], mask[rows]))
        found.append(np.asarray(class_program(model.blip, model.on_device, *batch))[:count])
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnums=0)
def class_program(
    blip: Blip, params: Params, pixels: jax.Array, ids: jax.Array, mask: jax.Array
) -> jax.Array:
    """Pixels [B, S, S, 3], texts [B, T] -> probabilities [B, C]."""
    tokens = blip.image_tokens(params, pixels)
    return jax.nn.softmax(blip.class_logits(params, tokens, ids, mask))
