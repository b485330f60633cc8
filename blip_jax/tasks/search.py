"""Search in two stages: ITC ranks everything, ITM ranks the best again (`train_retrieval.py`)."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from blip_jax.data.images import ImageError
from blip_jax.data.text import pre_caption
from blip_jax.files import Progress
from blip_jax.inference.batching import encode
from blip_jax.inference.embed import embed_ids, embed_images
from blip_jax.inference.match import among_best, pair_logits
from blip_jax.inference.pixels import Pixels
from blip_jax.inference.trained import Trained
from blip_jax.metrics.interval import median
from blip_jax.metrics.retrieval import NEVER, ranks, reciprocal_ranks
from blip_jax.model import Model
from blip_jax.tasks.evaluation import Evaluation, Example, Score, score

log = logging.getLogger(__name__)

QUERIES = 256  # ranked at once
BEHIND = 1e6  # more than any logit


@dataclasses.dataclass(frozen=True)
class Gallery:
    """The images, or videos, that can be opened, embedded once; tokens are not kept.

    Attributes:
      pixels: N of them, to be opened again.
      numbers: [N], which of those given they are.
      embeds: unit vectors [N, E].
    """

    pixels: Pixels
    numbers: list[int]
    embeds: np.ndarray

    @classmethod
    def open(cls, model: Trained, pixels: Pixels, batch_size: int) -> "Gallery":
        """Raises ValueError where nothing can be opened."""
        numbers: list[int] = []
        embeds: list[np.ndarray] = []
        for start in range(0, len(pixels), batch_size):
            rows = range(start, min(start + batch_size, len(pixels)))
            images = []
            for row, found in zip(rows, pixels.try_open(rows), strict=True):
                if isinstance(found, ImageError):
                    log.warning("skipped: %s", found)
                    first = found
                else:
                    numbers.append(row)
                    images.append(found)
            if images:
                embeds.append(embed_images(model, np.stack(images), batch_size))
        if not embeds:
            raise ValueError(f"none of the {len(pixels)} can be opened: {first}")
        return cls(pixels.only(numbers), numbers, np.concatenate(embeds))


@dataclasses.dataclass(frozen=True)
class Texts:
    """M texts, each of one image of a gallery.

    Attributes:
      texts: as written.
      ids, mask: int [M, T].
      image: [M], the image each describes.
      embeds: unit vectors [M, E].
    """

    texts: list[str]
    ids: np.ndarray
    mask: np.ndarray
    image: np.ndarray
    embeds: np.ndarray

    @classmethod
    def encode(
        cls, model: Trained, captions: Sequence[Sequence[str]], max_tokens: int, batch_size: int
    ) -> "Texts":
        """Of the captions of every image; ValueError where there are none at all."""
        texts = [text for own in captions for text in own]
        if not texts:
            raise ValueError("there are no texts to search for")
        image = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
        most = min(max_tokens, model.config.text.max_positions)
        ids, mask = encode(model.tokenizer, [pre_caption(text) for text in texts], most)
        return cls(texts, ids, mask, image, embed_ids(model, ids, mask, batch_size))


def match_wanted(
    model: Trained,
    gallery: Gallery,
    texts: Texts,
    wanted: np.ndarray,
    batch_size: int,
    progress: Progress,
) -> np.ndarray:
    """ITM logits float32 [N, M, 2] of the pairs `wanted` bool [N, M]; NaN for the others."""
    found = np.full((*wanted.shape, 2), np.nan, np.float32)
    pairs = np.argwhere(wanted)
    batch = (texts.ids, texts.mask, pairs, batch_size, progress)
    found[wanted], _ = pair_logits(model, gallery.pixels, *batch)
    return found


@dataclasses.dataclass(frozen=True)
class Ranking:
    """For every query the rank, from 0, of the best right item, and the item that came first."""

    rank: np.ndarray
    first: np.ndarray

    def recalls(self) -> dict[str, Score]:
        """r1, r5, r10 as fractions; a query for which nothing is right is never found."""
        return {f"r{k}": score(self.rank < k) for k in (1, 5, 10)}

    def places(self) -> dict[str, Score]:
        """Mean and median rank, from 1, of the queries for which something is right."""
        rank = self.rank[self.rank < NEVER] + 1
        return {"mean_rank": score(rank), "median_rank": score(rank, median)}


def rank_items(
    cosine: np.ndarray,
    query: np.ndarray,
    item: np.ndarray,
    scores: np.ndarray | None = None,
    chosen: np.ndarray | None = None,
) -> Ranking:
    """Ranks M items for each of N queries; an item is right where it has the query's label.

    The `chosen`, those of highest cosine, come first in the order of their scores, and then the
    others in that of their cosines. Equal scores count against what is right, and so do NaN: a
    model that scores all alike, or has diverged, has found nothing.

    Args:
      cosine: [N, M].
      query, item: labels [N] and [M].
      scores, chosen: [N, M] and bool [N, M]; None for the order of the cosines alone.
    """
    places, firsts = [], []
    for start in range(0, len(cosine), QUERIES):
        part = slice(start, start + QUERIES)
        value = cosine[part].astype(np.float64)
        if scores is not None and chosen is not None:
            value = np.where(chosen[part], scores[part], value - BEHIND)
        right = query[part, None] == item[None]
        places.append(ranks(value, right))
        firsts.append(np.nan_to_num(value, nan=-np.inf).argmax(1))
    return Ranking(np.concatenate(places), np.concatenate(firsts))


@dataclasses.dataclass(frozen=True)
class Searched:
    """One image or video of an evaluation: its texts, and the pictures a page shows of it."""

    captions: tuple[str, ...]
    pictures: tuple[Path | str | bytes, ...]


def evaluate_search(
    model: Model,
    pixels: Pixels,
    rows: Sequence[Searched],
    directions: tuple[str, str],
    config: ConfigDict,
    progress: Progress,
) -> Evaluation:
    """Finds the texts of every image and the image of every text.

    Args:
      pixels, rows: what is searched, in the same order.
      directions: names of the scores from images to texts, and from texts to images.
      config: max_tokens; batch_size, of images; top_k, what ITM ranks of what ITC found.

    Returns:
      For either direction r1, r5, r10, mean_rank and median_rank (from 1), the top k ranked by
      the original's score, match logit plus cosine; r_mean, of all six recalls; itm_*, ranked by
      the log-odds of a match alone, the order of ITM's probability; itc_*, without ITM. The
      examples are the texts.

    Raises:
      ValueError: the model cannot match, nothing can be opened, there are no texts, or top_k is
        less than 1.
    """
    model.need("match")
    if config.top_k < 1:
        raise ValueError(f"config.evaluate.top_k must be at least 1, but it is {config.top_k}")
    model = model.on_every_device()
    gallery = Gallery.open(model, pixels, config.batch_size)
    rows = [rows[number] for number in gallery.numbers]
    sizes = (config.max_tokens, 4 * config.batch_size)
    texts = Texts.encode(model, [row.captions for row in rows], *sizes)
    cosine = gallery.embeds @ texts.embeds.T
    chosen = among_best(cosine, config.top_k), among_best(cosine.T, config.top_k)
    wanted = chosen[0] | chosen[1].T
    logits = match_wanted(model, gallery, texts, wanted, config.batch_size, progress)
    scores, found = two_way(cosine, logits, chosen, texts.image, directions)
    lost = len(pixels) - len(rows)
    return Evaluation(
        scores,
        len(rows),
        examples(rows, texts, found),
        skipped={"unreadable": lost} if lost else {},
    )


def two_way(
    cosine: np.ndarray,
    logits: np.ndarray,
    chosen: tuple[np.ndarray, np.ndarray],
    text_image: np.ndarray,
    directions: tuple[str, str],
) -> tuple[dict[str, Score], Ranking]:
    """Scores as `evaluate_search` names them, and the images found for the texts.

    Args:
      cosine: [N, M].
      logits: of ITM, [N, M, 2].
      chosen: the pairs whose logits count, bool [N, M] for each image's texts and [M, N] for each
        text's images.
      text_image: [M], the image of each text.
    """
    image = np.arange(len(cosine))

    def both_ways(scores: np.ndarray | None) -> tuple[Ranking, Ranking]:
        other = None if scores is None else scores.T
        return (
            rank_items(cosine, image, text_image, scores, chosen[0]),
            rank_items(cosine.T, text_image, image, other, chosen[1]),
        )

    original = both_ways(match_score(logits, cosine))
    tables = {
        "": original,
        "itm_": both_ways(logits[..., 1] - logits[..., 0]),
        "itc_": both_ways(None),
    }
    scores: dict[str, Score] = {}
    for kind, rankings in tables.items():
        for direction, ranking in zip(directions, rankings, strict=True):
            found = ranking.recalls() | (ranking.places() if kind == "" else {})
            scores |= {f"{kind}{direction}_{key}": value for key, value in found.items()}
    six = [scores[f"{direction}_r{k}"].value for direction in directions for k in (1, 5, 10)]
    return scores | {"r_mean": Score(float(np.mean(six)))}, original[1]


def match_score(logits: np.ndarray, cosine: np.ndarray) -> np.ndarray:
    """What the original ranks by: ITM's logit of a match [..., 2] plus the cosine [...]."""
    return logits[..., 1] + cosine


def examples(rows: Sequence[Searched], texts: Texts, found: Ranking) -> list[Example]:
    """Every text with what it found, and with what it should have found where that is another."""
    shown = []
    values = reciprocal_ranks(found.rank)
    for number, (text, own, first) in enumerate(
        zip(texts.texts, texts.image, found.first, strict=True)
    ):
        pictures = rows[first].pictures + (rows[own].pictures if own != first else ())
        lines = (("text", text), ("rank of what is right", str(found.rank[number] + 1)))
        shown.append(Example(pictures, lines, float(values[number])))
    return shown
