"""Classes of images with texts, by a model of task "classify"."""

from collections.abc import Sequence

import jax
import numpy as np

from blip_jax.data.text import pre_caption
from blip_jax.inference.batching import batches, encode
from blip_jax.inference.pixels import Rows
from blip_jax.inference.trained import Trained, program
from blip_jax.models.blip import Blip, Params


def classify(model: Trained, pixels: Rows, texts: Sequence[str], batch_size: int) -> np.ndarray:
    """Probabilities float32 [N, len(config.classes)] of N images with a text each."""
    cleaned = [pre_caption(text) for text in texts]
    ids, mask = encode(model.tokenizer, cleaned, model.config.text.max_positions, "[ENC]")
    found = []
    for rows, count in batches(len(texts), batch_size):
        mesh, batch = model.share(pixels[rows], ids[rows], mask[rows])
        judge = program(class_probabilities, model.blip, mesh)
        probabilities = judge(model.on_device, *batch)
        found.append(np.asarray(probabilities)[:count])
    return np.concatenate(found)


def class_probabilities(
    blip: Blip, params: Params, pixels: jax.Array, ids: jax.Array, mask: jax.Array
) -> jax.Array:
    """Pixels [B, S, S, 3], texts [B, T] -> probabilities [B, C]."""
    tokens = blip.image_tokens(params, pixels)
    return jax.nn.softmax(blip.class_logits(params, tokens, ids, mask))
