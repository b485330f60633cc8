"""Visual dialogue: a hundred answers ranked by ITM over the dialogue so far (paper section 5.5).

The dialogue encoder reads image and caption by cross-attention, and `history question candidate`
as its text. Its code was never released: how a text is put together, that one wrong candidate is
drawn for a right one, and that the caption's encoder shares its parameters with the dialogue's,
as in pre-training, are choices made here.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from blip_jax.config import BlipConfig
from blip_jax.data.dialogs import Round, Rounds, read_dialogs
from blip_jax.data.examples import BLACK, TRUNCATED, ViewOptions, tokens
from blip_jax.data.examples import Example as Row
from blip_jax.data.pipeline import image_batches
from blip_jax.data.records import load_list
from blip_jax.data.text import pre_caption, swap_left_right
from blip_jax.files import Progress, silent
from blip_jax.inference.dialog import CAPTION_TOKENS, dialog_text, rank_candidates
from blip_jax.metrics.retrieval import ndcg
from blip_jax.model import Model
from blip_jax.models.blip import Blip, Params
from blip_jax.tasks.evaluation import Evaluation, Example, Score, score
from blip_jax.tasks.stateless import Batch, Metrics, Stateless
from blip_jax.tokenizer import Tokenizer


def objective(blip: Blip, settings: ConfigDict) -> Stateless:
    """Cross-entropy of right and wrong answers."""
    return Stateless(functools.partial(loss, blip))


def loss(blip: Blip, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Metrics]:
    """Of a batch of `DialogRounds`."""
    keys = jax.random.split(rng, 3)
    tokens = blip.image_tokens(params, batch["image"], keys[0])
    caption = batch["caption_ids"], batch["caption_mask"]
    source, mask = blip.dialog_source(params, tokens, *caption, keys[1])
    rows, each, length = batch["input_ids"].shape
    ids, attention = (batch[n].reshape(-1, length) for n in ("input_ids", "attention_mask"))
    logits = blip.dialog_logits(params, source, mask, ids, attention, keys[2])
    labels = jnp.tile(jnp.arange(each) == 0, rows).astype(jnp.int32)
    value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return value, {"accuracy": jnp.mean(jnp.argmax(logits, -1) == labels)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogOptions(ViewOptions):
    """How a round becomes a row of a batch.

    Attributes:
      max_tokens: token length T of history, question and candidate, special tokens included;
        the oldest rounds are left out of a longer one.
      negatives: wrong candidates drawn for the right one.
    """

    max_tokens: int
    negatives: int = 1


class DialogRounds:
    """Rounds as rows: image uint8 [S, S, 3]; caption_ids, caption_mask int32 [U], [CLS] first;
    input_ids, attention_mask int32 [1 + negatives, T], [ENC] first, the right answer's first."""

    sample = Round(0, 1, BLACK, "a", (), "a", ("a", "b"), 0)  # type: ignore[arg-type]

    def __init__(self, tokenizer: Tokenizer, options: DialogOptions):
        self.tokenizer, self.options = tokenizer, options

    def open(self, place: str, image_root: str) -> Rounds:
        """As `read_dialogs`; ValueError for a round without its right answer."""
        rounds = read_dialogs(place, image_root or None)
        for row in rounds:
            if row.answer is None or len(row.candidates) < 2:
                raise ValueError(f"{place}: {row.uid} has no right answer beside wrong ones")
        return rounds

    def __call__(self, row: Round, rng: np.random.Generator) -> Row:
        """A view of the image; mirrored, left and right change places in every text."""
        options = self.options
        image, mirrored = options.view(row.image, rng)
        swap = swap_left_right if mirrored else str
        assert row.answer is not None
        wrong = [i for i in range(len(row.candidates)) if i != row.answer]
        drawn = rng.choice(wrong, options.negatives, replace=options.negatives > len(wrong))
        texts = [
            tokens(self.tokenizer, swap(text), options.max_tokens, "[ENC]")
            for text in dialog_text(
                self.tokenizer, row, [row.answer, *drawn.tolist()], options.max_tokens
            )
        ]
        caption = tokens(self.tokenizer, swap(pre_caption(row.caption)), CAPTION_TOKENS)
        return {
            "image": image,
            "caption_ids": caption[0],
            "caption_mask": caption[1],
            "input_ids": np.stack([t[0] for t in texts]),
            "attention_mask": np.stack([t[1] for t in texts]),
            TRUNCATED: caption[2] or any(t[2] for t in texts),
        }


def reader(tokenizer: Tokenizer, model: BlipConfig, data: ConfigDict) -> DialogRounds:
    """Rounds as the model takes them; `data` holds the other `DialogOptions`."""
    size = model.vision.image_size
    return DialogRounds(tokenizer, DialogOptions(image_size=size, **data.to_dict()))


def evaluate(model: Model, config: ConfigDict, progress: Progress = silent) -> Evaluation:
    """Ranks the candidates of every round.

    Returns:
      `mrr`, `recall1`, `recall5`, `recall10`, and `mean_rank` (1 is best) where the right answers
      are published; `ndcg` where `config.relevance` names the dense annotations; the ranks in the
      form of the server.
    """
    rounds = read_dialogs(config.annotations, config.image_root or None)
    relevance = read_relevance(config.relevance)
    size = model.config.vision.image_size
    ranks: list[list[int]] = []
    readable: list[bool] = []
    for pixels, status, chosen in image_batches(rounds, size, config.batch_size):
        options = {"max_tokens": config.max_tokens, "batch_size": config.candidate_batch_size}
        found = rank_candidates(model, pixels, chosen, **options)
        ranks += [ranked(odds) for odds in found[: len(status)]]
        readable += [s == "ok" for s in status]
        progress(len(ranks), len(rounds))
    seen = [pair for pair, ok in zip(zip(rounds, ranks, strict=True), readable, strict=True) if ok]
    right = np.array([r[row.answer] for row, r in seen if row.answer is not None])
    scores: dict[str, Score] = {}
    if len(right):
        scores = {"mrr": score(1 / right), "mean_rank": score(right)}
        scores |= {f"recall{k}": score(right <= k) for k in (1, 5, 10)}
    gains = [
        ndcg(-np.array(r), relevance[row.image_id, row.round_id])
        for row, r in seen
        if (row.image_id, row.round_id) in relevance
    ]
    if gains:
        scores["ndcg"] = score(gains)
    submission = [
        {"image_id": row.image_id, "round_id": row.round_id, "ranks": r}
        for row, r in zip(rounds, ranks, strict=True)
    ]
    return Evaluation(
        scores,
        len(right),
        [shown(row, r) for row, r in zip(rounds, ranks, strict=True)],
        {"visdial.json": submission},
        {"unreadable_image": readable.count(False)} if False in readable else {},
        {} if gains else {"ndcg": "evaluate.relevance names no dense annotations of these rounds"},
    )


def ranked(odds: np.ndarray) -> list[int]:
    """Rank of each candidate, 1 for the best; the first of equals is better."""
    order = np.argsort(-odds, kind="stable")
    ranks = np.empty(len(odds), int)
    ranks[order] = np.arange(1, len(odds) + 1)
    return ranks.tolist()


def read_relevance(path: str) -> dict[tuple[Any, int], list[float]]:
    """VisDial's dense annotations `[{"image_id", "round_id", "gt_relevance": [100 numbers]}]`, by
    image and round; {} for "".

    Raises:
      ValueError: not such a list.
    """
    if not path:
        return {}
    try:
        return {
            (row["image_id"], row["round_id"]): row.get("gt_relevance") or row["relevance"]
            for row in load_list(path)
        }
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no dense annotations: {error!r} is missing") from error


def shown(row: Round, ranks: list[int]) -> Example:
    """The round with the best candidate."""
    best = row.candidates[int(np.argmin(ranks))]
    truth = "unknown" if row.answer is None else row.candidates[row.answer]
    said = " ".join(f"{q}? {a}." for q, a in row.history)
    asked = ("caption", row.caption), ("before", said), ("question", row.question)
    lines = (*asked, ("truth", truth), ("best", best))
    value = 0.0 if row.answer is None else 1 / ranks[row.answer]
    return Example((row.image,), lines, value)
