"""BLIP: one parameter tree, and the functions that look at it.

`params` is a plain nested dict. That of a pre-trained model::

    vision/                 the ViT
    text/embeddings/        shared
    text/blocks/            stacked on a leading layer axis
        encoder_attention/  self-attention of the encoder view
        decoder_attention/  self-attention of the decoder view
        cross_attention/    shared
        mlp/                shared
    text/lm_head/           transform, norm and bias; the output matrix is the word embedding
    vision_proj/ text_proj/ itm_head/ temperature

Sharing is what the views (`blip_jax.models.views`) pick from it, and nothing else. What was
fine-tuned for one task holds less, and a text tree of one role has plain `attention`::

    caption                 vision, text (with lm_head)
    retrieval               vision, text, vision_proj, text_proj, itm_head, temperature
    vqa                     vision, text (of the question), text_decoder (with lm_head)
    nlvr                    vision, text (see `blip_jax.models.nlvr`), nlvr_head/ hidden, out
    visdial                 vision, text, itm_head, and caption_proj where the towers' widths differ
    classify                vision, text, class_head/ hidden, out
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from blip_jax.config import BlipConfig
from blip_jax.models import nlvr
from blip_jax.models.attention import KeysValues
from blip_jax.models.initial import initial_params
from blip_jax.models.layers import Params, by_parts
from blip_jax.models.med import LmHead, TextTransformer, begin, feed, first_token
from blip_jax.models.views import decoder_view, encoder_part, encoder_view
from blip_jax.models.vit import VisionTransformer

# (tokens int [B, K], position int [B], cache) -> (logits [B, K, V], cache)
Decode = Callable[[jax.Array, jax.Array, list[KeysValues]], tuple[jax.Array, list[KeysValues]]]

TOWERS = ("vision", "text", "text_decoder")  # what is computed in the config's dtype

# CLIP's statistics, which BLIP uses whatever its ViT was trained with.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


def normalise(pixels: jax.Array) -> jax.Array:
    """uint8 [..., 3] -> float32, CLIP-normalised."""
    shape = (1,) * (pixels.ndim - 1) + (3,)
    mean, std = (jnp.asarray(x).reshape(shape) for x in (PIXEL_MEAN, PIXEL_STD))
    return (pixels.astype(jnp.float32) / 255 - mean) / std


def linear(params: Params, x: jax.Array) -> jax.Array:
    """x [..., I] -> [..., O] in float32: the heads are small and feed losses."""
    y = x.astype(jnp.float32) @ params["kernel"]
    return y + params["bias"].reshape((1,) * (y.ndim - 1) + (-1,))


def head(params: Params, x: jax.Array) -> jax.Array:
    """A head of two layers: x [..., I] -> [..., O] in float32."""
    return linear(params["out"], jax.nn.relu(linear(params["hidden"], x)))


def unit(x: jax.Array) -> jax.Array:
    """L2-normalised along the last axis, as `F.normalize`."""
    norm = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), -1, keepdims=True), 1e-24))
    return x / norm


@dataclasses.dataclass(frozen=True)
class Blip:
    """The pure functions of a BLIP. Holds no parameters; hashable, so a static argument of jit.

    Shapes: B images or texts, T text tokens, S image tokens, W widths, L layers, H heads.
    `rng` is a dropout key; None evaluates. A loss passes one even where nothing is dropped out:
    what evaluates keeps nothing for a gradient.
    """

    config: BlipConfig

    @functools.cached_property
    def _vision(self) -> Any:
        return VisionTransformer(self.config)

    @functools.cached_property
    def _text(self) -> Any:
        return TextTransformer(self.config)

    def init(self, rng: jax.Array) -> Params:
        """Random parameters of the config's task (`blip_jax.models.initial`)."""
        return initial_params(self.config, rng)

    def working(self, params: Params) -> Params:
        """The same parameters as inference takes them; the numbers are the same.

        The towers' kernels are in the dtype they are used in, so that no program has to convert
        them, and a model that writes holds its decoder as it writes, as "writer", and not as
        training has it. Parameters that are so already are given back.
        """
        if "writer" in params:
            return params
        towers = {name: params[name] for name in TOWERS if name in params}
        tree = params | self._in_use(towers)
        view = decoder_view(tree)
        if "lm_head" not in view:
            return tree
        return encoder_part(tree) | {"writer": view | _make_writer(self, view)}

    def _in_use(self, tree: Params) -> Params:
        dtype = jnp.dtype(self.config.dtype)

        def used(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
            return x.astype(dtype) if path[-1].key == "kernel" else x

        return jax.tree_util.tree_map_with_path(used, tree)

    def _writer(self, view: Params) -> Params:
        """Blocks and head of the decoder view for a token at a time: the layers apart, and
        kernels [out, in]."""

        def turned(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
            return x.T if path[-1].key == "kernel" else x

        layers = [
            jax.tree.map(operator.itemgetter(i), view["blocks"])
            for i in range(self.config.text.depth)
        ]
        writer = self._in_use({"blocks": layers, "lm_head": view["lm_head"]})
        return dict(jax.tree_util.tree_map_with_path(turned, writer))

    def image_tokens(
        self, params: Params, images: jax.Array, rng: jax.Array | None = None
    ) -> jax.Array:
        """Images [B, H, W, 3], uint8 pixels or floats already normalised -> tokens [B, S, W].

        Videos [B, F, H, W, 3] of F frames give their frames' tokens in a row, [B, F * S, W].
        Tokens are given back as they are: what asks about images can be given theirs instead.
        """
        if images.ndim == 3:
            return images
        frames = images.reshape(-1, *images.shape[-3:])
        see = functools.partial(self._see, params["vision"])
        if rng is None:
            c = self.config.vision
            tokens = by_parts(see, c.tokens * c.mlp_width * 4, frames)
        else:
            tokens = see(frames, rng)
        return tokens.reshape(len(images), -1, tokens.shape[-1])

    def _see(self, params: Params, frames: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        return self._vision.apply(
            {"params": params},
            normalise(frames) if frames.dtype == jnp.uint8 else frames,
            deterministic=rng is None,
            rngs={} if rng is None else {"dropout": rng},
        )

    def image_embeds(self, params: Params, image_tokens: jax.Array) -> jax.Array:
        """Image tokens -> unit vectors [B, E] of the joint space, float32.

        Of videos, the direction of the mean over their frames (`eval_retrieval_video.py`).
        """
        first = image_tokens[:, :: self.config.vision.tokens]  # of each frame
        return unit(linear(params["vision_proj"], first).mean(1))

    def text_embeds(
        self,
        params: Params,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        rng: jax.Array | None = None,
    ) -> jax.Array:
        """Texts that begin with [CLS], int [B, T] -> unit vectors [B, E], float32."""
        first = self._first(encoder_view(params), input_ids, attention_mask, None, rng)
        return unit(linear(params["text_proj"], first))

    def match_logits(
        self,
        params: Params,
        image_tokens: jax.Array,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        rng: jax.Array | None = None,
    ) -> jax.Array:
        """ITM logits [B, 2], float32; class 1 is a match. Texts begin with [ENC].

        N texts that follow each other may share an image: image_tokens are then [B / N, S, W],
        and the keys and values of an image are computed once.
        """
        view = encoder_view(params)
        first = self._first(view, input_ids, attention_mask, image_tokens, rng)
        return linear(params["itm_head"], first)

    def question_tokens(
        self,
        params: Params,
        image_tokens: jax.Array,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        rng: jax.Array | None = None,
    ) -> jax.Array:
        """Texts grounded in their images -> hidden states [B, T, W]. Texts begin with [ENC].

        Those of a question are what VQA's decoder reads instead of the image.
        """
        view = encoder_view(params)
        return self._encode(view, input_ids, attention_mask, image_tokens, rng)

    def nlvr_logits(
        self,
        params: Params,
        left: jax.Array,
        right: jax.Array,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        rng: jax.Array | None = None,
    ) -> jax.Array:
        """Tokens of two images and a text each -> logits [B, 2], float32; class 1 is true."""
        args = (params["text"], input_ids, attention_mask, (left, right), rng)
        hidden = nlvr.encode(self.config, *args)
        return head(params["nlvr_head"], hidden[:, 0])

    def class_logits(
        self,
        params: Params,
        image_tokens: jax.Array,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        rng: jax.Array | None = None,
    ) -> jax.Array:
        """Logits [B, len(config.classes)], float32, of images with texts that begin with [ENC]."""
        view = encoder_view(params)
        first = self._first(view, input_ids, attention_mask, image_tokens, rng)
        return head(params["class_head"], first)

    def dialog_source(
        self,
        params: Params,
        image_tokens: jax.Array,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        rng: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """What a dialogue is about: an image's tokens, and after them its caption's.

        The caption [B, T] begins with [CLS] and goes through the text encoder, on its own
        (paper section 5.5, figure 5c).

        Returns:
          [B, S + T, W] and its padding mask, int [B, S + T].
        """
        view = encoder_view(params)
        caption = self._encode(view, input_ids, attention_mask, None, rng)
        if "caption_proj" in params:
            caption = linear(params["caption_proj"], caption)
        seen = jnp.ones(image_tokens.shape[:2], attention_mask.dtype)
        source = jnp.concatenate([image_tokens, caption.astype(image_tokens.dtype)], 1)
        return source, jnp.concatenate([seen, attention_mask], 1)

    def dialog_logits(
        self,
        params: Params,
        source: jax.Array,
        source_mask: jax.Array,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        rng: jax.Array | None = None,
    ) -> jax.Array:
        """Logits [B, 2], float32, of dialogues that begin with [ENC]; class 1: the answer is right.

        The source and its mask are those of `dialog_source`; N dialogues that follow each other
        may share theirs, as texts share an image in `match_logits`.
        """
        view = encoder_view(params)
        first = self._first(view, input_ids, attention_mask, source, rng, source_mask)
        return linear(params["itm_head"], first)

    def lm_logits(
        self,
        params: Params,
        source: jax.Array,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        rng: jax.Array | None = None,
        source_mask: jax.Array | None = None,
    ) -> jax.Array:
        """Next-token logits [B, T, V], float32. Texts begin with [DEC].

        The source [B, S, W] is the image's tokens; in VQA the question's, with its padding mask.
        """
        view = decoder_view(params)
        args = (view, input_ids, attention_mask, source, rng)
        hidden = self._encode(*args, causal=True, source_mask=source_mask)
        return self._head(view, hidden)

    def prefill(
        self,
        params: Params,
        source: jax.Array,
        prompt: jax.Array,
        prompt_length: jax.Array,
        max_new_tokens: int,
        source_mask: jax.Array | None = None,
        texts: int = 1,
    ) -> tuple[Decode, jax.Array, list[KeysValues]]:
        """Runs right-padded prompts [B, P] through the decoder, ready to write on.

        Rows may have different lengths: what padding writes into the cache lies behind every
        position a row may see, until a generated token overwrites it.

        `texts` says how many will be written for each row, K; any may be, in more time.

        Returns:
          What feeds tokens [B, K] at position [B] with such a cache, and returns logits [B, K, V]
          and the new cache; the logits [B, V] after each row's prompt; the cache, keys and values
          [B, 1, H, P + max_new_tokens, D] of each layer.
        """
        if "writer" in params:
            view = params["writer"]
        else:
            view = decoder_view(params)
            view = view | self._writer(view)
        mask = jnp.arange(prompt.shape[1])[None] < prompt_length[:, None]
        queries = prompt.shape[1] + texts * max_new_tokens // 2  # texts end early
        hidden, cross, cache = begin(self.config, view, prompt, mask, source, queries, source_mask)
        last = jnp.take_along_axis(hidden, prompt_length[:, None, None] - 1, axis=1)[:, 0]
        room = ((0, 0), (0, 0), (0, 0), (0, max_new_tokens), (0, 0))
        cache = jax.tree.map(lambda x: jnp.pad(x[:, None], room), cache)

        def decode(
            tokens: jax.Array, position: jax.Array, cache: list[KeysValues]
        ) -> tuple[jax.Array, list[KeysValues]]:
            args = (tokens, position, cross, cache, source_mask)
            hidden, cache = feed(self.config, view, *args)
            return self._head(view, hidden, by_rows=True), cache

        return decode, self._head(view, last, by_rows=True), cache

    def _first(
        self,
        view: Params,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        source: jax.Array | None,
        rng: jax.Array | None,
        source_mask: jax.Array | None = None,
    ) -> jax.Array:
        """The first hidden state [B, W] of each text."""
        if rng is None:
            return first_token(self.config, view, input_ids, attention_mask, source, source_mask)
        args = (view, input_ids, attention_mask, source, rng)
        return self._encode(*args, source_mask=source_mask)[:, 0]

    def _encode(
        self,
        view: Params,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        source: jax.Array | None,
        rng: jax.Array | None,
        causal: bool = False,
        source_mask: jax.Array | None = None,
    ) -> jax.Array:
        hidden: jax.Array = self._text.apply(
            {"params": {name: view[name] for name in ("embeddings", "blocks")}},
            input_ids,
            attention_mask,
            source,
            source_mask,
            causal=causal,
            deterministic=rng is None,
            rngs={} if rng is None else {"dropout": rng},
        )
        return hidden

    def _head(self, view: Params, hidden: jax.Array, by_rows: bool = False) -> jax.Array:
        head: Any = LmHead(self.config.text, self.config.dtype, by_rows)
        return head.apply({"params": view["lm_head"]}, hidden, view["embeddings"]["word"])


_make_writer = jax.jit(Blip._writer, static_argnums=0)
