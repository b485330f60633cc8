"""Retrieval fine-tuning: ITC + ITM with many texts an image. CapFilt's filter is made by it."""

import dataclasses
import functools

import jax
import numpy as np
from ml_collections import ConfigDict

from blip_jax.config import BlipConfig
from blip_jax.data.examples import ImageText, ImageTextOptions
from blip_jax.data.pipeline import image_batches
from blip_jax.data.records import Records
from blip_jax.data.text import pre_caption
from blip_jax.files import Progress, silent
from blip_jax.inference.batching import batches
from blip_jax.inference.embed import encode_images, encode_texts
from blip_jax.metrics.classification import roc_auc
from blip_jax.metrics.retrieval import retrieval_recall
from blip_jax.model import Model
from blip_jax.models.blip import Blip, Params
from blip_jax.tasks.contrastive import Batch, Contrastive, Memory
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


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Images and texts of an evaluation, encoded once. N images, M texts."""

    tokens: np.ndarray  # [N, S, W]
    image: np.ndarray  # [N, E], unit
    text: np.ndarray  # [M, E], unit
    ids: np.ndarray  # [M, T], [ENC] first
    mask: np.ndarray  # [M, T]
    text_image: np.ndarray  # [M], the image that each text describes


def encode(model: Model, records: Records, max_tokens: int, batch_size: int) -> Gallery:
    """Runs both towers over the readable images and all their captions."""
    tokens: list[np.ndarray] = []
    image: list[np.ndarray] = []
    texts: list[str] = []
    owners: list[int] = []
    for pixels, status, chosen in image_batches(
        records, model.config.vision.image_size, batch_size
    ):
        ok = [i for i, s in enumerate(status) if s == "ok"]
        new_tokens, new_image = encode_images(model.blip, model.on_device, pixels)
        for i in ok:
            texts += [pre_caption(c) for c in chosen[i].captions]
            owners += [len(tokens)] * len(chosen[i].captions)
            tokens.append(np.asarray(new_tokens[i]))
            image.append(np.asarray(new_image[i]))
    ids, mask = model.tokenizer.encode(texts, max_length=max_tokens)
    text = [
        np.asarray(encode_texts(model.blip, model.on_device, ids[rows], mask[rows]))[:count]
        for rows, count in batches(len(ids), 4 * batch_size)
    ]
    ids[:, 0] = model.config.text.enc_id
    return Gallery(
        np.stack(tokens), np.stack(image), np.concatenate(text), ids, mask, np.asarray(owners)
    )


def evaluate(
    model: Model,
    records: Records,
    *,
    max_tokens: int = 30,
    top_k: int = 16,
    batch_size: int = 64,
    progress: Progress = silent,
) -> dict[str, float]:
    """Recall by ITC alone and after ITM over its top k, and how well ITM tells right from wrong.

    The re-ranked score is the original's (`train_retrieval.py`): match logit plus cosine.

    Returns:
      Fractions: itc_* and itm_* of `retrieval_recall`; match_auc and match_accuracy over each
      image's first text against the first text of the next image.
    """
    gallery = encode(model, records, max_tokens, batch_size)
    cosine = gallery.image @ gallery.text.T
    match = functools.partial(match_pairs, model, gallery, batch_size=4 * batch_size)
    recall = {f"itc_{k}": v for k, v in retrieval_recall(cosine, gallery.text_image).items()}

    i2t = top_pairs(cosine, top_k)
    t2i = top_pairs(cosine.T, top_k)[:, ::-1]
    pairs = np.unique(np.concatenate([i2t, t2i]), axis=0)
    reranked = np.full(cosine.shape, -100.0)
    logits = match(pairs, progress=progress)
    reranked[tuple(pairs.T)] = logits[:, 1] + cosine[tuple(pairs.T)]
    recall |= {f"itm_{k}": v for k, v in retrieval_recall(reranked, gallery.text_image).items()}

    first = np.unique(gallery.text_image, return_index=True)[1]
    images = np.arange(len(first))
    right, wrong = (np.stack([images, t], 1) for t in (first, np.roll(first, -1)))
    scores = match(np.concatenate([right, wrong]))
    margin, labels = scores[:, 1] - scores[:, 0], np.repeat([1, 0], len(first))
    return recall | {
        "match_auc": roc_auc(margin, labels),
        "match_accuracy": float(np.mean((margin > 0) == labels)),
    }


def top_pairs(scores: np.ndarray, k: int) -> np.ndarray:
    """(row, column) of the k best columns of every row; k is clipped to the columns there are."""
    k = min(k, scores.shape[1])
    columns = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    rows = np.repeat(np.arange(len(scores)), k)
    return np.stack([rows, columns.reshape(-1)], 1)


def match_pairs(
    model: Model, gallery: Gallery, pairs: np.ndarray, batch_size: int, progress: Progress = silent
) -> np.ndarray:
    """(image, text) index pairs [P, 2] -> ITM logits [P, 2]."""
    logits = []
    for rows, count in batches(len(pairs), batch_size):
        image, text = pairs[rows].T
        batch = (gallery.tokens[image], gallery.ids[text], gallery.mask[text])
        logits.append(np.asarray(match_logits(model.blip, model.on_device, *batch))[:count])
        progress(int(rows[-1]) + 1, len(pairs))
    return np.concatenate(logits)


match_logits = jax.jit(Blip.match_logits, static_argnums=0)
