"""Pre-training checkpoints of the original into the parameter tree, and its names out of it."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from blip_jax.interop.names import (
    CROSS_ATTENTION,
    EMBEDDINGS,
    HEADS,
    LM_HEAD,
    MLP,
    SELF_ATTENTION,
    VISION,
    VISION_LAYER,
    Reader,
    State,
)
from blip_jax.models.blip import Params

DECODER_HEAD = "text_decoder.cls.predictions."


def import_pretrain(state: State) -> tuple[Params, dict[str, Any]]:
    """A pre-training state dict -> parameters and memory (momentum teacher and queues).

    The file holds what encoder and decoder share twice; both copies must be equal.

    Raises:
      ValueError: a tensor is missing, or unknown, or tied tensors differ; all are named.
    """
    reader = Reader({k: v for k, v in state.items() if not k.endswith("position_ids")})
    check_tied(reader)
    encoder, decoder = "text_encoder.encoder.layer.", "text_decoder.bert.encoder.layer."
    blocks = reader.layers((*CROSS_ATTENTION, *MLP), encoder)
    blocks["encoder_attention"] = reader.layers(SELF_ATTENTION, encoder)["attention"]
    blocks["decoder_attention"] = reader.layers(SELF_ATTENTION, decoder)["attention"]
    params = {
        "vision": reader.vision("visual_encoder."),
        "text": {
            "embeddings": reader.tree(EMBEDDINGS, "text_encoder.embeddings."),
            "blocks": blocks,
            "lm_head": reader.tree(LM_HEAD, DECODER_HEAD),
        },
        "temperature": reader.take("temp"),
        **reader.tree(HEADS, ""),
    }
    memory = {"teacher": read_teacher(reader), "queue": read_queue(reader)}
    if reader.unused():
        raise ValueError(f"unknown tensor(s): {', '.join(reader.unused())}")
    return params, memory


def check_tied(reader: Reader) -> None:
    """Compares the decoder's copies of shared tensors with the encoder's."""
    differ = []
    for name in reader.state:
        if name.startswith("text_decoder.bert.") and ".attention." not in name:
            twin = name.replace("text_decoder.bert.", "text_encoder.")
            if not np.array_equal(reader.take(name), reader.take(twin)):
                differ.append(name)
    word = reader.take("text_encoder.embeddings.word_embeddings.weight")
    if not np.array_equal(reader.take(f"{DECODER_HEAD}decoder.weight"), word):
        differ.append(f"{DECODER_HEAD}decoder.weight")
    # transformers resized only decoder.bias, so the other may be two tokens short.
    if f"{DECODER_HEAD}bias" in reader.state:
        reader.take(f"{DECODER_HEAD}bias")
    if differ:
        raise ValueError(f"tied tensors differ between encoder and decoder: {', '.join(differ)}")


def read_teacher(reader: Reader) -> Params:
    """The momentum encoders. Their cross-attention was never used and is dropped."""
    layers = "text_encoder_m.encoder.layer."
    for name in reader.state:
        if name.startswith(layers) and ".crossattention." in name:
            reader.take(name)
    heads = [(n.replace("_proj", "_proj_m"), p, t) for n, p, t in HEADS if "_proj" in n]
    return {
        "vision": reader.vision("visual_encoder_m."),
        "text": {
            "embeddings": reader.tree(EMBEDDINGS, "text_encoder_m.embeddings."),
            "blocks": reader.layers((*SELF_ATTENTION, *MLP), layers),
        },
        **reader.tree(heads, ""),
    }


def read_queue(reader: Reader) -> dict[str, Any]:
    """Full queues [Q, E]; the original fills them with random vectors at the start."""
    image, text = reader.take("image_queue").T, reader.take("text_queue").T
    size, pointer = len(image), int(reader.take("queue_ptr")[0])
    return {
        "image": image,
        "text": text,
        # No image of these features is known: numbers that no batch carries.
        "image_index": np.arange(size, dtype=np.int32) + (np.iinfo(np.int32).max - size),
        "count": np.int32(size + pointer),
    }


def flatten_like_salesforce(params: Params) -> State:
    """A tree shaped like the parameters, such as gradients, under the original's names.

    The names are those that the original's `named_parameters()` gives: what encoder and decoder
    share stands once, under `text_encoder`, and the tied output matrix is the word embedding.
    """
    vision, text = params["vision"], params["text"]
    encoder, decoder = "text_encoder.encoder.layer.", "text_decoder.bert.encoder.layer."
    own = {
        role: {"attention": text["blocks"][f"{role}_attention"]} for role in ("encoder", "decoder")
    }
    head = dict(written(LM_HEAD, text["lm_head"], DECODER_HEAD))
    # torch lists a tied tensor under the first of its names.
    head[f"{DECODER_HEAD}bias"] = head.pop(f"{DECODER_HEAD}decoder.bias")
    return {
        "temp": np.asarray(params["temperature"]),
        **dict(written(VISION, vision, "visual_encoder.")),
        **dict(written_layers(VISION_LAYER, vision["blocks"], "visual_encoder.blocks.")),
        **dict(fused(vision["blocks"]["attention"], "visual_encoder.blocks.")),
        **dict(written(EMBEDDINGS, text["embeddings"], "text_encoder.embeddings.")),
        **dict(written_layers((*CROSS_ATTENTION, *MLP), text["blocks"], encoder)),
        **dict(written_layers(SELF_ATTENTION, own["encoder"], encoder)),
        **dict(written_layers(SELF_ATTENTION, own["decoder"], decoder)),
        **head,
        **dict(written(HEADS, params, "")),
    }


def written(table: Any, tree: Params, prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    """The leaves that a table names, as torch lays them out."""
    for theirs, ours, _ in table:
        yield prefix + theirs, torch_layout(ours, leaf(tree, ours))


def written_layers(table: Any, tree: Params, prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    """The same of stacked layers, one name a layer."""
    for theirs, ours, _ in table:
        for i, value in enumerate(leaf(tree, ours)):
            yield f"{prefix}{i}.{theirs}", torch_layout(ours, value)


def fused(attention: Params, prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    """The ViT's fused qkv of each layer, rows in the order query, key, value."""
    parts = [attention[name] for name in ("query", "key", "value")]
    for theirs, ours in (("weight", "kernel"), ("bias", "bias")):
        stacked = np.concatenate([np.asarray(part[ours]) for part in parts], axis=-1)
        for i, value in enumerate(stacked):
            yield f"{prefix}{i}.attn.qkv.{theirs}", torch_layout(ours, value)


def torch_layout(path: str, value: np.ndarray) -> np.ndarray:
    """A kernel [..., in, out] -> weight [out, in, ...]; anything else as it is."""
    if not path.endswith("kernel"):
        return value
    return value.transpose(value.ndim - 1, value.ndim - 2, *range(value.ndim - 2))


def leaf(tree: Params, path: str) -> np.ndarray:
    """tree["a"]["b"] for the path "a/b"."""
    for name in path.split("/"):
        tree = tree[name]
    return np.asarray(tree)
