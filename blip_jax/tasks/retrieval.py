"""Retrieval fine-tuning: ITC + ITM with many texts an image. CapFilt's filter is made by it."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from blip_jax.config import BlipConfig
from blip_jax.data.examples import ImageText, ImageTextOptions
from blip_jax.data.record import Record
from blip_jax.data.records import read_json
from blip_jax.files import Progress, silent
from blip_jax.inference.match import among_best
from blip_jax.inference.pixels import Pixels
from blip_jax.metrics.classification import roc_auc
from blip_jax.metrics.retrieval import retrieval_recall
from blip_jax.model import Model
from blip_jax.models.blip import Blip, Params
from blip_jax.tasks.contrastive import Batch, Contrastive, Memory
from blip_jax.tasks.evaluation import Evaluation
from blip_jax.tasks.search import (
    Gallery,
    Searched,
    Texts,
    evaluate_search,
    match_score,
    match_wanted,
)
from blip_jax.tokenizer import Tokenizer


def objective(blip: Blip, settings: ConfigDict) -> "Retrieval":
    """With the settings of `settings.objective`; see `Contrastive`."""
    return Retrieval(Contrastive(blip, **settings.objective.to_dict()))


def reader(tokenizer: Tokenizer, model: BlipConfig, data: ConfigDict) -> ImageText:
    """Image-text pairs; `data` holds the other `ImageTextOptions`."""
    size = model.vision.image_size
    return ImageText(tokenizer, ImageTextOptions(image_size=size, **data.to_dict()))


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """The objective of the original's `models/blip_retrieval.py`. The batch is Contrastive's."""

    contrastive: Contrastive

    def check(self, batch_size: int) -> None:
        """Raises ValueError for a batch size the objective cannot use."""
        self.contrastive.check(batch_size)

    def init_memory(self, params: Params) -> Memory:
        """A fresh teacher and empty queues: stale features of pre-training are no negatives."""
        return self.contrastive.init_memory(params)

    def begin(self, params: Params, memory: Memory) -> Memory:
        """Moves the teacher."""
        return self.contrastive.begin(params, memory)

    def loss(
        self, params: Params, memory: Memory, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[Memory, dict[str, jax.Array]]]:
        """ITC + ITM; the memory after the step; metrics."""
        parts, _, memory, metrics = self.contrastive(params, memory, batch, rng, step)
        metrics |= {f"loss_{name}": value for name, value in parts.items()}
        return parts["itc"] + parts["itm"], (memory, metrics)


def evaluate(model: Model, config: ConfigDict, progress: Progress = silent) -> Evaluation:
    """Searches the images of a BLIP JSON list by its captions and the captions by its images.

    Args:
      config: annotations, image_root, and what `evaluate_search` takes.

    Returns:
      tr_*, image to text, and ir_*, text to image, as `evaluate_search` names them.

    Raises:
      ValueError: no list of images with captions, none of which can be opened, or a setting that
        means nothing.
    """
    records = read_json(config.annotations, config.image_root or None)
    own = by_image(records)
    pixels = Pixels([record.image for record in own], model.config.vision.image_size)
    rows = [Searched(record.captions, (record.image,)) for record in own]
    found = evaluate_search(model, pixels, rows, ("tr", "ir"), config, progress)
    return dataclasses.replace(found, skipped=dict(records.skipped) | found.skipped)


def by_image(records: Sequence[Record]) -> list[Record]:
    """The records of one image_id as one, with all their captions; the first says the rest."""
    merged: dict[str, Record] = {}
    for record in records:
        if first := merged.get(record.image_id):
            record = dataclasses.replace(first, captions=first.captions + record.captions)
        merged[record.image_id] = record
    return list(merged.values())


def measure(
    model: Model,
    records: Sequence[Record],
    *,
    max_tokens: int = 30,
    top_k: int = 16,
    batch_size: int = 64,
    progress: Progress = silent,
) -> dict[str, float]:
    """The figures that the rounds of a bootstrap are compared by.

    The re-ranked score is the original's, match logit plus cosine; a pair that either side has
    among its top k counts for both, and all others come last.

    Returns:
      Fractions: itc_* and itm_* of `retrieval_recall`; match_auc and match_accuracy over each
      image's first text against the first text of the next image.
    """
    records = by_image(records)
    pixels = Pixels([record.image for record in records], model.config.vision.image_size)
    gallery = Gallery.open(model, pixels, batch_size)
    captions = [records[number].captions for number in gallery.numbers]
    texts = Texts.encode(model, captions, max_tokens, 4 * batch_size)
    cosine = gallery.embeds @ texts.embeds.T

    wanted = among_best(cosine, top_k) | among_best(cosine.T, top_k).T
    judged = wanted.copy()
    images = np.arange(len(captions))
    right = np.unique(texts.image, return_index=True)[1]  # each image's first text
    wrong = np.roll(right, -1)
    for first in (right, wrong):
        judged[images, first] = True
    logits = match_wanted(model, gallery, texts, judged, batch_size, progress)
    reranked = np.where(wanted, match_score(logits, cosine), -100.0)
    margin = np.concatenate([logits[images, first] for first in (right, wrong)])
    margin = margin[:, 1] - margin[:, 0]
    labels = np.repeat([1, 0], len(captions))
    recall = {
        f"{name}_{key}": value
        for name, scores in (("itc", cosine), ("itm", reranked))
        for key, value in retrieval_recall(scores, texts.image).items()
    }
    return recall | {
        "match_auc": roc_auc(margin, labels),
        "match_accuracy": float(np.mean((margin > 0) == labels)),
    }
