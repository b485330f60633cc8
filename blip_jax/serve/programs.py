"""What one model runs for its callers: programs over rows, each in a few compiled sizes."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from blip_jax.inference.answer import MAX_TOKENS as QUESTION_TOKENS
from blip_jax.inference.answer import write_answers
from blip_jax.inference.batching import power_of_two
from blip_jax.inference.caption import CaptionOptions, seed_keys, write_captions
from blip_jax.inference.embed import MAX_TOKENS, encode_images, encode_texts, text_ids
from blip_jax.inference.explain import explain_words
from blip_jax.inference.match import score_texts
from blip_jax.inference.results import AnswerResult, CaptionResult, MatchResult
from blip_jax.inference.trained import Trained
from blip_jax.model import ABILITIES
from blip_jax.models.blip import Blip

CHOICES = 3  # captions or answers a picture, as many as beams
PROMPT_SLOTS = 16  # tokens of a prompt, [DEC] included
CAPTIONS = {
    "beam": CaptionOptions("beam", num_captions=CHOICES, num_beams=CHOICES),
    "nucleus": CaptionOptions("nucleus", num_captions=CHOICES),
    "greedy": CaptionOptions("greedy"),
}

Row = Any
Run = Callable[[list[Row]], Sequence[Any]]

image_tokens = jax.jit(Blip.image_tokens, static_argnums=0)


@dataclasses.dataclass(frozen=True)
class Features:
    """What a model sees of a picture: tokens [S, W], and where it has one a unit vector [E]."""

    tokens: np.ndarray
    vector: np.ndarray | None

    @property
    def nbytes(self) -> int:
        return self.tokens.nbytes + (0 if self.vector is None else self.vector.nbytes)


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A function of rows that gives a result a row, whichever rows are beside it.

    Attributes:
      name: for metrics, model/program.
      run: rows -> results, in their order.
      example: a row to compile it with.
      most: rows at once. Batches are filled up to a power of two, or to this.
    """

    name: str
    run: Run
    example: Row
    most: int

    @property
    def sizes(self) -> list[int]:
        """Rows of the batches there are."""
        return sorted({power_of_two(count, self.most) for count in range(1, self.most + 1)})

    def filler(self, count: int) -> int:
        """Rows that fill a batch of `count` up."""
        return power_of_two(count, self.most) - count

    def __call__(self, rows: list[Row]) -> Sequence[Any]:
        """Results of at most `most` rows."""
        return self.run(rows + rows[-1:] * self.filler(len(rows)))[: len(rows)]


def build_programs(name: str, model: Trained, max_batch: int) -> dict[str, Program]:
    """The programs of the model's task, by name; "encode" is what the others take rows from.

    encode takes pixels uint8 [S, S, 3]; caption/METHOD (tokens, prompt or None, seed); answer,
    match and explain (tokens, text); embed a text.

    Raises:
      ValueError: the model judges pairs of pictures, which nobody can ask for here.
    """
    task = model.config.task
    if task == "nlvr":
        raise ValueError(f"{name} is a model of task 'nlvr', which cannot be served")
    model = one_by_one(model)
    can = ABILITIES[task]
    vision = model.config.vision
    pixels = np.zeros((vision.image_size, vision.image_size, 3), np.uint8)
    tokens = np.zeros((vision.tokens, vision.width), model.config.dtype)
    runs: dict[str, tuple[Callable[..., Any], Row, int]] = {"encode": (encode, pixels, max_batch)}
    if "caption" in can:
        for method in CAPTIONS:
            run = functools.partial(caption, method=method)
            runs[f"caption/{method}"] = (run, (tokens, None, 0), max_batch)
    if "answer" in can:
        runs["answer"] = (answer, (tokens, "what"), max_batch)
    if "match" in can:
        runs["match"] = (match, (tokens, "a"), max_batch)
        runs["embed"] = (embed, "a", max_batch)
        runs["explain"] = (explain, (tokens, "a"), 1)
    return {
        key: Program(f"{name}/{key}", functools.partial(run, model), example, most)
        for key, (run, example, most) in runs.items()
    }


def one_by_one(model: Trained) -> Trained:
    """The model, giving each question of a batch the answer that it would get alone.

    The released VQA model lets answers attend to padding, of which one question alone has none.
    """
    conventions = dataclasses.replace(model.config.conventions, question_mask=True)
    config = dataclasses.replace(model.config, conventions=conventions)
    return dataclasses.replace(model, config=config)


def encode(model: Trained, rows: list[np.ndarray]) -> list[Features]:
    """Pixels -> Features, copied out of their batch so that it can go."""
    pixels, vectors = np.stack(rows), None
    if "vision_proj" in model.params:
        tokens, vectors = jax.device_get(encode_images(model.blip, model.on_device, pixels))
    else:
        tokens = np.asarray(image_tokens(model.blip, model.on_device, pixels))
    return [
        Features(tokens[i].copy(), None if vectors is None else vectors[i].copy())
        for i in range(len(rows))
    ]


def caption(
    model: Trained, rows: list[tuple[np.ndarray, str | None, int]], method: str
) -> list[list[CaptionResult]]:
    """(tokens, prompt or None, seed) -> captions, best first; those of nucleus as drawn."""
    tokens, prompts, seeds = zip(*rows, strict=True)
    keys, options = seed_keys(seeds), CAPTIONS[method]
    texts, scores = write_captions(model, np.stack(tokens), keys, options, prompts, PROMPT_SLOTS)
    return [
        [CaptionResult(text, float(score)) for text, score in zip(*row, strict=True)]
        for row in zip(texts, scores, strict=True)
    ]


def answer(model: Trained, rows: list[tuple[np.ndarray, str]]) -> list[list[AnswerResult]]:
    """(tokens, question) -> answers, best first."""
    tokens, questions = zip(*rows, strict=True)
    sizes = {"num_beams": CHOICES, "top_n": CHOICES, "batch_size": len(rows)}
    texts, scores = write_answers(
        model, np.stack(tokens), questions, text_step=QUESTION_TOKENS, **sizes
    )
    return [
        [AnswerResult(text, float(score)) for text, score in zip(*row, strict=True)]
        for row in zip(texts, scores, strict=True)
    ]


def match(model: Trained, rows: list[tuple[np.ndarray, str]]) -> list[MatchResult]:
    """(tokens, text) -> how well they fit."""
    tokens, texts = zip(*rows, strict=True)
    ids, mask = text_ids(model, texts, MAX_TOKENS)
    batch = (np.stack(tokens), ids[:, None], mask[:, None])
    itm, itc = jax.device_get(score_texts(model.blip, model.on_device, *batch))
    return [MatchResult(float(a), float(b)) for a, b in zip(itm[:, 0], itc[:, 0], strict=True)]


def embed(model: Trained, rows: list[str]) -> np.ndarray:
    """Texts -> unit vectors [B, E]."""
    ids, mask = text_ids(model, rows, MAX_TOKENS)
    return np.asarray(encode_texts(model.blip, model.on_device, ids, mask))


def explain(
    model: Trained, rows: list[tuple[np.ndarray, str]]
) -> list[list[tuple[str, np.ndarray]]]:
    """(tokens, text) -> the words of the text, each with its heatmap [grid, grid]."""
    return [explain_words(model, *row) for row in rows]
