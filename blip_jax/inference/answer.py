"""Answering questions: writing answers, or ranking candidates (`models/blip_vqa.py`)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from blip_jax import generation
from blip_jax.data.text import pre_question
from blip_jax.generation.greedy import expand_cache, expand_logits
from blip_jax.inference.batching import TEXT_STEP, batches, encode, power_of_two
from blip_jax.inference.pixels import Rows
from blip_jax.inference.trained import Trained, program
from blip_jax.losses import smoothed_nll
from blip_jax.models.blip import Blip, Params

Answers = tuple[jax.Array, jax.Array, jax.Array]  # ids and mask int [A, T], bool [A]: which count

MAX_TOKENS = 35  # of a question
RANKED = 128  # candidates whose whole text is scored


def write_answers(
    model: Trained,
    pixels: Rows,
    questions: Sequence[str],
    *,
    top_n: int = 1,
    num_beams: int = 3,
    min_new_tokens: int = 0,
    max_new_tokens: int = 9,
    batch_size: int = 8,
    text_step: int = TEXT_STEP,
) -> tuple[list[list[str]], np.ndarray]:
    """The `top_n` best answers of a beam search to each of N questions, best first.

    pixels are those of N images, or of one that all questions are about.
    The lengths are the original's 1 and 10, which count [DEC]. Questions are padded to a
    multiple of `text_step`.

    Returns:
      Texts, and their log-probabilities [N, top_n].
    """
    texts: list[list[str]] = []
    log_probs = []
    sizes = {"num_beams": num_beams, "num_return": top_n}
    lengths = {"min_new_tokens": min_new_tokens, "max_new_tokens": max_new_tokens}
    for rows, count in batches(len(questions), batch_size):
        asked = encode_questions(model, [questions[r] for r in rows], text_step)
        mesh, batch = model.share(own_or_common(pixels, rows), *asked)
        write = program(written, model.blip, mesh, **sizes, **lengths)
        found = jax.device_get(write(model.on_device, *batch))
        texts += model.texts(found.tokens[:count])
        log_probs.append(found.log_probs[:count].sum(-1))
    return texts, np.concatenate(log_probs)


def rank_answers(
    model: Trained,
    pixels: Rows,
    questions: Sequence[str],
    candidates: Sequence[str],
    *,
    top_k: int = RANKED,
    batch_size: int = 8,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores candidate answers to each of N questions as the original does.

    pixels are those of N images, or of one that all questions are about.
    The `top_k` candidates whose first token is most probable are ranked by the smoothed
    log-likelihood of their whole text.

    Returns:
      Numbers of candidates, best first, [N, K] with K = min(top_k, len(candidates)), and
      their scores [N, K].
    """
    if not candidates:
        raise ValueError("no candidates to rank")
    # As many as a power of two, so that lists of any length share few programs.
    filler = power_of_two(len(candidates), 2 * len(candidates)) - len(candidates)
    most = model.config.text.max_positions
    ids, mask = encode(model.tokenizer, [*candidates, *[""] * filler], most, "[DEC]")
    real = np.arange(len(ids)) < len(candidates)
    found = []
    for rows, count in batches(len(questions), batch_size):
        asked = encode_questions(model, [questions[r] for r in rows])
        mesh, batch = model.share(own_or_common(pixels, rows), *asked)
        rank = program(ranked, model.blip, mesh, top_k=min(top_k, len(ids)))
        best = rank((model.on_device, (ids, mask, real)), *batch)
        found.append([np.asarray(part)[:count] for part in best])
    chosen, scores = (np.concatenate(part) for part in zip(*found, strict=True))
    kept = min(top_k, len(candidates))
    return chosen[:, :kept], scores[:, :kept]


def encode_questions(
    model: Trained, questions: Sequence[str], text_step: int = TEXT_STEP
) -> tuple[np.ndarray, np.ndarray]:
    """Questions -> ids and mask, int32 [B, T]."""
    conventions = model.config.conventions
    # Where answers see the padding of questions, it is the original's: up to the longest.
    step = text_step if conventions.question_mask else 1
    first = {"enc": "[ENC]", "cls": "[CLS]"}[conventions.question_first]
    most = min(MAX_TOKENS, model.config.text.max_positions)
    return encode(model.tokenizer, [pre_question(q) for q in questions], most, first, step)


def own_or_common(pixels: Rows, rows: np.ndarray) -> np.ndarray | jax.Array:
    """The images of some questions: one each, or the one there is."""
    return pixels[rows] if len(pixels) > 1 else pixels[np.zeros(1, int)]


def read_question(
    blip: Blip, params: Params, pixels: jax.Array, ids: jax.Array, mask: jax.Array
) -> jax.Array:
    """Pixels and questions -> hidden states [B, T, W] that answers are written from.

    One image may stand for all B.
    """
    return blip.question_tokens(params, blip.image_tokens(params, pixels), ids, mask)


def written(
    blip: Blip,
    params: Params,
    pixels: jax.Array,
    ids: jax.Array,
    mask: jax.Array,
    *,
    num_beams: int,
    num_return: int,
    min_new_tokens: int,
    max_new_tokens: int,
) -> generation.Generated:
    """Beam search after [DEC], reading the question. ids, mask int [B, T]."""
    text = blip.config.text
    source = read_question(blip, params, pixels, ids, mask)
    source_mask = mask if blip.config.conventions.question_mask else None
    prompt = jnp.full((len(ids), 1), text.dec_id)
    lengths = jnp.ones(len(ids), jnp.int32)
    ready = blip.prefill(
        params, source, prompt, lengths, max_new_tokens, source_mask, texts=num_beams
    )
    return generation.beam(
        *ready,
        prompt,
        lengths,
        num_beams=num_beams,
        num_return=num_return,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        eos_id=text.sep_id,
        pad_id=text.pad_id,
    )


def ranked(
    blip: Blip,
    given: tuple[Params, Answers],
    pixels: jax.Array,
    ids: jax.Array,
    mask: jax.Array,
    *,
    top_k: int,
) -> tuple[jax.Array, jax.Array]:
    """Ranks A answers for each of B questions; `given` is what the questions share, the parameters
    and the answers.

    The answers of a question are fed side by side, one token a step, like beams: they share
    its keys and values. The original masks the question's padding here in any case.

    Returns:
      Numbers of the answers, best first, and their scores, both [B, top_k].
    """
    params, (answers, answer_mask, real) = given
    source = read_question(blip, params, pixels, ids, mask)
    prompt = jnp.full((len(ids), 1), blip.config.text.dec_id)
    lengths = jnp.ones(len(ids), jnp.int32)
    slots = answers.shape[1] - 2  # [DEC] is the prompt, and the last token is never fed
    decode, logits, cache = blip.prefill(params, source, prompt, lengths, slots, mask, texts=top_k)
    first = jnp.where(real[None], jax.nn.log_softmax(logits)[:, answers[:, 1]], -jnp.inf)
    chosen = jax.lax.top_k(first, top_k)[1]
    tokens, counts = (jnp.moveaxis(x[chosen], -1, 0)[1:] for x in (answers, answer_mask))

    def score(logits: jax.Array, token: jax.Array, counts: jax.Array) -> jax.Array:
        loss = smoothed_nll(logits, token, blip.config.conventions.rank_smoothing)
        return jnp.where(counts, -loss, 0.0)

    def step(state, columns):
        cache, total = state
        position, token, target, count = columns
        at = jnp.broadcast_to(position, lengths.shape)
        logits, cache = decode(token, at, cache)
        return (cache, total + score(logits, target, count)), None

    total = score(expand_logits(logits, top_k), tokens[0], counts[0])
    columns = (jnp.arange(1, slots + 1), tokens[:-1], tokens[1:], counts[1:])
    (_, total), _ = jax.lax.scan(step, (expand_cache(cache, top_k), total), columns)
    total = jnp.where(real[chosen], total, -jnp.inf)
    order = jnp.argsort(total, axis=1, descending=True, stable=True)
    return jnp.take_along_axis(chosen, order, 1), jnp.take_along_axis(total, order, 1)
