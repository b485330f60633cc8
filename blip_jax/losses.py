"""The objectives of BLIP: arrays in, float32 scalars out (paper section 3.2).

B pairs, Q queue slots, E joint width, T text tokens, V vocabulary.
"""

import jax
import jax.numpy as jnp

ITM_CHANCE = 0.6365  # nats: entropy of one match to two mismatches, what a blind head can reach
HARD_NEGATIVE_FLOOR = 1e-4  # the original adds it to every weight; it keeps the draw possible


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over rows of -sum(targets * log_softmax(logits)); both [B, N]."""
    return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits, axis=-1), axis=-1))


def itc_targets(teacher_logits: jax.Array, positives: jax.Array, alpha: jax.Array) -> jax.Array:
    """Soft targets [B, N]: alpha * softmax(teacher) + (1 - alpha) * ground truth.

    `positives` (bool [B, N]) marks every candidate of the row's own image; the truth is spread
    evenly over them, as the original's retrieval model does (`models/blip_retrieval.py`).
    """
    truth = positives / jnp.sum(positives, axis=-1, keepdims=True)
    return alpha * jax.nn.softmax(teacher_logits, axis=-1) + (1 - alpha) * truth


def itc(
    image: jax.Array,
    text: jax.Array,
    teacher_image: jax.Array,
    teacher_text: jax.Array,
    candidate_image: jax.Array,
    candidate_text: jax.Array,
    positives: jax.Array,
    filled: jax.Array,
    temperature: jax.Array,
    alpha: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Image-text contrastive loss with momentum distillation (`models/blip_pretrain.py`).

    Args:
      image, text: online features [B, E], unit length.
      teacher_image, teacher_text: momentum features [B, E].
      candidate_image, candidate_text: momentum features of the batch, then the queue
        [B + Q, E].
      positives: bool [B, B + Q].
      filled: bool [B + Q]; False for queue slots nothing was ever written to.
      temperature: scalar that divides every similarity, the teacher's too.
      alpha: scalar, weight of the teacher's opinion.

    Returns:
      The loss and the logits image-to-text and text-to-image [B, B + Q].
    """

    def logits(features: jax.Array, candidates: jax.Array) -> jax.Array:
        similarity = features @ candidates.T / temperature
        return jnp.where(filled[None], similarity, jnp.finfo(jnp.float32).min)

    i2t, t2i = logits(image, candidate_text), logits(text, candidate_image)
    teacher_i2t = logits(teacher_image, candidate_text)
    teacher_t2i = logits(teacher_text, candidate_image)
    targets_i2t, targets_t2i = (
        jax.lax.stop_gradient(itc_targets(t, positives, alpha)) for t in (teacher_i2t, teacher_t2i)
    )
    loss = (soft_cross_entropy(i2t, targets_i2t) + soft_cross_entropy(t2i, targets_t2i)) / 2
    return loss, i2t, t2i


def hard_negatives(
    rng: jax.Array, logits: jax.Array, same: jax.Array, group: int
) -> tuple[jax.Array, jax.Array]:
    """Draws for each row another pair of its group, with probability softmax(logits) + 1e-4.

    Groups are `group` consecutive rows: the original's batch of one GPU, whatever the number of
    devices here, so the draw does not depend on it.

    Args:
      rng: key of the draw.
      logits: [B, B], in-batch similarities over temperature.
      same: bool [B, B], pairs of one image, which are no negatives of each other.
      group: rows a group; divides B.

    Returns:
      Indices [B] into the batch, and bool [B]: False where a row had no candidate (its index is
      then its own, to be left out of the loss).
    """
    size = logits.shape[0]
    groups = jnp.arange(size // group)

    def within(x: jax.Array) -> jax.Array:  # [B, B] -> diagonal blocks [B / G, G, G]
        return x.reshape(size // group, group, size // group, group)[groups, :, groups]

    allowed = ~within(same)
    weights = jax.nn.softmax(within(logits), axis=-1) + HARD_NEGATIVE_FLOOR
    # A finite floor, not -inf: a row without candidates must stay a number.
    log_weights = jnp.where(allowed, jnp.log(weights), jnp.finfo(jnp.float32).min)
    drawn = jax.random.categorical(rng, log_weights, axis=-1)
    index = (drawn + groups[:, None] * group).reshape(size)
    possible = jnp.any(allowed, axis=-1).reshape(size)
    return jnp.where(possible, index, jnp.arange(size)), possible


def itm(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """Image-text matching: weighted mean cross-entropy. [N, 2], int [N], [N] -> scalar."""
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    nll = -jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0]
    return jnp.sum(nll * weights) / jnp.maximum(jnp.sum(weights), 1)


def lm(
    logits: jax.Array,
    input_ids: jax.Array,
    attention_mask: jax.Array,
    prompt_length: jax.Array | None = None,
    smoothing: float = 0.1,
) -> jax.Array:
    """Language modelling: smoothed next-token cross-entropy, mean over the tokens that count.

    Args:
      logits: [B, T, V] at every input position.
      input_ids, attention_mask: int [B, T].
      prompt_length: int [B], leading tokens ([DEC] included) that are given, not learnt.
      smoothing: of `smoothed_nll`.
    """
    loss = smoothed_nll(logits[:, :-1], input_ids[:, 1:], smoothing)
    counts = attention_mask[:, 1:].astype(jnp.float32)
    if prompt_length is not None:
        counts = counts * (jnp.arange(1, input_ids.shape[1])[None] >= prompt_length[:, None])
    return jnp.sum(loss * counts) / jnp.maximum(jnp.sum(counts), 1)


def smoothed_nll(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """Label-smoothed negative log-likelihood of labels [...] under logits [..., V].

    torch's smoothing: (1 - e) * nll + e / V * sum(-log p) (`models/med.py`, BertLMHeadModel).
    Logits of -inf pad the vocabulary, and do not count in V.
    """
    logits = logits.astype(jnp.float32)
    right = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    mean = jnp.mean(logits, axis=-1, where=logits > -jnp.inf)
    # What both terms have of the log-partition adds up to all of it.
    return jax.nn.logsumexp(logits, axis=-1) - (1 - smoothing) * right - smoothing * mean


def vqa(
    logits: jax.Array,
    input_ids: jax.Array,
    attention_mask: jax.Array,
    weights: jax.Array,
    images: int,
    smoothing: float = 0.1,
) -> jax.Array:
    """Weighted answers: the sum of each answer's smoothed loss, weighed, over the images.

    As the original's `models/blip_vqa.py`; rare answers of one question weigh less.

    Args:
      logits: [A, T, V] of all answers of a batch, [DEC] first.
      input_ids, attention_mask: int [A, T].
      weights: [A], share of each answer among its question's.
      images: how many the answers belong to.
      smoothing: of `smoothed_nll`.
    """
    loss = smoothed_nll(logits[:, :-1], input_ids[:, 1:], smoothing)
    per_answer = jnp.sum(loss * attention_mask[:, 1:].astype(jnp.float32), axis=-1)
    return jnp.sum(weights * per_answer) / images
