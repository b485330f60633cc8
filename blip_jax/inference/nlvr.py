"""Judging statements about two images (`models/blip_nlvr.py`)."""

from collections.abc import Sequence

import jax
import numpy as np

from blip_jax.data.text import pre_caption
from blip_jax.inference.batching import batches, encode
from blip_jax.inference.pixels import Rows
from blip_jax.inference.trained import Trained, program
from blip_jax.models.blip import Blip, Params

MAX_WORDS = 40


def judge(
    model: Trained,
    left: Rows,
    right: Rows,
    texts: Sequence[str],
    batch_size: int,
) -> np.ndarray:
    """Logits float32 [N, 2] of N statements, each about a left and a right image; 1 is true."""
    cleaned = [pre_caption(text, MAX_WORDS) for text in texts]
    ids, mask = encode(model.tokenizer, cleaned, model.config.text.max_positions, "[ENC]")
    logits = []
    for rows, count in batches(len(texts), batch_size):
        mesh, batch = model.share(left[rows], right[rows], ids[rows], mask[rows])
        found = program(statement_logits, model.blip, mesh)(model.on_device, *batch)
        logits.append(np.asarray(found)[:count])
    return np.concatenate(logits)


def statement_logits(
    blip: Blip,
    params: Params,
    left: jax.Array,
    right: jax.Array,
    ids: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    """Pixels of both sides [B, S, S, 3], texts [B, T] -> logits [B, 2]."""
    left, right = (blip.image_tokens(params, side) for side in (left, right))
    return blip.nlvr_logits(params, left, right, ids, mask)
