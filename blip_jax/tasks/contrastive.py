"""What pre-training and retrieval share: momentum teacher, feature queues, ITC and ITM."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from blip_jax import losses
from blip_jax.models.blip import Blip, Params
from blip_jax.models.views import unimodal_part

Batch = dict[str, jax.Array]
Memory = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Contrastive:
    """Settings of ITC and ITM, and the two losses over a batch.

    `group` is the number of consecutive rows among which hard negatives are drawn, 0 for the
    whole batch. `alpha` ramps up linearly over `alpha_ramp_steps`.
    """

    model: Blip
    queue_size: int = 57600
    momentum: float = 0.995
    alpha: float = 0.4
    alpha_ramp_steps: int = 0
    group: int = 0

    def check(self, batch_size: int) -> None:
        """Raises ValueError where the batch cannot be cut into groups of two or more."""
        group = self.group or batch_size
        if group < 2 or batch_size % group:
            raise ValueError(
                f"objective.group {group} must be at least 2 and divide batch_size {batch_size}: "
                "hard negatives are drawn inside groups"
            )

    def init_memory(self, params: Params) -> Memory:
        """The teacher, a copy of the student, and empty queues; none where queue_size is 0."""
        memory = {"teacher": jax.tree.map(jnp.copy, unimodal_part(params))}
        if self.queue_size:
            shape = (self.queue_size, self.model.config.embed_dim)
            memory["queue"] = {
                "image": jnp.zeros(shape),
                "text": jnp.zeros(shape),
                "image_index": jnp.full(self.queue_size, -1, jnp.int32),
                "count": jnp.zeros((), jnp.int32),  # ever enqueued; the pointer is count mod Q
            }
        return memory

    def begin(self, params: Params, memory: Memory) -> Memory:
        """Moves the teacher towards the student.

        Before the losses, not after: the original updates its momentum encoders first in every
        forward.
        """
        student = jax.lax.stop_gradient(unimodal_part(params))
        moved = optax.incremental_update(student, memory["teacher"], 1 - self.momentum)
        return memory | {"teacher": moved}

    def __call__(
        self, params: Params, memory: Memory, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[dict[str, jax.Array], jax.Array, Memory, dict[str, jax.Array]]:
        """ITC and ITM over a batch.

        Args:
          params: the student.
          memory: the teacher, as `begin` left it, and the queues.
          batch: image [B, H, W, 3], input_ids with [CLS] first and attention_mask [B, T],
            image_index int32 [B], equal for pairs of one image.
          rng: dropout and draws of this step.
          step: for the ramp of alpha.

        Returns:
          {"itc", "itm"} losses, the online image tokens [B, S, W], the memory after the step,
          and metrics.
        """
        keys = jax.random.split(rng, 6)
        ids, mask, own = batch["input_ids"], batch["attention_mask"], batch["image_index"]
        temperature = params["temperature"]
        ramp = self.alpha_ramp_steps
        alpha = self.alpha * (jnp.minimum(1.0, step / ramp) if ramp else jnp.ones(()))

        tokens = self.model.image_tokens(params, batch["image"], keys[0])
        image = self.model.image_embeds(params, tokens)
        text = self.model.text_embeds(params, ids, mask, keys[1])
        teacher_image, teacher_text = self.teach(memory["teacher"], batch, keys[2])

        fresh = {"image": teacher_image, "text": teacher_text, "image_index": own}
        candidates = fresh
        if "queue" in memory:
            queue = memory["queue"]
            candidates = {k: jnp.concatenate([v, queue[k]]) for k, v in fresh.items()}
        loss_itc, i2t, t2i = losses.itc(
            image,
            text,
            teacher_image,
            teacher_text,
            candidates["image"],
            candidates["text"],
            own[:, None] == candidates["image_index"][None],
            candidates["image_index"] >= 0,
            temperature,
            alpha,
        )
        in_batch = [jax.lax.stop_gradient(x[:, : ids.shape[0]]) for x in (i2t, t2i)]
        itm, itm_metrics = self.match(params, tokens, batch, in_batch, keys[3:])
        if "queue" in memory:
            memory = memory | {"queue": enqueue(memory["queue"], fresh)}
        metrics = itm_metrics | {
            "alpha": alpha,
            "temperature": temperature,
            "recall_i2t": in_batch_recall(in_batch[0], own),
            "recall_t2i": in_batch_recall(in_batch[1], own),
            "teacher_cosine_image": jnp.mean(jnp.sum(image * teacher_image, -1)),
            "teacher_cosine_text": jnp.mean(jnp.sum(text * teacher_text, -1)),
        }
        return {"itc": loss_itc, "itm": itm}, tokens, memory, metrics

    def teach(self, teacher: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The teacher's image and text features of a batch, two of [B, E]."""
        image_rng, text_rng = jax.random.split(rng)
        tokens = self.model.image_tokens(teacher, batch["image"], image_rng)
        image = self.model.image_embeds(teacher, tokens)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        text = self.model.text_embeds(teacher, ids, mask, text_rng)
        return jax.lax.stop_gradient(image), jax.lax.stop_gradient(text)

    def match(
        self,
        params: Params,
        tokens: jax.Array,
        batch: Batch,
        in_batch: list[jax.Array],
        keys: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """ITM over each pair, its text with a hard image, and its image with a hard text."""
        mask, own = batch["attention_mask"], batch["image_index"]
        ids = batch["input_ids"].at[:, 0].set(self.model.config.text.enc_id)
        size = ids.shape[0]
        same = own[:, None] == own[None]
        group = self.group or size
        i2t, t2i = in_batch
        hard_image, has_image = losses.hard_negatives(keys[0], t2i, same, group)
        hard_text, has_text = losses.hard_negatives(keys[1], i2t, same, group)
        images = beside(tokens, pick(tokens, hard_image, group), tokens)
        texts = beside(ids, ids, pick(ids, hard_text, group))
        masks = beside(mask, mask, pick(mask, hard_text, group))
        logits = self.model.match_logits(params, images, texts, masks, keys[2])
        labels = jnp.tile(jnp.array([1, 0, 0]), size)
        weights = beside(jnp.ones(size), has_image, has_text)
        loss = losses.itm(logits, labels, weights)
        hit = (jnp.argmax(logits, -1) == labels).astype(jnp.float32).reshape(size, 3)
        negatives = weights.reshape(size, 3)[:, 1:]
        return loss, {
            "itm_accuracy_match": jnp.mean(hit[:, 0]),
            "itm_accuracy_mismatch": jnp.sum(hit[:, 1:] * negatives)
            / jnp.maximum(jnp.sum(negatives), 1),
            "itm_below_chance": losses.ITM_CHANCE - loss,
        }


def pick(x: jax.Array, index: jax.Array, group: int) -> jax.Array:
    """Rows of x [B, ...] by indices [B] into each row's own group.

    Taken group by group, so that a device that has whole groups asks no other for rows.
    """
    rows, local = x.reshape(-1, group, *x.shape[1:]), index.reshape(-1, group) % group
    return jax.vmap(lambda row, i: row[i])(rows, local).reshape(x.shape)


def beside(*parts: jax.Array) -> jax.Array:
    """N arrays [B, ...] -> [B * N, ...], a row's N together: each device keeps its rows."""
    return jnp.stack(parts, 1).reshape(-1, *parts[0].shape[1:])


def enqueue(queue: Memory, fresh: dict[str, jax.Array]) -> Memory:
    """First in, first out, for any batch and queue size: slots are counted modulo Q.

    `fresh` holds the batch's image and text features [B, E] and its image_index [B].
    """
    size, rows = queue["image_index"].shape[0], fresh["image_index"].shape[0]
    count = queue["count"] + rows
    kept = min(size, rows)  # a batch longer than the queue leaves its last rows
    slots = (count - kept + jnp.arange(kept)) % size
    updated = {name: queue[name].at[slots].set(new[-kept:]) for name, new in fresh.items()}
    return updated | {"count": count}


def in_batch_recall(logits: jax.Array, image_index: jax.Array) -> jax.Array:
    """Share of rows whose best candidate in the batch is of their own image."""
    return jnp.mean(image_index[jnp.argmax(logits, -1)] == image_index)
