"""A model people hold: parameters, config, tokenizer, and what one does with them."""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file

from blip_jax import generation
from blip_jax.config import BlipConfig
from blip_jax.data.images import open_image, resize_square
from blip_jax.data.text import pre_caption
from blip_jax.models.blip import Blip, Params
from blip_jax.tokenizer import Tokenizer

ImageLike = str | Path | Image.Image | np.ndarray
Method = Literal["greedy", "nucleus", "beam"]


@dataclasses.dataclass(frozen=True)
class CaptionResult:
    """One written caption; `log_prob` is the sum over its tokens, natural logarithm."""

    text: str
    log_prob: float

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True)
class MatchResult:
    """How well a text fits an image: `itm` probability of a match, `itc` cosine."""

    itm: float
    itc: float


@dataclasses.dataclass(frozen=True)
class CaptionOptions:
    """How captions are written. Lengths are new tokens, [SEP] included."""

    method: Method = "beam"
    num_captions: int = 1
    prompt: str = ""
    min_new_tokens: int = 2
    max_new_tokens: int = 24
    num_beams: int = 3
    top_p: float = 0.9
    top_k: int = 0
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.method not in ("greedy", "nucleus", "beam"):
            raise ValueError(f"method is {self.method!r}; expected greedy, nucleus or beam")
        limit = {"greedy": 1, "beam": self.num_beams}.get(self.method, self.num_captions)
        if not 1 <= self.num_captions <= limit:
            raise ValueError(
                f"num_captions {self.num_captions} must be between 1 and {limit} with method "
                f"{self.method!r}"
            )


@dataclasses.dataclass(frozen=True)
class Model:
    """Parameters with the config and tokenizer they belong to."""

    params: Params
    config: BlipConfig
    tokenizer: Tokenizer

    @property
    def blip(self) -> Blip:
        """The pure functions, for anyone who wants them."""
        return Blip(self.config)

    def caption(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        seeds: Sequence[int] | None = None,
        batch_size: int = 32,
        **options: Any,
    ) -> list[list[CaptionResult]]:
        """Writes captions, best first, for each image (path, PIL image or uint8 array).

        Args:
          images: one or several.
          seeds: one an image, for nucleus sampling; 0, 1, 2 ... by default.
          batch_size: images a compiled batch.
          **options: fields of `CaptionOptions`.
        """
        chosen = CaptionOptions(**options)
        pixels = self._pixels(images)
        seeds = range(len(pixels)) if seeds is None else seeds
        results: list[list[CaptionResult]] = []
        for rows, count in batches(len(pixels), batch_size):
            keys = seed_keys([seeds[r] for r in rows])
            ids, scores = write_captions(self, pixels[rows], keys, chosen)
            for texts, row_scores in zip(self.texts(ids)[:count], scores[:count], strict=True):
                pairs = zip(texts, row_scores, strict=True)
                results.append([CaptionResult(t, float(s)) for t, s in pairs])
        return results

    def match(
        self,
        images: ImageLike | Sequence[ImageLike],
        texts: str | Sequence[str],
        *,
        batch_size: int = 32,
    ) -> list[MatchResult]:
        """Scores each image with the text of the same place."""
        pixels, words = self._pixels(images), [texts] if isinstance(texts, str) else list(texts)
        if len(pixels) != len(words):
            raise ValueError(f"match takes pairs; got {len(pixels)} images, {len(words)} texts")
        ids, mask = self._encode(words)
        results: list[MatchResult] = []
        for rows, count in batches(len(pixels), batch_size):
            batch = (self.params, pixels[rows], ids[rows, None], mask[rows, None])
            itm, itc = jax.device_get(score_texts(self.blip, *batch))
            pairs = zip(itm[:count, 0], itc[:count, 0], strict=True)
            results += [MatchResult(float(a), float(b)) for a, b in pairs]
        return results

    def embed_images(
        self, images: ImageLike | Sequence[ImageLike], *, batch_size: int = 32
    ) -> np.ndarray:
        """Unit vectors [B, embed_dim] of the joint space, float32."""
        pixels = self._pixels(images)
        return np.concatenate(
            [
                np.asarray(embed_images(self.blip, self.params, pixels[rows]))[:count]
                for rows, count in batches(len(pixels), batch_size)
            ]
        )

    def embed_texts(self, texts: str | Sequence[str], *, batch_size: int = 32) -> np.ndarray:
        """Unit vectors [B, embed_dim] of the joint space, float32."""
        ids, mask = self._encode([texts] if isinstance(texts, str) else list(texts))
        return np.concatenate(
            [
                np.asarray(embed_texts(self.blip, self.params, ids[rows], mask[rows]))[:count]
                for rows, count in batches(len(ids), batch_size)
            ]
        )

    def texts(self, ids: np.ndarray) -> list[list[str]]:
        """Token ids [B, K, T] -> K texts a row."""
        return [self.tokenizer.decode(row) for row in ids]

    def _pixels(self, images: ImageLike | Sequence[ImageLike]) -> np.ndarray:
        """uint8 [B, S, S, 3]."""
        several: Sequence[Any] = images if isinstance(images, list | tuple) else [images]
        if not several:
            raise ValueError("no images given")
        size = self.config.vision.image_size
        return np.stack([np.asarray(resize_square(open_image(x), size)) for x in several])

    def _encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        length = min(40, self.config.text.max_positions)
        return self.tokenizer.encode([pre_caption(t) for t in texts], max_length=length)


def batches(total: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Row numbers of full batches, the last filled up with its last row, and how many count."""
    size = min(size, total)
    for start in range(0, total, size):
        rows = np.arange(start, start + size)
        yield np.minimum(rows, total - 1), min(size, total - start)


def seed_keys(seeds: Sequence[int]) -> jax.Array:
    """One typed key a seed."""
    return jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))


@functools.partial(jax.jit, static_argnums=0)
def embed_images(blip: Blip, params: Params, pixels: jax.Array) -> jax.Array:
    """Pixels -> unit vectors [B, E]."""
    return blip.image_embeds(params, blip.image_tokens(params, pixels))


@functools.partial(jax.jit, static_argnums=0)
def embed_texts(blip: Blip, params: Params, ids: jax.Array, mask: jax.Array) -> jax.Array:
    """Texts with [CLS] first -> unit vectors [B, E]."""
    return blip.text_embeds(params, ids, mask)


@functools.partial(jax.jit, static_argnums=0)
def score_texts(
    blip: Blip, params: Params, pixels: jax.Array, ids: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Images [B, S, S, 3] with N texts each [B, N, T] -> ITM probability and ITC cosine [B, N].

    The image tower runs once an image, whatever N.
    """
    rows, texts, length = ids.shape
    tokens = blip.image_tokens(params, pixels)
    flat_ids, flat_mask = ids.reshape(-1, length), mask.reshape(-1, length)
    image = blip.image_embeds(params, tokens)
    text = blip.text_embeds(params, flat_ids, flat_mask).reshape(rows, texts, -1)
    flat_ids = flat_ids.at[:, 0].set(blip.config.text.enc_id)
    logits = blip.match_logits(params, jnp.repeat(tokens, texts, 0), flat_ids, flat_mask)
    itm = jax.nn.softmax(logits)[:, 1].reshape(rows, texts)
    return itm, jnp.einsum("be,bne->bn", image, text)


def write_captions(
    model: Model, pixels: np.ndarray, keys: jax.Array, options: CaptionOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [B, S, S, 3] -> token ids [B, K, P + T], the prompt included, and log-probs [B, K]."""
    length = model.tokenizer.count([options.prompt])[0] - 1  # without [SEP]
    prompt, _ = model.tokenizer.encode(
        [options.prompt], max_length=length, first="[DEC]", eos=False
    )
    decoder = caption_program(model.blip, options)
    shape = (len(pixels), length)
    prompts = np.broadcast_to(prompt, shape)
    lengths = np.full(len(pixels), length, np.int32)
    written = jax.device_get(decoder(model.params, pixels, prompts, lengths, keys))
    lead = np.broadcast_to(prompts[:, None], (shape[0], written.tokens.shape[1], shape[1]))
    return np.concatenate([lead, written.tokens], -1), written.log_probs.sum(-1)


@functools.lru_cache(maxsize=32)
def caption_program(blip: Blip, options: CaptionOptions) -> Callable[..., generation.Generated]:
    """The jitted program (params, pixels, prompt, prompt_length, keys) -> Generated."""
    text = blip.config.text
    common: dict[str, Any] = {
        "max_new_tokens": options.max_new_tokens,
        "min_new_tokens": options.min_new_tokens,
        "eos_id": text.sep_id,
        "pad_id": text.pad_id,
        "repetition_penalty": options.repetition_penalty,
    }

    @jax.jit
    def program(
        params: Params,
        pixels: jax.Array,
        prompt: jax.Array,
        prompt_length: jax.Array,
        keys: jax.Array,
    ) -> generation.Generated:
        tokens = blip.image_tokens(params, pixels)
        logits, cross, cache = blip.prefill(
            params, tokens, prompt, prompt_length, options.max_new_tokens
        )
        decode = functools.partial(blip.decode, params, cross)
        start = (decode, logits, cache, prompt, prompt_length)
        if options.method == "greedy":
            return generation.greedy(*start, **common)
        if options.method == "nucleus":
            sampling: dict[str, Any] = {"keys": keys, "num_samples": options.num_captions}
            return generation.nucleus(
                *start, top_p=options.top_p, top_k=options.top_k, **sampling, **common
            )
        return generation.beam(
            *start,
            num_beams=options.num_beams,
            num_return=options.num_captions,
            length_penalty=options.length_penalty,
            **common,
        )

    return program


def save(model: Model, path: str | Path) -> None:
    """Writes a model folder: model.safetensors, config.json, tokenizer/. All of it or nothing."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(flatten(model.params), partial / "model.safetensors")
    model.config.save(partial / "config.json")
    model.tokenizer.save(partial / "tokenizer")
    if path.exists():
        shutil.rmtree(path)
    partial.rename(path)


def load(path: str | Path) -> Model:
    """Reads a model folder that `save` wrote.

    Raises:
      FileNotFoundError: the folder or one of its parts is not there.
    """
    path = Path(path)
    for name in ("model.safetensors", "config.json", "tokenizer"):
        if not (path / name).exists():
            raise FileNotFoundError(f"{path} is not a blip_jax model folder: {name} is missing")
    params = unflatten(load_file(path / "model.safetensors"))
    config = BlipConfig.load(path / "config.json")
    return Model(params, config, Tokenizer.from_source(path / "tokenizer"))


def flatten(tree: Params, prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dict -> {"vision/patch/kernel": array}."""
    flat: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = np.asarray(value, order="C")
    return flat


def unflatten(flat: dict[str, np.ndarray]) -> Params:
    """Inverse of `flatten`."""
    tree: Params = {}
    for name, value in flat.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree
