"""Captioning: LM after a prompt (`models/blip.py`). CapFilt's captioner is made by it."""

import dataclasses

import jax
from ml_collections import ConfigDict

from blip_jax import losses
from blip_jax.config import BlipConfig
from blip_jax.data.examples import ImageText, ImageTextOptions
from blip_jax.data.pipeline import image_batches
from blip_jax.data.records import Records
from blip_jax.files import Progress, silent
from blip_jax.inference.caption import CaptionOptions, seed_keys, write_captions
from blip_jax.metrics.bleu import bleu
from blip_jax.metrics.cider import cider
from blip_jax.metrics.tokenize import tokenize
from blip_jax.model import Model
from blip_jax.models.blip import Blip, Params
from blip_jax.tasks.contrastive import Batch, Memory
from blip_jax.tokenizer import Tokenizer


def objective(blip: Blip, settings: ConfigDict) -> "Caption":
    """LM after the prompt."""
    return Caption(blip)


def reader(tokenizer: Tokenizer, model: BlipConfig, data: ConfigDict) -> ImageText:
    """Captions after the model's prompt; `data` holds the other `ImageTextOptions`."""
    size, prompt = model.vision.image_size, model.conventions.prompt
    options = ImageTextOptions(image_size=size, prompt=prompt, **data.to_dict())
    return ImageText(tokenizer, options)


@dataclasses.dataclass(frozen=True)
class Caption:
    """LM over prompt and caption; `prompt_length` tokens, the first among them, are given."""

    model: Blip

    def check(self, batch_size: int) -> None:
        """Any batch will do."""

    def init_memory(self, params: Params) -> Memory:
        """Captioning remembers nothing between steps."""
        return {}

    def begin(self, params: Params, memory: Memory) -> Memory:
        """Nothing moves."""
        return memory

    def loss(
        self, params: Params, memory: Memory, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[Memory, dict[str, jax.Array]]]:
        """LM loss; the memory, unchanged; metrics."""
        image_rng, text_rng = jax.random.split(rng)
        mask = batch["attention_mask"]
        ids = batch["input_ids"].at[:, 0].set(self.model.config.text.dec_id)
        tokens = self.model.image_tokens(params, batch["image"], image_rng)
        logits = self.model.lm_logits(params, tokens, ids, mask, text_rng)
        loss = losses.lm(logits, ids, mask, batch["prompt_length"])
        return loss, (memory, {"loss_lm": loss})


def evaluate(
    model: Model,
    records: Records,
    options: CaptionOptions,
    batch_size: int = 64,
    progress: Progress = silent,
) -> tuple[dict[str, float], list[str]]:
    """Captions every readable image and compares with its references.

    Returns:
      CIDEr and BLEU-4 as fractions, over the readable images, and one caption a record ("" where
      the image was broken).

    Raises:
      ValueError: no image could be read.
    """
    written: list[str] = []
    readable: list[bool] = []
    size = model.config.vision.image_size
    for images, status, chosen in image_batches(records, size, batch_size):
        keys = seed_keys(range(len(chosen)))
        captions, _ = write_captions(model, images, keys, options)
        texts = [row[0] for row in captions]
        ok = [s == "ok" for s in status]
        written += [text if fine else "" for text, fine in zip(texts, ok, strict=False)]
        readable += ok
        progress(len(written), len(records))
    if not any(readable):
        raise ValueError(f"none of the {len(records)} images to caption could be read")
    seen = [(w, r) for w, r, fine in zip(written, records, readable, strict=True) if fine]
    candidates = [tokenize(w) for w, _ in seen]
    references = [[tokenize(c) for c in r.captions] for _, r in seen]
    scores = {"cider": cider(candidates, references)[0], "bleu4": bleu(candidates, references)[3]}
    return scores, written
