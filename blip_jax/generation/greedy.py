"""Greedy decoding, and the loop for texts of a row that do not compete with each other."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from blip_jax.generation.logits import Constraints

Cache = Any  # a pytree whose leaves are all [B, K, ...]
# (tokens int32 [B, K], position int32 [B], cache) -> (logits float32 [B, K, V], cache)
Decode = Callable[[jax.Array, jax.Array, Cache], tuple[jax.Array, Cache]]
# (constrained scores float32 [B, K, V], step int32 []) -> tokens int32 [B, K]
Choose = Callable[[jax.Array, jax.Array], jax.Array]


@struct.dataclass
class Generated:
    """K texts for each of B rows, at most T new tokens each.

    Attributes:
      tokens: int32 [B, K, T], new tokens only; the end token is included, padding follows it.
      lengths: int32 [B, K], tokens before the padding, the end token included.
      log_probs: float32 [B, K, T] in nats, what the model itself gives each token, before
        penalties and filters; 0 at padding.
      scores: float32 [B, K]; the sum of log_probs, or the beam score after length penalty.
    """

    tokens: jax.Array
    lengths: jax.Array
    log_probs: jax.Array
    scores: jax.Array


@struct.dataclass
class Texts:
    """State of `decode_texts`.

    Attributes:
      step: int32 [], new tokens written so far.
      tokens: int32 [B, K, T], `pad_id` where nothing is written.
      log_probs: float32 [B, K, T], the model's log-probability of each token.
      lengths: int32 [B, K], tokens written before the text ended.
      finished: bool [B, K], the text has its end token.
      cache: the model's, leaves [B, K, ...]; it lacks the newest token.
    """

    step: jax.Array
    tokens: jax.Array
    log_probs: jax.Array
    lengths: jax.Array
    finished: jax.Array
    cache: Cache


def greedy(
    decode: Decode,
    logits: jax.Array,
    cache: Cache,
    prompt: jax.Array,
    prompt_length: jax.Array,
    *,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    min_new_tokens: int = 0,
    repetition_penalty: float = 1.0,
) -> Generated:
    """The most probable token at every step (transformers 4.15, `greedy_search`).

    Args:
      decode: feeds tokens [B, K] at absolute position [B]; next-token logits and the cache.
        The highest position it is fed is prompt_length + max_new_tokens - 2.
      logits: float32 [B, V], next-token logits after each row's prompt.
      cache: leaves [B, 1, ...], filled with the prompt.
      prompt: int32 [B, P], padded on the right.
      prompt_length: int32 [B], the first token included.
      max_new_tokens: T, the end token included.
      eos_id: the token that ends a text.
      pad_id: what fills `tokens` behind the end token.
      min_new_tokens: tokens before the end token is allowed.
      repetition_penalty: on the raw logits of every id in the prompt and the text so far.

    Returns:
      Generated with K = 1 and scores the sum of log_probs.

    Raises:
      ValueError: max_new_tokens is below 1 or repetition_penalty is not above 0.
    """
    return decode_texts(
        decode,
        logits,
        cache,
        Constraints(prompt, prompt_length, eos_id, min_new_tokens, repetition_penalty),
        lambda scores, step: jnp.argmax(scores, axis=-1).astype(jnp.int32),
        num_texts=1,
        max_new_tokens=max_new_tokens,
        pad_id=pad_id,
    )


def decode_texts(
    decode: Decode,
    logits: jax.Array,
    cache: Cache,
    constraints: Constraints,
    choose: Choose,
    *,
    num_texts: int,
    max_new_tokens: int,
    pad_id: int,
) -> Generated:
    """Decodes `num_texts` texts a row, each token picked by `choose`; arguments as `greedy`."""
    check_max_new_tokens(max_new_tokens)

    def append(texts: Texts, logits: jax.Array) -> Texts:
        scores = constraints.apply(logits, texts.tokens, texts.step)
        chosen = choose(scores, texts.step)
        token = jnp.where(texts.finished, pad_id, chosen)
        log_prob = jnp.where(texts.finished, 0.0, log_prob_of(logits, chosen))
        return dataclasses.replace(
            texts,
            step=texts.step + 1,
            tokens=texts.tokens.at[:, :, texts.step].set(token),
            log_probs=texts.log_probs.at[:, :, texts.step].set(log_prob),
            lengths=texts.lengths + ~texts.finished,
            finished=texts.finished | (chosen == constraints.eos_id),
        )

    def extend(texts: Texts) -> Texts:
        token = lax.dynamic_index_in_dim(texts.tokens, texts.step - 1, axis=2, keepdims=False)
        position = constraints.prompt_length + texts.step - 1
        logits, cache = decode(token, position, texts.cache)
        return append(dataclasses.replace(texts, cache=cache), logits)

    shape = (logits.shape[0], num_texts)
    texts = Texts(
        step=jnp.int32(0),
        tokens=jnp.full((*shape, max_new_tokens), pad_id, jnp.int32),
        log_probs=jnp.zeros((*shape, max_new_tokens), jnp.float32),
        lengths=jnp.zeros(shape, jnp.int32),
        finished=jnp.zeros(shape, bool),
        cache=expand_cache(cache, num_texts),
    )
    # The prompt's own logits choose the first token, so T tokens cost T - 1 calls of decode.
    texts = append(texts, expand_logits(logits, num_texts))
    texts = lax.while_loop(
        lambda texts: (texts.step < max_new_tokens) & ~jnp.all(texts.finished), extend, texts
    )
    scores = jnp.sum(texts.log_probs, axis=-1)
    return Generated(texts.tokens, texts.lengths, texts.log_probs, scores)


def check_max_new_tokens(max_new_tokens: int) -> None:
    """Raises ValueError where there is nothing to generate."""
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, but it is {max_new_tokens}")


def log_prob_of(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Log-probability float32 [B, K] that logits [B, K, V] give to tokens [B, K]."""
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    return jnp.take_along_axis(log_probs, tokens[:, :, None], axis=2)[:, :, 0]


def expand_logits(logits: jax.Array, beams: int) -> jax.Array:
    """[B, V] to float32 [B, K, V]."""
    rows, vocabulary = logits.shape
    logits = logits.astype(jnp.float32)[:, None]
    return jnp.broadcast_to(logits, (rows, beams, vocabulary))


def expand_cache(cache: Cache, beams: int) -> Cache:
    """Leaves [B, 1, ...] to [B, K, ...]."""
    return jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (len(leaf), beams, *leaf.shape[2:])), cache
    )
