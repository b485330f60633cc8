"""Random parameters of every task's tree; `blip_jax.models.blip` describes them."""

import jax
import jax.numpy as jnp

from blip_jax.config import BlipConfig
from blip_jax.models import nlvr
from blip_jax.models.layers import INITIAL_STD, Params, normal
from blip_jax.models.med import LmHead, TextTransformer
from blip_jax.models.vit import VisionTransformer

INITIAL_TEMPERATURE = 0.07


def initial_params(config: BlipConfig, rng: jax.Array) -> Params:
    """N(0, init_std) kernels, zero biases, N(0, 0.02) the rest but for the ViT's positions,
    which have their own `position_std`."""
    scale = config.init_std / INITIAL_STD
    draw = Draw(config, rng)
    tree = {
        "pretrain": draw.pretrain,
        "caption": draw.caption,
        "retrieval": draw.retrieval,
        "vqa": draw.vqa,
        "nlvr": draw.nlvr,
        "visdial": draw.visdial,
        "classify": draw.classify,
    }[config.task]()
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x * scale if path[-1].key == "kernel" else x, tree
    )


class Draw:
    """Draws sub-trees, each with the next key, as the original's `_init_weights`."""

    def __init__(self, config: BlipConfig, rng: jax.Array) -> None:
        self.config, self.keys = config, iter(jax.random.split(rng, 12))

    def pretrain(self) -> Params:
        """Both views, as `config.sharing` says, and the heads of ITC and ITM."""
        text = self.text()
        lm_head = self.lm_head(text)
        params = {"vision": self.vision(), "text": text, **self.match_heads()}
        if self.config.sharing == "none":
            return params | {"text_decoder": self.text() | {"lm_head": lm_head}}
        text["lm_head"] = lm_head
        if self.config.sharing == "all_but_self_attention":
            own = text["blocks"].pop("attention")
            text["blocks"]["encoder_attention"] = own
            text["blocks"]["decoder_attention"] = self.text()["blocks"]["attention"]
        return params

    def caption(self) -> Params:
        """The decoder alone."""
        text = self.text()
        return {"vision": self.vision(), "text": text | {"lm_head": self.lm_head(text)}}

    def retrieval(self) -> Params:
        """The encoder alone, with the heads of ITC and ITM."""
        return {"vision": self.vision(), "text": self.text(), **self.match_heads()}

    def vqa(self) -> Params:
        """An encoder of questions, and a decoder that reads its hidden states."""
        decoder = self.text(self.config.text.width)
        return {
            "vision": self.vision(),
            "text": self.text(),
            "text_decoder": decoder | {"lm_head": self.lm_head(decoder)},
        }

    def nlvr(self) -> Params:
        """An encoder of a text and two images."""
        text = nlvr.init_text(self.config, next(self.keys), self.text()["embeddings"])
        return {"vision": self.vision(), "text": text, "nlvr_head": self.head(2)}

    def visdial(self) -> Params:
        """An encoder of dialogues and captions, and the head of ITM."""
        image, width = self.config.vision.width, self.config.text.width
        tree = {"vision": self.vision(), "text": self.text(), "itm_head": self.linear(width, 2)}
        return tree if image == width else tree | {"caption_proj": self.linear(width, image)}

    def classify(self) -> Params:
        """An encoder of an image with a text, and a head of the classes.

        Raises:
          ValueError: the config names no classes.
        """
        if not self.config.classes:
            raise ValueError("config.classes is empty: a model that classifies needs their names")
        classes = len(self.config.classes)
        return {"vision": self.vision(), "text": self.text(), "class_head": self.head(classes)}

    def vision(self) -> Params:
        c = self.config
        image = jnp.zeros((1, c.vision.image_size, c.vision.image_size, 3))
        return VisionTransformer(c).init(next(self.keys), image)["params"]

    def text(self, source_width: int | None = None) -> Params:
        """{embeddings, blocks}; the cross-attention reads the image, or what is so wide."""
        c = self.config
        ids = jnp.zeros((1, 2), jnp.int32)
        source = jnp.zeros((1, c.vision.tokens, source_width or c.vision.width), c.dtype)
        return TextTransformer(c).init(next(self.keys), ids, ids, source)["params"]

    def lm_head(self, text: Params) -> Params:
        c = self.config
        hidden = jnp.zeros((1, c.text.width), c.dtype)
        word = text["embeddings"]["word"]
        return LmHead(c.text, c.dtype).init(next(self.keys), hidden, word)["params"]

    def match_heads(self) -> Params:
        c = self.config
        return {
            "vision_proj": self.linear(c.vision.width, c.embed_dim),
            "text_proj": self.linear(c.text.width, c.embed_dim),
            "itm_head": self.linear(c.text.width, 2),
            "temperature": jnp.float32(INITIAL_TEMPERATURE),
        }

    def head(self, features: int) -> Params:
        width = self.config.text.width
        return {"hidden": self.linear(width, width), "out": self.linear(width, features)}

    def linear(self, width: int, features: int) -> Params:
        kernel = normal(next(self.keys), (width, features))
        return {"kernel": kernel, "bias": jnp.zeros(features)}
