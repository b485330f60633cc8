"""Classes of images with texts, by a model of task "classify"."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from blip_jax.data.text import pre_caption
from blip_jax.inference.batching import batches, encode
from blip_jax.inference.pixels import Rows
from blip_jax.inference.trained import Trained, spread
from blip_jax.models.blip import Blip, Params


def classify(model: Trained, pixels: Rows, texts: Sequence[str], batch_size: int) -> np.ndarray:
    """Probabilities float32 [N, len(config.classes)] of N images with a text each."""
    cleaned = [pre_caption(text) for text in texts]
    ids, mask = encode(model.tokenizer, cleaned, model.config.text.max_positions, "[ENC]")
    found = []
    for rows, count in batches(len(texts), batch_size):
        mesh, batch = model.share(pixels[rows], ids[rows], mask[rows])
        probabilities = class_program(model.blip, mesh, model.on_device, *batch)
        found.append(np.asarray(probabilities)[:count])
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnums=(0, 1))
def class_program(
    blip: Blip,
    mesh: Mesh | None,
    params: Params,
    pixels: jax.Array,
    ids: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    """Pixels [B, S, S, 3], texts [B, T] -> probabilities [B, C]."""

    def program(params: Params, pixels: jax.Array, ids: jax.Array, mask: jax.Array) -> jax.Array:
        tokens = blip.image_tokens(params, pixels)
        return jax.nn.softmax(blip.class_logits(params, tokens, ids, mask))

    found: jax.Array = spread(program, mesh)(params, pixels, ids, mask)
    return found
