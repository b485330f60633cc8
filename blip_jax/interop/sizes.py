"""Reads a model's config off the names and shapes of the original's tensors."""

import math
from collections.abc import Collection

from blip_jax.config import BlipConfig, Conventions, Sharing, Task, TextConfig, VisionConfig
from blip_jax.interop.names import State, layer_numbers

HEAD_WIDTH = 64  # of every attention head in the released models
VISION = "visual_encoder."
PROMPT = "a picture of "  # what the original's captioners were trained to begin with
_SHARING: dict[Task, Sharing] = {"pretrain": "all_but_self_attention", "vqa": "none"}


def read_task(names: Collection[str]) -> Task:
    """Which of the original's five models the names belong to.

    Raises:
      ValueError: none of them; what the names begin with is told.
    """
    parts = {name.split(".")[0] for name in names}
    if "visual_encoder" in parts:
        if "cls_head" in parts:
            return "nlvr"
        if {"text_encoder", "text_decoder"} <= parts:
            return "pretrain" if "itm_head" in parts else "vqa"
        if "text_decoder" in parts:
            return "caption"
        if {"text_encoder", "itm_head"} <= parts:
            return "retrieval"
    shown = ", ".join(sorted(parts)[:8]) or "nothing"
    raise ValueError(f"not a BLIP model: expected visual_encoder and text towers, found {shown}")


def read_config(state: State, vision_heads: int | None, text_heads: int | None) -> BlipConfig:
    """Task and sizes of a state dict in the original's names.

    Heads leave no trace in a file: by default they are 64 wide, as in every released model.
    Where a tensor that tells a size is missing, BLIP-B's size stands in, so that the comparison
    that follows names it with all else that is wrong.

    Raises:
      ValueError: no BLIP model, or heads that do not divide a width.
    """
    task = read_task(state)
    text = "text_decoder.bert." if task == "caption" else "text_encoder."
    return BlipConfig(
        vision=read_vision(state, task, vision_heads),
        text=read_text(state, text, text_heads),
        task=task,
        conventions=Conventions(prompt=PROMPT if task == "caption" else ""),
        embed_dim=size(state, "vision_proj.weight", 0, 256),
        sharing=_SHARING.get(task, "all"),
    )


def read_vision(state: State, task: Task, heads: int | None) -> VisionConfig:
    patch = size(state, f"{VISION}patch_embed.proj.weight", 3, 16)
    width = size(state, f"{VISION}norm.weight", 0, 768)
    depth = len(layer_numbers(state, f"{VISION}blocks."))
    return VisionConfig(
        image_size=patch * math.isqrt(size(state, f"{VISION}pos_embed", 1, 197) - 1),
        patch_size=patch,
        width=width,
        depth=depth,
        heads=heads or max(1, width // HEAD_WIDTH),
        mlp_width=size(state, f"{VISION}blocks.0.mlp.fc1.weight", 0, 3072),
        # The original's create_vit: always for ViT-L, for ViT-B in these two tasks.
        drop_path=0.1 if depth > 12 or task in ("vqa", "nlvr") else 0.0,
    )


def read_text(state: State, prefix: str, heads: int | None) -> TextConfig:
    words = f"{prefix}embeddings.word_embeddings.weight"
    positions = f"{prefix}embeddings.position_embeddings.weight"
    vocab = size(state, words, 0, 30524)
    width = size(state, words, 1, 768)
    return TextConfig(
        vocab_size=vocab,
        width=width,
        depth=len(layer_numbers(state, f"{prefix}encoder.layer.")),
        heads=heads or max(1, width // HEAD_WIDTH),
        mlp_width=size(state, f"{prefix}encoder.layer.0.intermediate.dense.weight", 0, 3072),
        max_positions=size(state, positions, 0, 512),
        # The original appends the two task tokens to the vocabulary.
        dec_id=vocab - 2,
        enc_id=vocab - 1,
    )


def size(state: State, name: str, axis: int, default: int) -> int:
    """A dimension of a tensor, `default` where there is no such tensor or dimension."""
    if name not in state or state[name].ndim <= axis:
        return default
    return max(1, state[name].shape[axis])
