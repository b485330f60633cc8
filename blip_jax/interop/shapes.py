"""The parameter tree of each task as an empty template, to hold files against."""

from typing import Any

import numpy as np

from blip_jax.config import BlipConfig
from blip_jax.models.blip import Params
from blip_jax.models.nlvr import FIRST_MERGE


def template(config: BlipConfig) -> Params:
    """Arrays of the right shapes that take no memory; read-only.

    The tree of `models.blip` for pre-training, whatever `sharing` says of it; for a fine-tuned
    model the one of its task: caption {vision, text}, retrieval {vision, text, vision_proj,
    text_proj, itm_head}, vqa {vision, text, text_decoder}, nlvr {vision, text, nlvr_head}.
    `temperature` is only in pre-training's, because a retrieval file may go without.
    """
    vision, text, depth = config.vision.width, config.text.width, config.text.depth
    tree = {"vision": vision_tree(config), "text": text_tree(config, vision)}
    if config.task == "pretrain":
        own = tree["text"]["blocks"].pop("attention")
        tree["text"]["blocks"] |= {"encoder_attention": own, "decoder_attention": own}
        tree["temperature"] = empty()
    if config.task in ("pretrain", "caption"):
        tree["text"]["lm_head"] = head_tree(config)
    if config.task in ("pretrain", "retrieval"):
        tree["vision_proj"] = linear(vision, config.embed_dim)
        tree["text_proj"] = linear(text, config.embed_dim)
        tree["itm_head"] = linear(text, 2)
    if config.task == "vqa":
        tree["text_decoder"] = text_tree(config, text) | {"lm_head": head_tree(config)}
    if config.task == "nlvr":
        cross = tree["text"]["blocks"]["cross_attention"] = twin_attention(text, vision, depth)
        if depth > FIRST_MERGE:
            cross["merge"] = linear(2 * text, text, depth - FIRST_MERGE)
        tree["nlvr_head"] = {"hidden": linear(text, text), "out": linear(text, 2)}
    return tree


def vision_tree(config: BlipConfig) -> Params:
    c = config.vision
    return {
        "class_token": empty(1, 1, c.width),
        "positions": empty(1, c.tokens, c.width),
        "patch": {"kernel": empty(c.patch_size, c.patch_size, 3, c.width), "bias": empty(c.width)},
        "norm": norm(c.width),
        "blocks": {
            "attention": attention(c.width, c.width, c.depth),
            "mlp": mlp(c.width, c.mlp_width, c.depth),
        },
    }


def text_tree(config: BlipConfig, source: int) -> Params:
    """Embeddings and blocks whose cross-attention looks at tokens of width `source`."""
    c = config.text
    return {
        "embeddings": {
            "word": empty(c.vocab_size, c.width),
            "position": empty(c.max_positions, c.width),
            "norm": norm(c.width),
        },
        "blocks": {
            "attention": attention(c.width, c.width, c.depth),
            "cross_attention": attention(c.width, source, c.depth),
            "mlp": mlp(c.width, c.mlp_width, c.depth),
        },
    }


def head_tree(config: BlipConfig) -> Params:
    width = config.text.width
    return {
        "transform": linear(width, width),
        "norm": norm(width),
        "bias": empty(config.text.vocab_size),
    }


def attention(width: int, source: int, depth: int) -> Params:
    return {**projections(width, source, depth), "norm": norm(width, depth)}


def twin_attention(width: int, source: int, depth: int) -> Params:
    left, right = projections(width, source, depth), projections(width, source, depth)
    return {"left": left, "right": right, "norm": norm(width, depth)}


def projections(width: int, source: int, depth: int) -> Params:
    return {
        "query": linear(width, width, depth),
        "key": linear(source, width, depth),
        "value": linear(source, width, depth),
        "out": linear(width, width, depth),
    }


def mlp(width: int, hidden: int, depth: int) -> Params:
    return {
        "up": linear(width, hidden, depth),
        "down": linear(hidden, width, depth),
        "norm": norm(width, depth),
    }


def linear(inputs: int, outputs: int, *lead: int) -> Params:
    return {"kernel": empty(*lead, inputs, outputs), "bias": empty(*lead, outputs)}


def norm(width: int, *lead: int) -> Params:
    return {"scale": empty(*lead, width), "bias": empty(*lead, width)}


def empty(*shape: int) -> Any:
    return np.broadcast_to(np.float32(0), shape)
