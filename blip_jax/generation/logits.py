"""What changes next-token scores before a token is chosen. All float32, last axis V."""

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax


@struct.dataclass
class Constraints:
    """What every decoder imposes on its scores (transformers 4.15, `LogitsProcessorList`).

    Attributes:
      prompt: int32 [B, P], padded on the right.
      prompt_length: int32 [B], the first token ([DEC]) included.
      eos_id: the token that ends a text.
      min_new_tokens: `eos_id` is forbidden while fewer tokens than this were generated.
      repetition_penalty: 1 changes nothing; above 1 disfavours every id of the prompt and of
        the text so far, [DEC] included.
    """

    prompt: jax.Array
    prompt_length: jax.Array
    eos_id: int = struct.field(pytree_node=False)
    min_new_tokens: int = struct.field(pytree_node=False)
    repetition_penalty: float = struct.field(pytree_node=False)

    def __post_init__(self):
        if self.repetition_penalty <= 0:
            raise ValueError(
                f"repetition_penalty must be above 0, but it is {self.repetition_penalty}"
            )

    def apply(self, scores: jax.Array, tokens: jax.Array, step: jax.Array) -> jax.Array:
        """Constrains scores float32 [B, K, V] after `step` new tokens of tokens [B, K, T]."""
        if self.repetition_penalty != 1.0:
            seen = self._seen(tokens, step, scores.shape[-1])
            scores = penalize(scores, seen, self.repetition_penalty)
        if self.min_new_tokens > 0:
            is_eos = (jnp.arange(scores.shape[-1]) == self.eos_id)[None, None]
            scores = jnp.where(is_eos & (step < self.min_new_tokens), -jnp.inf, scores)
        return scores

    def _seen(self, tokens: jax.Array, step: jax.Array, vocabulary: int) -> jax.Array:
        """Bool [B, K, V]: the ids in the prompt and in the first `step` new tokens."""
        rows, beams, slots = tokens.shape
        in_prompt = jnp.arange(self.prompt.shape[1])[None] < self.prompt_length[:, None]
        # An id outside the vocabulary is dropped by the scatter, so it marks an empty slot.
        prompt = jnp.where(in_prompt, self.prompt, vocabulary)[:, None]
        prompt = jnp.broadcast_to(prompt, (rows, beams, prompt.shape[2]))
        text = jnp.where((jnp.arange(slots) < step)[None, None], tokens, vocabulary)
        history = jnp.concatenate([prompt, text], axis=2)
        row = jnp.arange(rows)[:, None, None]
        column = jnp.arange(beams)[None, :, None]
        seen = jnp.zeros((rows, beams, vocabulary), bool)
        return seen.at[row, column, history].set(True, mode="drop")


def penalize(scores: jax.Array, seen: jax.Array, penalty: float) -> jax.Array:
    """Repetition penalty (CTRL, section 4.1): seen scores move away from zero or towards it.

    scores float32 and seen bool, both [..., V]: a negative score is multiplied by `penalty`,
    any other divided by it, as transformers' `RepetitionPenaltyLogitsProcessor` does.
    """
    moved = jnp.where(scores < 0, scores * penalty, scores / penalty)
    return jnp.where(seen, moved, scores)


def keep_top_k(scores: jax.Array, top_k: int) -> jax.Array:
    """Sets all but the `top_k` highest scores [..., V] to -inf; ties with the last stay."""
    threshold = lax.top_k(scores, min(top_k, scores.shape[-1]))[0][..., -1:]
    return jnp.where(scores < threshold, -jnp.inf, scores)


def keep_top_p(scores: jax.Array, top_p: float) -> jax.Array:
    """Sets all scores [..., V] outside the nucleus to -inf (Holtzman et al., 2020).

    The nucleus is the most probable tokens up to and with the one that takes their sum above
    `top_p`, as in transformers' `TopPLogitsWarper`; ties with that one stay. It is never empty.

    The least probability that stays is found by halving, bit by bit, without a sort: a token
    stays if those more probable than it sum to `top_p` at most.
    """
    probabilities = jax.nn.softmax(scores, axis=-1)

    def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        value = lax.bitcast_convert_type(middle, jnp.float32)
        above = jnp.where(probabilities > value, probabilities, 0).sum(-1, keepdims=True)
        return jnp.where(above > top_p, middle, low), jnp.where(above > top_p, high, middle)

    # Floats that are not negative are in the order of their bits.
    one = lax.bitcast_convert_type(jnp.float32(1), jnp.int32)
    bounds = (jnp.full((*scores.shape[:-1], 1), start, jnp.int32) for start in (-1, one))
    _, high = lax.fori_loop(0, 30, halve, tuple(bounds))
    least = lax.bitcast_convert_type(high, jnp.float32)
    return jnp.where(probabilities < least, -jnp.inf, scores)
