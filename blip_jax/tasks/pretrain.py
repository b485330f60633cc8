"""Pre-training: ITC + ITM + LM over image-text pairs, equally weighted (`pretrain.py`)."""

import dataclasses

import jax
from ml_collections import ConfigDict

from blip_jax import losses
from blip_jax.config import BlipConfig
from blip_jax.data.examples import ImageText, ImageTextOptions
from blip_jax.models.blip import Blip, Params
from blip_jax.tasks.contrastive import Batch, Contrastive, Memory
from blip_jax.tokenizer import Tokenizer


def objective(blip: Blip, settings: ConfigDict) -> "Pretrain":
    """With the settings of `settings.objective`; see `Contrastive`."""
    return Pretrain(Contrastive(blip, **settings.objective.to_dict()))


def reader(tokenizer: Tokenizer, model: BlipConfig, data: ConfigDict) -> ImageText:
    """Image-text pairs; `data` holds the other `ImageTextOptions`."""
    size = model.vision.image_size
    return ImageText(tokenizer, ImageTextOptions(image_size=size, **data.to_dict()))


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """The joint objective; the batch is Contrastive's."""

    contrastive: Contrastive

    def check(self, batch_size: int) -> None:
        """Raises ValueError for a batch size the objective cannot use."""
        self.contrastive.check(batch_size)

    def init_memory(self, params: Params) -> Memory:
        """Teacher and queues."""
        return self.contrastive.init_memory(params)

    def begin(self, params: Params, memory: Memory) -> Memory:
        """Moves the teacher."""
        return self.contrastive.begin(params, memory)

    def loss(
        self, params: Params, memory: Memory, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[Memory, dict[str, jax.Array]]]:
        """Sum of the three losses; the memory after the step; metrics."""
        rng, lm_rng = jax.random.split(rng)
        parts, tokens, memory, metrics = self.contrastive(params, memory, batch, rng, step)
        model, mask = self.contrastive.model, batch["attention_mask"]
        ids = batch["input_ids"].at[:, 0].set(model.config.text.dec_id)
        logits = model.lm_logits(params, tokens, ids, mask, lm_rng)
        parts["lm"] = losses.lm(logits, ids, mask)
        loss = parts["itc"] + parts["itm"] + parts["lm"]
        metrics |= {f"loss_{name}": value for name, value in parts.items()}
        return loss, (memory, metrics)
