"""Nucleus sampling (Holtzman et al., 2020), what CapFilt captions with (paper section 4.3)."""

import jax
import jax.numpy as jnp

from blip_jax.generation.greedy import Cache, Decode, Generated, decode_texts
from blip_jax.generation.logits import Constraints, keep_top_k, keep_top_p


def nucleus(
    decode: Decode,
    logits: jax.Array,
    cache: Cache,
    prompt: jax.Array,
    prompt_length: jax.Array,
    *,
    keys: jax.Array,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    min_new_tokens: int = 0,
    repetition_penalty: float = 1.0,
    top_p: float = 0.9,
    top_k: int = 0,
    num_samples: int = 1,
) -> Generated:
    """Samples from the smallest set of tokens whose probability exceeds `top_p`.

    The order is that of transformers 4.15's `sample`: repetition penalty and minimum length on
    the raw logits, then `top_k`, then `top_p`. The original BLIP also ran with top_k 50, the
    default of its transformers, which its paper does not mention.

    A sample depends on its row's key and its own number alone: neither the rest of the batch
    nor `num_samples` changes it.

    Args:
      keys: typed PRNG keys [B], one a row.
      top_p: probability in (0, 1] that the nucleus must exceed.
      top_k: tokens kept before the nucleus is taken; 0 keeps all.
      num_samples: K, independent texts of each row.

    The others are those of `greedy`.

    Returns:
      Generated with K = num_samples and scores the sum of log_probs.

    Raises:
      ValueError: top_p, top_k, num_samples or what `greedy` checks is out of range.
      TypeError: keys are not typed keys, one a row.
    """
    if not 0.0 < top_p <= 1.0:
        raise ValueError(f"top_p must be above 0 and at most 1, but it is {top_p}")
    if top_k < 0:
        raise ValueError(f"top_k must be 0 or more, but it is {top_k}")
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, but it is {num_samples}")
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.shape != logits.shape[:1]:
        raise TypeError(
            f"keys must be {logits.shape[0]} typed PRNG keys, one a row, but they are "
            f"{keys.dtype} {keys.shape}"
        )

    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    sample_keys = fold(keys, jnp.arange(num_samples))

    def choose(scores: jax.Array, step: jax.Array) -> jax.Array:
        def draw(key: jax.Array, scores: jax.Array) -> jax.Array:
            return jax.random.categorical(jax.random.fold_in(key, step), scores)

        if top_k:
            scores = keep_top_k(scores, top_k)
        if top_p < 1:
            scores = keep_top_p(scores, top_p)
        return jax.vmap(jax.vmap(draw))(sample_keys, scores).astype(jnp.int32)

    return decode_texts(
        decode,
        logits,
        cache,
        Constraints(prompt, prompt_length, eos_id, min_new_tokens, repetition_penalty),
        choose,
        num_texts=num_samples,
        max_new_tokens=max_new_tokens,
        pad_id=pad_id,
    )
