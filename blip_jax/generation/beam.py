"""Beam search with the semantics of transformers 4.15, with which BLIP's numbers were made."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from blip_jax.generation.greedy import (
    Cache,
    Decode,
    Generated,
    check_max_new_tokens,
    expand_cache,
    expand_logits,
)
from blip_jax.generation.logits import Constraints

UNUSED_BEAM = -1e9  # all beams start equal, so only the first may be extended at the first step


@struct.dataclass
class Beams:
    """State of `beam`.

    Attributes:
      step: int32 [], tokens in every open beam.
      tokens: int32 [B, K, T], the open beams, best first, `pad_id` where nothing is written.
      log_probs: float32 [B, K, T], the model's log-probability of each token.
      sums: float32 [B, K], sum of the constrained log-probabilities of each open beam.
      hypotheses: the best ended texts, best first; a free place has score -inf.
      done: bool [B], no open beam can beat the row's hypotheses any more; the row is frozen.
      cache: the model's, leaves [B, K, ...] in the order of the beams; it lacks the newest
        token.
    """

    step: jax.Array
    tokens: jax.Array
    log_probs: jax.Array
    sums: jax.Array
    hypotheses: Generated
    done: jax.Array
    cache: Cache


def beam(
    decode: Decode,
    logits: jax.Array,
    cache: Cache,
    prompt: jax.Array,
    prompt_length: jax.Array,
    *,
    num_beams: int,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    min_new_tokens: int = 0,
    repetition_penalty: float = 1.0,
    length_penalty: float = 1.0,
    num_return: int = 1,
) -> Generated:
    """The best `num_return` of the texts that `num_beams` beams find.

    As transformers 4.15 (`beam_search` with `BeamSearchScorer`, early_stopping False): the
    repetition penalty and the minimum length act on log-probabilities; of the 2K best
    continuations, end tokens among the first K close a hypothesis and the first K others go on;
    a row is done when its K hypotheses all score at least what the best continuation would now.
    Unlike there, prompts may differ in length, and of hypotheses with equal scores the one found
    first is preferred.

    Args:
      num_beams: K.
      length_penalty: a hypothesis scores sum / length ** length_penalty, where length counts
        the prompt but not the end token.
      num_return: hypotheses returned, at most num_beams.

    The others are those of `greedy`; `decode` must treat beams of a row independently.

    Returns:
      Generated with num_return texts a row, best first; scores are after length penalty.

    Raises:
      ValueError: num_beams, num_return or what `greedy` checks is out of range.
    """
    check_max_new_tokens(max_new_tokens)
    if not 1 <= num_return <= num_beams:
        raise ValueError(
            f"num_return must be from 1 to num_beams ({num_beams}), but it is {num_return}"
        )
    constraints = Constraints(prompt, prompt_length, eos_id, min_new_tokens, repetition_penalty)

    def normalize(sums: jax.Array, new_tokens: jax.Array) -> jax.Array:
        """Scores [B, N] of sums [B, N] of texts with `new_tokens`, the end token not counted."""
        length = (prompt_length + new_tokens).astype(jnp.float32)
        return sums / (length**length_penalty)[:, None]

    def advance(beams: Beams, logits: jax.Array) -> Beams:
        tokens, log_probs, sums, parents = _candidates(beams, logits, constraints)
        is_eos = tokens[:, :, beams.step] == eos_id
        scores = normalize(sums, beams.step)
        ended = is_eos[:, :num_beams] & ~beams.done[:, None]
        hypotheses = _merge(
            beams.hypotheses,
            Generated(
                tokens=tokens[:, :num_beams],
                lengths=jnp.full_like(beams.hypotheses.lengths, beams.step + 1),
                log_probs=log_probs[:, :num_beams],
                scores=jnp.where(ended, scores[:, :num_beams], -jnp.inf),
            ),
        )
        # A free place holds -inf, so the row is not done while there is one.
        done = beams.done | (hypotheses.scores[:, -1] >= scores[:, 0])
        # Each beam ends at most once, so at least K of the 2K candidates go on.
        going = jnp.argsort(is_eos, axis=1, stable=True)[:, :num_beams]
        return dataclasses.replace(
            beams,
            step=beams.step + 1,
            tokens=_pick(tokens, going, axis=1),
            log_probs=_pick(log_probs, going, axis=1),
            sums=_pick(sums, going, axis=1),
            hypotheses=hypotheses,
            done=done,
            cache=_reorder(beams.cache, _pick(parents, going, axis=1)),
        )

    def extend(beams: Beams) -> Beams:
        token = lax.dynamic_index_in_dim(beams.tokens, beams.step - 1, axis=2, keepdims=False)
        logits, cache = decode(token, prompt_length + beams.step - 1, beams.cache)
        return advance(dataclasses.replace(beams, cache=cache), logits)

    beams = _start(logits.shape[0], num_beams, max_new_tokens, pad_id, cache)
    beams = advance(beams, expand_logits(logits, num_beams))
    beams = lax.while_loop(
        lambda beams: (beams.step < max_new_tokens) & ~jnp.all(beams.done), extend, beams
    )
    # Rows that ran out of steps offer their open beams too.
    scores = normalize(beams.sums, beams.step)
    still_open = Generated(
        tokens=beams.tokens,
        lengths=jnp.full_like(beams.hypotheses.lengths, beams.step),
        log_probs=beams.log_probs,
        scores=jnp.where(beams.done[:, None], -jnp.inf, scores),
    )
    best = _merge(beams.hypotheses, still_open)
    return jax.tree.map(lambda leaf: leaf[:, :num_return], best)


def _start(rows: int, num_beams: int, max_new_tokens: int, pad_id: int, cache: Cache) -> Beams:
    """K equal beams of no tokens, of which only the first counts, and no hypotheses."""
    shape = (rows, num_beams)
    tokens = jnp.full((*shape, max_new_tokens), pad_id, jnp.int32)
    log_probs = jnp.zeros((*shape, max_new_tokens), jnp.float32)
    return Beams(
        step=jnp.int32(0),
        tokens=tokens,
        log_probs=log_probs,
        sums=jnp.full(shape, UNUSED_BEAM, jnp.float32).at[:, 0].set(0.0),
        hypotheses=Generated(
            tokens=tokens,
            lengths=jnp.zeros(shape, jnp.int32),
            log_probs=log_probs,
            scores=jnp.full(shape, -jnp.inf, jnp.float32),
        ),
        done=jnp.zeros(rows, bool),
        cache=expand_cache(cache, num_beams),
    )


def _candidates(
    beams: Beams, logits: jax.Array, constraints: Constraints
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The 2K best continuations, best first.

    Returns tokens int32 [B, 2K, T], log_probs float32 [B, 2K, T], sums float32 [B, 2K] and the
    beam that each continues, int32 [B, 2K].
    """
    rows, num_beams, vocabulary = logits.shape
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    sums = constraints.apply(log_probs, beams.tokens, beams.step) + beams.sums[:, :, None]
    sums, flat = lax.top_k(sums.reshape(rows, num_beams * vocabulary), 2 * num_beams)
    parents, chosen = jnp.divmod(flat, vocabulary)
    chosen_log_probs = _pick(log_probs.reshape(rows, num_beams * vocabulary), flat, axis=1)
    tokens = _pick(beams.tokens, parents, axis=1).at[:, :, beams.step].set(chosen)
    history = _pick(beams.log_probs, parents, axis=1)
    return tokens, history.at[:, :, beams.step].set(chosen_log_probs), sums, parents


def _merge(kept: Generated, offered: Generated) -> Generated:
    """The K best by score of both, best first; at equal scores those kept before stay."""
    both = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), kept, offered)
    order = lax.top_k(both.scores, kept.scores.shape[1])[1]
    return jax.tree.map(lambda leaf: _pick(leaf, order, axis=1), both)


def _reorder(cache: Cache, parents: jax.Array) -> Cache:
    """Gives every beam the cache of the one it continues; leaves [B, K, ...]."""
    return jax.tree.map(lambda leaf: _pick(leaf, parents, axis=1), cache)


def _pick(array: jax.Array, index: jax.Array, axis: int) -> jax.Array:
    """`take_along_axis` with an index that has no axes behind `axis`."""
    trailing = (1,) * (array.ndim - index.ndim)
    return jnp.take_along_axis(array, index.reshape(index.shape + trailing), axis=axis)
