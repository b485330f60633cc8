"""Classification of an image with a text, such as entailment or true and false."""

import dataclasses
import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from blip_jax.config import BlipConfig
from blip_jax.data.annotations import Labelled, read_labelled
from blip_jax.data.examples import BLACK, TRUNCATED, ViewOptions, tokens
from blip_jax.data.examples import Example as Row
from blip_jax.data.pipeline import image_batches
from blip_jax.data.text import pre_caption, swap_left_right
from blip_jax.files import Progress, silent
from blip_jax.inference.classify import classify
from blip_jax.model import Model
from blip_jax.models.blip import Blip, Params
from blip_jax.tasks.evaluation import Evaluation, Example, score
from blip_jax.tasks.stateless import Batch, Metrics, Stateless
from blip_jax.tokenizer import Tokenizer


def objective(blip: Blip, settings: ConfigDict) -> Stateless:
    """Cross-entropy of the classes."""
    return Stateless(functools.partial(loss, blip))


def loss(blip: Blip, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Metrics]:
    """Of a batch of `LabelledTexts`."""
    image_rng, text_rng = jax.random.split(rng)
    ids, mask, labels = batch["input_ids"], batch["attention_mask"], batch["label"]
    tokens = blip.image_tokens(params, batch["image"], image_rng)
    logits = blip.class_logits(params, tokens, ids, mask, text_rng)
    value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return value, {"accuracy": jnp.mean(jnp.argmax(logits, -1) == labels)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledOptions(ViewOptions):
    """How a row becomes a row of a batch. `max_tokens` counts the special tokens."""

    max_tokens: int


class LabelledTexts:
    """Rows of image uint8 [S, S, 3]; input_ids, attention_mask int32 [T], [ENC] first; label, the
    number of its class."""

    def __init__(self, tokenizer: Tokenizer, classes: tuple[str, ...], options: LabelledOptions):
        self.tokenizer, self.options = tokenizer, options
        self.numbers = {name: number for number, name in enumerate(classes)}
        self.sample = Labelled(BLACK, "a", classes[0])  # type: ignore[arg-type]

    def open(self, place: str, image_root: str) -> list[Labelled]:
        """As `read_labelled`; ValueError for a label that is none of the classes."""
        rows = read_labelled(place, image_root or None)
        for row in rows:
            if row.label not in self.numbers:
                raise ValueError(
                    f"{place}: label {row.label!r} is none of config.model.classes, "
                    f"{', '.join(self.numbers)}"
                )
        return rows

    def __call__(self, row: Labelled, rng: np.random.Generator) -> Row:
        """A view of the image; mirrored, left and right change places in the text."""
        image, mirrored = self.options.view(row.image, rng)
        text = pre_caption(swap_left_right(row.text) if mirrored else row.text)
        ids, mask, cut = tokens(self.tokenizer, text, self.options.max_tokens, "[ENC]")
        return {
            "image": image,
            "input_ids": ids,
            "attention_mask": mask,
            "label": np.int32(self.numbers[row.label]),
            TRUNCATED: cut,
        }


def reader(tokenizer: Tokenizer, model: BlipConfig, data: ConfigDict) -> LabelledTexts:
    """Rows as the model takes them; `data` holds the other `LabelledOptions`.

    Raises:
      ValueError: the config names no classes.
    """
    if not model.classes:
        raise ValueError("config.model.classes is empty: name the classes, \"('no', 'yes')\"")
    size = model.vision.image_size
    options = LabelledOptions(image_size=size, **data.to_dict())
    return LabelledTexts(tokenizer, model.classes, options)


def evaluate(model: Model, config: ConfigDict, progress: Progress = silent) -> Evaluation:
    """Classifies every readable row.

    Returns:
      `accuracy`, beside that of the most frequent class alone, and `accuracy_CLASS`, the share
      of each class's rows that were found.

    Raises:
      ValueError: no image could be read.
    """
    rows = read_labelled(config.annotations, config.image_root or None)
    examples: list[Example] = []
    pairs: list[tuple[str, str]] = []  # truth, prediction
    skipped: Counter[str] = Counter()
    model, names = model.on_every_device(), model.config.classes
    shape = (model.config.vision.image_size, model.rows(config.batch_size), model.device_count)
    done = 0
    for pixels, status, chosen in image_batches(rows, *shape):
        probabilities = classify(model, pixels, [row.text for row in chosen], len(pixels))
        done += len(status)
        for row, state, found in zip(chosen, status, probabilities, strict=False):
            if state != "ok":
                skipped["unreadable_image"] += 1
                continue
            prediction = names[int(found.argmax())]
            pairs.append((row.label, prediction))
            lines = (("text", row.text), ("truth", row.label), ("prediction", prediction))
            value = float(found[names.index(row.label)]) if row.label in names else 0.0
            examples.append(Example((row.image,), lines, value))
        progress(done, len(rows))
    if not pairs:
        raise ValueError(f"none of the {len(rows)} images of {config.annotations} could be read")
    hits = np.array([truth == prediction for truth, prediction in pairs])
    truths = np.array([truth for truth, _ in pairs])
    majority = Counter(truths.tolist()).most_common(1)[0][0]
    scores = {"accuracy": score(hits), "accuracy_of_majority": score(truths == majority)}
    for name in sorted(set(truths.tolist())):
        scores[f"accuracy_{name}"] = score(hits[truths == name])
    return Evaluation(scores, len(pairs), examples, skipped=dict(skipped))
