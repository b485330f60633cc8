"""NLVR2: is a sentence true of two images? (`models/blip_nlvr.py`)"""

import dataclasses
import functools
from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from blip_jax.config import BlipConfig
from blip_jax.data.annotations import Statement, read_statements
from blip_jax.data.examples import BLACK, TRUNCATED, ViewOptions, tokens
from blip_jax.data.examples import Example as Row
from blip_jax.data.pipeline import image_batches
from blip_jax.data.record import Record
from blip_jax.data.text import names_side, pre_caption, swap_left_right
from blip_jax.files import Progress, silent
from blip_jax.inference.nlvr import MAX_WORDS, judge
from blip_jax.model import Model
from blip_jax.models.blip import Blip, Params
from blip_jax.tasks.evaluation import Evaluation, Example, Score, score
from blip_jax.tasks.stateless import Batch, Metrics, Stateless
from blip_jax.tokenizer import Tokenizer


def objective(blip: Blip, settings: ConfigDict) -> Stateless:
    """Cross-entropy of true and false."""
    return Stateless(functools.partial(loss, blip))


def loss(blip: Blip, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Metrics]:
    """Of a batch of `Statements`."""
    keys = jax.random.split(rng, 3)
    left, right = (
        blip.image_tokens(params, batch[side], key)
        for side, key in zip(("left", "right"), keys[:2], strict=True)
    )
    ids, mask, labels = batch["input_ids"], batch["attention_mask"], batch["label"]
    logits = blip.nlvr_logits(params, left, right, ids, mask, keys[2])
    value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return value, {"accuracy": jnp.mean(jnp.argmax(logits, -1) == labels)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StatementOptions(ViewOptions):
    """How a statement becomes a row of a batch. `max_tokens` counts the special tokens."""

    max_tokens: int


class Statements:
    """Statements as rows: left and right uint8 [S, S, 3]; input_ids, attention_mask int32 [T],
    [ENC] first; label, 1 for true.

    The released code mirrors each picture on its own, whatever the sentence says of left and
    right, and exchanges the two; `as_released` does too. Otherwise the pair is mirrored as one
    picture would be, so that left and right change places in the sentence and nothing else does;
    pictures of a sentence without a side are exchanged as well.
    """

    sample = Statement((BLACK, BLACK), "a", True)  # type: ignore[arg-type]

    def __init__(self, tokenizer: Tokenizer, options: StatementOptions):
        self.tokenizer, self.options = tokenizer, options

    def open(self, place: str, image_root: str) -> list[Statement]:
        """As `read_statements`; ValueError for one that is neither true nor false."""
        statements = read_statements(place, image_root or None)
        for statement in statements:
            if statement.label is None:
                raise ValueError(f"{place}: {statement.uid} has no label to learn from")
        return statements

    def __call__(self, row: Statement, rng: np.random.Generator) -> Row:
        """Random views of both images, and the sentence that holds for them."""
        options, sentence, mirror = self.options, row.sentence, None
        turned = exchanged = False
        if options.flip:
            turned, exchanged = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
            if not options.as_released:
                mirror = turned
                exchanged = turned if names_side(sentence) else exchanged
        views = [options.view(image, rng, mirror)[0] for image in row.images]
        if exchanged:
            views, sentence = views[::-1], swap_left_right(sentence)
        text = pre_caption(sentence, MAX_WORDS)
        ids, mask, cut = tokens(self.tokenizer, text, options.max_tokens, "[ENC]")
        return {
            "left": views[0],
            "right": views[1],
            "input_ids": ids,
            "attention_mask": mask,
            "label": np.int32(bool(row.label)),
            TRUNCATED: cut,
        }


def reader(tokenizer: Tokenizer, model: BlipConfig, data: ConfigDict) -> Statements:
    """Statements as the model takes them; `data` holds the other `StatementOptions`."""
    size = model.vision.image_size
    return Statements(tokenizer, StatementOptions(image_size=size, **data.to_dict()))


def evaluate(model: Model, config: ConfigDict, progress: Progress = silent) -> Evaluation:
    """Judges every statement as it stands: nothing is exchanged, as in the released code.

    Returns:
      `accuracy`, and `consistency`, the share of sentences of which every pair was judged
      rightly, beside the accuracy of the more frequent label alone; the predictions in the form
      of the server.
    """
    statements = read_statements(config.annotations, config.image_root or None)
    logits, readable = predict(model, statements, config.batch_size, progress)
    true = logits[:, 1] > logits[:, 0]
    told = zip(statements, true, readable, strict=True)
    judged = [(s, bool(t)) for s, t, ok in told if ok and s.label is not None]
    scores: dict[str, Score] = {}
    if judged:
        right = np.array([s.label is t for s, t in judged])
        labels = np.array([bool(s.label) for s, _ in judged])
        scores = {
            "accuracy": score(right),
            "consistency": score(consistency([s.sentence for s, _ in judged], right)),
            "accuracy_of_majority": score(labels == (labels.mean() >= 0.5)),
        }
    # As the server's metrics.py reads them.
    predictions = "".join(f"{s.uid},{bool(t)}\n" for s, t in zip(statements, true, strict=True))
    examples = [shown(*row) for row in zip(statements, logits, strict=True)]
    skipped = {"unreadable_image": int((~readable).sum())} if not readable.all() else {}
    return Evaluation(scores, len(judged), examples, {"nlvr2.csv": predictions}, skipped)


def predict(
    model: Model, statements: list[Statement], batch_size: int, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, 2] of statements, and bool [N]: whether both images could be read."""
    model = model.on_every_device()
    shape = (model.config.vision.image_size, model.rows(batch_size), model.device_count)
    sides = [
        image_batches(
            [Record(s.uid, s.images[side], (s.sentence,), s.uid) for s in statements], *shape
        )
        for side in (0, 1)
    ]
    found: list[np.ndarray] = []
    readable: list[bool] = []
    for (left, status, chosen), (right, other, _) in zip(*sides, strict=True):
        texts = [record.captions[0] for record in chosen]
        logits = judge(model, left, right, texts, len(left))
        found.append(logits[: len(status)])
        readable += [a == b == "ok" for a, b in zip(status, other, strict=True)]
        progress(len(readable), len(statements))
    return np.concatenate(found), np.array(readable)


def consistency(sentences: list[str], right: np.ndarray) -> list[bool]:
    """For each sentence whether it was judged rightly wherever it stands."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for sentence, hit in zip(sentences, right, strict=True):
        groups[sentence].append(bool(hit))
    return [all(group) for group in groups.values()]


def shown(statement: Statement, logits: np.ndarray) -> Example:
    """The statement with what was judged; its value is the probability of the truth."""
    true = float(1 / (1 + np.exp(logits[0] - logits[1])))
    value = 0.0 if statement.label is None else true if statement.label else 1 - true
    label = "unknown" if statement.label is None else str(statement.label)
    lines = (("sentence", statement.sentence), ("truth", label), ("P(true)", f"{true:.3f}"))
    return Example(statement.images, lines, value)
