"""A model people hold: parameters, config, tokenizer, and what one does with them."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from blip_jax.data.images import open_image
from blip_jax.inference import answer, caption, classify, embed, explain, match, nlvr
from blip_jax.inference.batching import batches
from blip_jax.inference.caption import CaptionOptions
from blip_jax.inference.explain import ExplainResult
from blip_jax.inference.pixels import ImageLike, Pixels
from blip_jax.inference.results import (
    AnswerResult,
    CaptionResult,
    ClassResult,
    MatchMatrix,
    MatchResult,
    NlvrResult,
)
from blip_jax.inference.trained import Trained
from blip_jax.interop.folder import flatten
from blip_jax.interop.source import find_tokenizer, load_source, resolve, with_tokenizer
from blip_jax.models.blip import Params

Images = ImageLike | Sequence[ImageLike]

# What the parameters of each task are good for.
ABILITIES = {
    "pretrain": ("caption", "match", "embed", "explain"),
    "caption": ("caption",),
    "retrieval": ("match", "embed", "explain"),
    "vqa": ("answer",),
    "nlvr": ("nlvr",),
    "visdial": ("rank candidates (blip_jax.inference.dialog)",),
    "classify": ("classify",),
}


@dataclasses.dataclass(frozen=True)
class Model(Trained):
    """A trained BLIP. Images are paths, PIL images or uint8 arrays, one or a list of them.

    Whatever is asked of several images or texts at once is what each would get alone. A method
    that the model's task has no parameters for raises ValueError.
    """

    def caption(
        self,
        images: Images,
        *,
        prompt: str | Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        batch_size: int = 32,
        **options: Any,
    ) -> list[list[CaptionResult]]:
        """Writes captions, best first, for each image.

        Args:
          images: one or several.
          prompt: what every caption begins with, or one prompt an image; None for the model's
            own (`config.conventions.prompt`), which is left out of the texts.
          seeds: one an image, for nucleus sampling; 0, 1, 2 ... by default.
          batch_size: images a compiled batch.
          **options: the other fields of `CaptionOptions`.
        """
        self.need("caption")
        pixels = self._pixels(images)
        one = prompt if isinstance(prompt, str) or prompt is None else None
        chosen = CaptionOptions(prompt=one, **options)
        prompts = None if one == prompt else _many(prompt, len(pixels), "prompts")
        seeds = _many(range(len(pixels)) if seeds is None else seeds, len(pixels), "seeds")
        results: list[list[CaptionResult]] = []
        for rows, count in batches(len(pixels), batch_size):
            keys = caption.seed_keys([seeds[r] for r in rows])
            own = None if prompts is None else [prompts[r] for r in rows]
            texts, scores = caption.write_captions(self, pixels[rows], keys, chosen, own)
            for row, row_scores in zip(texts[:count], scores[:count], strict=True):
                pairs = zip(row, row_scores, strict=True)
                results.append([CaptionResult(t, float(s)) for t, s in pairs])
        return results

    def answer(
        self,
        images: Images,
        questions: str | Sequence[str],
        candidates: Sequence[str] | None = None,
        *,
        top_n: int = 1,
        batch_size: int = 8,
        **options: Any,
    ) -> list[list[AnswerResult]]:
        """Answers a question about each image, the `top_n` best answers first.

        Args:
          images: one or several.
          questions: one an image, or one for all.
          candidates: the answers there are, ranked as the original does; None writes answers.
          top_n: answers a question.
          batch_size: questions a compiled batch.
          **options: num_beams, min_new_tokens, max_new_tokens of `write_answers`; top_k of
            `rank_answers`.
        """
        self.need("answer")
        pixels = self._pixels(images)
        asked = _many(questions, len(pixels), "questions")
        if candidates is None:
            sizes = {"top_n": top_n, "batch_size": batch_size}
            texts, log_probs = answer.write_answers(self, pixels, asked, **sizes, **options)
        else:
            ranked = (self, pixels, asked, candidates)
            chosen, scores = answer.rank_answers(*ranked, batch_size=batch_size, **options)
            if top_n > chosen.shape[1]:
                raise ValueError(f"top_n {top_n} exceeds the {chosen.shape[1]} ranked candidates")
            texts = [[candidates[i] for i in row[:top_n]] for row in chosen]
            log_probs = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        return [
            [AnswerResult(t, float(p)) for t, p in zip(row, probs, strict=False)]
            for row, probs in zip(texts, log_probs, strict=True)
        ]

    def match(
        self, images: Images, texts: str | Sequence[str], *, batch_size: int = 32
    ) -> list[MatchResult]:
        """Scores each image with the text of the same place."""
        self.need("match")
        pixels = self._pixels(images)
        words = _many([texts] if isinstance(texts, str) else texts, len(pixels), "texts")
        itm, itc = match.match_pairs(self, pixels, words, batch_size)
        return [MatchResult(float(a), float(b)) for a, b in zip(itm, itc, strict=True)]

    def match_matrix(
        self,
        images: Images,
        texts: Sequence[str],
        top_k: int | None = None,
        *,
        batch_size: int = 32,
    ) -> MatchMatrix:
        """Scores every image with every text: arrays `itm` and `itc` [N, M].

        With `top_k`, ITM is computed for each image's `top_k` texts of highest ITC and for each
        text's `top_k` images alone, and is NaN for other pairs. Images are then opened twice.
        """
        self.need("match")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, but it is {top_k}")
        words = [texts] if isinstance(texts, str) else texts
        return match.match_matrix(self, self._pixels(images), words, top_k, batch_size)

    def embed_images(self, images: Images, *, batch_size: int = 32) -> np.ndarray:
        """Unit vectors [N, embed_dim] of the joint space, float32."""
        self.need("embed")
        return embed.embed_images(self, self._pixels(images), batch_size)

    def embed_texts(self, texts: str | Sequence[str], *, batch_size: int = 32) -> np.ndarray:
        """Unit vectors [N, embed_dim] of the joint space, float32."""
        self.need("embed")
        words = [texts] if isinstance(texts, str) else list(texts)
        return embed.embed_texts(self, words, batch_size)

    def nlvr(
        self,
        left_images: Images,
        right_images: Images,
        texts: str | Sequence[str],
        *,
        batch_size: int = 16,
    ) -> list[NlvrResult]:
        """Judges statements about pairs of images; one statement a pair, or one for all."""
        self.need("nlvr")
        left, right = self._pixels(left_images), self._pixels(right_images)
        _many(right, len(left), "right images")
        words = _many(texts, len(left), "texts")
        logits = nlvr.judge(self, left, right, words, batch_size)
        true = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
        return [NlvrResult(bool(p > 0.5), float(p)) for p in true]

    def classify(
        self, images: Images, texts: str | Sequence[str] = "", *, batch_size: int = 32
    ) -> list[ClassResult]:
        """The class of each image with a text, of `config.classes`; one text each, or for all."""
        self.need("classify")
        pixels = self._pixels(images)
        words = _many(texts, len(pixels), "texts")
        found = classify.classify(self, pixels, words, batch_size)
        results = []
        for row in found:
            best = {self.config.classes[i]: float(row[i]) for i in np.argsort(-row)}
            results.append(ClassResult(next(iter(best)), best))
        return results

    def explain(
        self, image: ImageLike, text: str, word: str | None = None, *, layer: int | None = None
    ) -> ExplainResult:
        """Where in the image the text, or one `word` of it, was found (Grad-CAM).

        Args:
          image: one image.
          text: what it is matched with.
          word: one word of the text; None for all of them.
          layer: block whose cross-attention is shown; by default two thirds up.
        """
        self.need("explain")
        picture = open_image(image)
        heatmap = explain.explain(self, self._pixels(picture).open(0), text, word, layer)
        return ExplainResult(heatmap, picture)

    def need(self, ability: str) -> None:
        """Raises ValueError where the task has no parameters for an ability; see `ABILITIES`."""
        can = ABILITIES[self.config.task]
        if ability not in can:
            raise ValueError(
                f"a model of task {self.config.task!r} has no parameters to {ability} with; "
                f"it can {', '.join(can)}"
            )

    def _pixels(self, images: Images) -> Pixels:
        return Pixels(images, self.config.vision.image_size)


def _many(values: Any, count: int, name: str) -> Any:
    """One value an image; a single text is given to all."""
    several = [values] * count if isinstance(values, str) else values
    if len(several) != count:
        raise ValueError(f"got {count} images, {len(several)} {name}; they go in pairs")
    return several


def save(model: Trained, path: str | Path) -> None:
    """Writes a model folder: model.safetensors, config.json, tokenizer/. All of it or nothing.

    Raises:
      ValueError: the parameters are those of `Model.for_inference`.
    """
    path = Path(path)
    if model.inference_only:
        raise ValueError(
            f"{path}: a model made for_inference() lacks what a file holds; save the model that "
            "it was made of"
        )
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(flatten(model.params), partial / "model.safetensors")
    model.config.save(partial / "config.json")
    model.tokenizer.save(partial / "tokenizer")
    if path.exists():
        shutil.rmtree(path)
    partial.rename(path)


def load(
    source: str | Path,
    *,
    image_size: int | None = None,
    vision_heads: int | None = None,
    text_heads: int | None = None,
) -> Model:
    """Opens a model: a folder that `save` wrote, or any BLIP weights there are.

    Args:
      source: a model folder; a .pth of the original or of LAVIS; a Hugging Face folder or hub
        name; or a name of `list_models()`.
      image_size: pixels; positions are interpolated to it as torch does. As stored by default.
      vision_heads, text_heads: attention heads, where a .pth's are not 64 wide.

    Raises:
      FileNotFoundError: there is no such thing here, or at the hub.
      ValueError: what is there is no BLIP; all that is wrong with it is named.
    """
    path = resolve(source)
    found = load_source(
        path, image_size=image_size, vision_heads=vision_heads, text_heads=text_heads
    )
    tokenizer = find_tokenizer(path)
    return Model(placed(found.params), with_tokenizer(found.config, tokenizer), tokenizer)


def placed(tree: Params) -> Params:
    """Moves a tree, leaf by leaf, to where programs run, so that it is never there twice."""
    return {
        name: placed(leaf) if isinstance(leaf, dict) else jax.device_put(leaf).block_until_ready()
        for name, leaf in ((name, tree.pop(name)) for name in list(tree))
    }
