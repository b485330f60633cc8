"""Captioning: LM after a prompt (`models/blip.py`). CapFilt's captioner is made by it."""

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from blip_jax import losses
from blip_jax.config import BlipConfig
from blip_jax.data.examples import ImageText, ImageTextOptions
from blip_jax.data.pipeline import image_batches
from blip_jax.data.record import Record
from blip_jax.data.records import read_json
from blip_jax.files import Progress, silent
from blip_jax.inference.caption import CaptionOptions, seed_keys, write_captions
from blip_jax.metrics import java
from blip_jax.metrics.caption import caption_metrics
from blip_jax.metrics.chair import chair, read_synonyms
from blip_jax.metrics.interval import ratio
from blip_jax.metrics.java import NotComputed
from blip_jax.metrics.tokenize import tokenize
from blip_jax.model import ABILITIES, Model
from blip_jax.models.blip import Blip, Params
from blip_jax.tasks.evaluation import Evaluation, Example, Score, score
from blip_jax.tasks.stateless import Batch, Metrics, Stateless
from blip_jax.tokenizer import Tokenizer


def objective(blip: Blip, settings: ConfigDict) -> Stateless:
    """LM after the prompt."""
    return Stateless(functools.partial(loss, blip))


def reader(tokenizer: Tokenizer, model: BlipConfig, data: ConfigDict) -> ImageText:
    """Captions after the model's prompt; `data` holds the other `ImageTextOptions`."""
    size, prompt = model.vision.image_size, model.conventions.prompt
    options = ImageTextOptions(image_size=size, prompt=prompt, **data.to_dict())
    return ImageText(tokenizer, options)


def loss(blip: Blip, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Metrics]:
    """LM over prompt and caption; `prompt_length` tokens, the first among them, are given."""
    image_rng, text_rng = jax.random.split(rng)
    mask = batch["attention_mask"]
    ids = batch["input_ids"].at[:, 0].set(blip.config.text.dec_id)
    tokens = blip.image_tokens(params, batch["image"], image_rng)
    logits = blip.lm_logits(params, tokens, ids, mask, text_rng)
    value = losses.lm(logits, ids, mask, batch["prompt_length"])
    return value, {"loss_lm": value}


def describe(
    model: Model,
    records: Sequence[Record],
    options: CaptionOptions,
    batch_size: int = 64,
    progress: Progress = silent,
) -> list[str | None]:
    """One caption an image, None where it could not be read.

    The devices of the process share a batch.

    Raises:
      ValueError: no image could be read.
    """
    written: list[str | None] = []
    model = model.on_every_device()
    shape = (model.config.vision.image_size, model.rows(batch_size), model.device_count)
    for images, status, chosen in image_batches(records, *shape):
        keys = seed_keys(range(len(chosen)))
        captions, _ = write_captions(model, images, keys, options)
        written += [c[0] if s == "ok" else None for c, s in zip(captions, status, strict=False)]
        progress(len(written), len(records))
    if all(text is None for text in written):
        raise ValueError(f"none of the {len(records)} images to caption could be read")
    return written


def compare(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Score]:
    """The metrics that need no Java: BLEU, ROUGE-L, CIDEr, distinct-n."""
    return {
        name: score(values, statistic, centred=name.startswith("distinct"))
        for name, (values, statistic) in caption_metrics(captions, references).items()
    }


def evaluate(model: Model, config: ConfigDict, progress: Progress = silent) -> Evaluation:
    """Captions every image and compares with its references.

    `config`: `annotations` and `image_root` (see `read_json`), `batch_size`, `caption` (the fields
    of `CaptionOptions`), and, for CHAIR, `synonyms`, a file as `read_synonyms` takes it.
    """
    records = read_json(config.annotations, config.image_root or None)
    options = CaptionOptions(**config.caption.to_dict())
    captions = describe(model, records, options, config.batch_size, progress)
    return judged(model, records, captions, config.get("synonyms"))


def judged(
    model: Model,
    records: Sequence[Record],
    captions: Sequence[str | None],
    synonyms: str | None = None,
) -> Evaluation:
    """All that can be said of captions (None: unreadable image), and the COCO server's file."""
    seen = [(r, c) for r, c in zip(records, captions, strict=True) if c is not None]
    texts, references = [c for _, c in seen], [r.captions for r, _ in seen]
    scores, missing = compare_all(texts, references)
    gather(scores, missing, "chair", lambda: hallucinated(seen, synonyms))
    gather(scores, missing, "itc_score", lambda: itc(model, seen))
    each = caption_metrics(texts, references)["cider"][0]
    lost = len(captions) - len(seen)
    skipped = dict(getattr(records, "skipped", {})) | ({"unreadable_image": lost} if lost else {})
    return Evaluation(
        scores=scores,
        count=len(seen),
        examples=[
            example(record, text, value) for (record, text), value in zip(seen, each, strict=True)
        ],
        submissions={"captions.json": submission(seen)},
        skipped=skipped,
        missing=missing,
    )


def compare_all(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, Score], dict[str, str]]:
    """As `compare`, and METEOR and SPICE; what is missing, and why."""
    scores, missing = compare(captions, references), dict[str, str]()
    for name in ("meteor", "spice"):
        gather(scores, missing, name, functools.partial(by_java, name, captions, references))
    return scores, missing


def gather(
    scores: dict[str, Score],
    missing: dict[str, str],
    name: str,
    compute: Callable[[], dict[str, Score]],
) -> None:
    """Adds what `compute` gives to the scores, or to what is missing why it gives nothing."""
    try:
        scores |= compute()
    except NotComputed as why:
        missing[name] = str(why)


def by_java(
    name: str, captions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, Score]:
    """METEOR or SPICE. METEOR's interval is that of the mean over images, about the corpus's."""
    tokens = [tokenize(c) for c in captions], [[tokenize(r) for r in refs] for refs in references]
    if name == "spice":
        return {name: score(java.spice(*tokens))}
    whole, each = java.meteor(*tokens)
    about = score(each)
    assert about.low is not None and about.high is not None
    return {name: Score(whole, *(whole + end - about.value for end in (about.low, about.high)))}


def hallucinated(seen: Sequence[tuple[Record, str]], synonyms: str | None) -> dict[str, Score]:
    """CHAIR: `chair_s`, captions with an object that is not there; `chair_i`, such mentions.

    What is there is said by the rows' `objects` and by their references.
    """
    if not synonyms:
        raise NotComputed("evaluate.synonyms names no file of objects and their names")
    if not all("objects" in record.extra for record, _ in seen):
        raise NotComputed('rows have no field "objects", a list of what is in the image')
    shown = [[*record.extra["objects"], *record.captions] for record, _ in seen]
    wrong, mentions = chair([tokenize(text) for _, text in seen], shown, read_synonyms(synonyms))
    return {"chair_s": score(wrong), "chair_i": score(mentions, ratio)}


def itc(model: Model, seen: Sequence[tuple[Record, str]]) -> dict[str, Score]:
    """Cosine of image and caption where it is positive, as CLIPScore has it (Hessel et al., 2021),
    by the model's own ITC and without CLIPScore's factor of 2.5."""
    if "embed" not in ABILITIES[model.config.task]:
        raise NotComputed(f"a model of task {model.config.task!r} has no ITC to score with")
    image = model.embed_images([record.image for record, _ in seen])
    text = model.embed_texts([text for _, text in seen])
    return {"itc_score": score(np.maximum(0, (image * text).sum(1)))}


def submission(seen: Sequence[tuple[Record, str]]) -> list[dict[str, Any]]:
    """Captions as the COCO server takes them: [{"image_id": int, "caption": str}].

    An image's number is the last one of its id or file name; where an image has none, or two have
    the same, the names themselves stand there.
    """
    names = [image_name(record) for record, _ in seen]
    numbers = [re.findall(r"\d+", name) for name in names]
    ids: list[Any] = [int(found[-1]) for found in numbers if found]
    if len(set(ids)) < len(seen):
        ids = names
    return [{"image_id": i, "caption": text} for i, (_, text) in zip(ids, seen, strict=True)]


def image_name(record: Record) -> str:
    """The image's id, of a path the last part without its suffix."""
    return Path(record.image_id).stem


def example(record: Record, caption: str, value: float) -> Example:
    """An image with its caption and references; its value is CIDEr."""
    lines = [("caption", caption), *(("reference", text) for text in record.captions)]
    return Example((record.image,), tuple(lines), float(value))
