"""Writing captions after a prompt."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from blip_jax import generation
from blip_jax.inference.batching import power_of_two
from blip_jax.inference.trained import Trained, spread
from blip_jax.models.blip import Blip, Params

Method = Literal["greedy", "nucleus", "beam"]


@dataclasses.dataclass(frozen=True)
class CaptionOptions:
    """How captions are written. Lengths are new tokens, [SEP] included."""

    method: Method = "beam"
    num_captions: int = 1
    prompt: str | None = None  # None: the model's own, `config.conventions.prompt`
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
        if not 1 <= self.num_captions <= self.at_once:
            raise ValueError(
                f"num_captions {self.num_captions} must be between 1 and {self.at_once} with "
                f"method {self.method!r}"
            )

    @property
    def at_once(self) -> int:
        """Texts that are written side by side for an image."""
        return {"greedy": 1, "beam": self.num_beams}.get(self.method, self.num_captions)


def seed_keys(seeds: Sequence[int]) -> jax.Array:
    """One typed key a seed."""
    return jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))


def write_captions(
    model: Trained,
    images: np.ndarray | jax.Array,
    keys: jax.Array,
    options: CaptionOptions,
    prompts: Sequence[str | None] | None = None,
    slots: int = 1,
) -> tuple[list[list[str]], np.ndarray]:
    """Writes K captions for each of B images.

    Args:
      images: pixels [B, S, S, 3], or image tokens [B, S, W].
      keys: typed keys [B], for nucleus sampling.
      prompts: one an image, instead of `options.prompt`.
      slots: prompt slots of the program, at least.

    Returns:
      K texts an image, a given prompt included (the model's own is not), and log-probs [B, K].

    Raises:
      ValueError: prompt and new tokens do not fit the model's positions.
    """
    chosen = [options.prompt] * len(images) if prompts is None else prompts
    own = model.config.conventions.prompt
    full = [own if prompt is None else prompt for prompt in chosen]
    ids, lengths = encode_prompts(model, full, options.max_new_tokens, slots)
    mesh, batch = model.share(images, ids, lengths, keys)
    program = caption_program(model.blip, dataclasses.replace(options, prompt=None), mesh)
    written = jax.device_get(program(model.on_device, *batch))
    lead = np.broadcast_to(ids[:, None], (*written.tokens.shape[:2], ids.shape[1]))
    texts = model.texts(np.concatenate([lead, written.tokens], -1))
    for row, given, prompt in zip(texts, model.tokenizer.decode(ids), chosen, strict=True):
        if prompt is None:  # the model's own is left out
            row[:] = [text[len(given) :].strip() for text in row]
    return texts, written.log_probs.sum(-1)


def encode_prompts(
    model: Trained, prompts: Sequence[str], max_new_tokens: int, slots: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts -> ids int32 [B, P], [DEC] first and padded on the right, and lengths [B].

    P is a power of two, at least `slots`.
    """
    most = model.config.text.max_positions
    lengths = np.asarray(model.tokenizer.count(prompts), np.int32) - 1  # without [SEP]
    longest = int(lengths.max())
    if longest + max_new_tokens > most:
        raise ValueError(
            f"a prompt of {longest} tokens and {max_new_tokens} new ones do not fit "
            f"text.max_positions {most}"
        )
    slots = power_of_two(max(longest, slots), most)
    ids, _ = model.tokenizer.encode(prompts, max_length=slots, first="[DEC]", eos=False)
    return ids, lengths


@functools.lru_cache(maxsize=32)
def caption_program(
    blip: Blip, options: CaptionOptions, mesh: Mesh | None = None
) -> Callable[..., generation.Generated]:
    """The jitted program (params, images, prompt, prompt_length, keys) -> Generated.

    On a mesh of `Trained`, each device writes the captions of its own rows.
    """
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
        images: jax.Array,
        prompt: jax.Array,
        prompt_length: jax.Array,
        keys: jax.Array,
    ) -> generation.Generated:
        tokens = blip.image_tokens(params, images)
        ready = blip.prefill(
            params, tokens, prompt, prompt_length, options.max_new_tokens, texts=options.at_once
        )
        start = (*ready, prompt, prompt_length)
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

    return spread(program, mesh)
