"""Ranking the candidate answers of a dialogue's round, by a model of task "visdial"."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from blip_jax.data.dialogs import Round
from blip_jax.data.text import pre_caption, pre_question
from blip_jax.inference.batching import batches
from blip_jax.inference.trained import Trained
from blip_jax.models.blip import Blip, Params
from blip_jax.tokenizer import Tokenizer

CAPTION_TOKENS = 40  # of an image's caption


def dialog_text(
    tokenizer: Tokenizer, row: Round, candidates: Sequence[int], max_tokens: int
) -> list[str]:
    """ "question? answer. question? answer. question? candidate" for each of the candidates.

    The oldest rounds are left out of the history where the longest text would not fit.
    """
    said = [f"{asked(q)} {pre_question(a)}." for q, a in row.history]
    endings = [f"{asked(row.question)} {pre_question(row.candidates[i])}" for i in candidates]
    room = max_tokens - max(tokenizer.count(endings))
    kept = 0
    for count in reversed([n - 2 for n in tokenizer.count(said)]):
        room -= count
        if room < 0:
            break
        kept += 1
    history = said[len(said) - kept :]
    return [" ".join([*history, ending]) for ending in endings]


def asked(question: str) -> str:
    """The question, cleaned, with one mark."""
    return pre_question(question).rstrip("? ") + "?"


def rank_candidates(
    model: Trained,
    pixels: np.ndarray,
    rounds: Sequence[Round],
    *,
    max_tokens: int,
    batch_size: int,
) -> list[np.ndarray]:
    """Log-odds that each candidate answer is the right one, one array [C] a round.

    Args:
      pixels: uint8 [N, S, S, 3].
      rounds: N of them.
      max_tokens: of history, question and candidate.
      batch_size: candidates a compiled batch; an image and its caption are encoded once.
    """
    captions = [pre_caption(row.caption) for row in rounds]
    caption = model.tokenizer.encode(captions, max_length=CAPTION_TOKENS)
    params = model.on_device
    source, mask = source_program(model.blip, params, pixels, *caption)
    found = []
    for number, row in enumerate(rounds):
        texts = dialog_text(model.tokenizer, row, range(len(row.candidates)), max_tokens)
        ids, own = model.tokenizer.encode(texts, max_length=max_tokens, first="[ENC]")
        about = source[number], mask[number]
        scores = [
            np.asarray(odds_program(model.blip, params, *about, ids[r], own[r]))[:count]
            for r, count in batches(len(texts), batch_size)
        ]
        found.append(np.concatenate(scores))
    return found


@functools.partial(jax.jit, static_argnums=0)
def source_program(
    blip: Blip, params: Params, pixels: jax.Array, ids: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Pixels and captions -> what dialogues are about, with its mask; see `dialog_source`."""
    return blip.dialog_source(params, blip.image_tokens(params, pixels), ids, mask)


@functools.partial(jax.jit, static_argnums=0)
def odds_program(
    blip: Blip,
    params: Params,
    source: jax.Array,
    source_mask: jax.Array,
    ids: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    """One source [S, W], dialogues [C, T] about it -> log-odds [C] that they are right."""
    logits = blip.dialog_logits(params, source[None], source_mask[None], ids, mask)
    return logits[:, 1] - logits[:, 0]
