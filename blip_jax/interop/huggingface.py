"""Hugging Face's BLIP folders, in and out: caption, visual question answering, retrieval."""

import dataclasses
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from blip_jax.config import BlipConfig, Task
from blip_jax.files import write_json
from blip_jax.interop.huggingface_config import (
    CLASSES,
    check_settings,
    generation,
    preprocessing,
    read_json,
    read_settings,
    settings,
    with_settings,
)
from blip_jax.interop.initialisers import read_tensors
from blip_jax.interop.names import State
from blip_jax.interop.report import Imported
from blip_jax.interop.salesforce import export_salesforce, import_salesforce
from blip_jax.models.blip import Params
from blip_jax.models.views import decoder_view, encoder_view
from blip_jax.tokenizer import Tokenizer

# (theirs, the original's) parts of names; the text towers and the heads go by the same names.
_VISION = (
    ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
    ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
    ("vision_model.embeddings.patch_embedding.", "visual_encoder.patch_embed.proj."),
    ("vision_model.post_layernorm.", "visual_encoder.norm."),
    ("vision_model.encoder.layers.", "visual_encoder.blocks."),
)
_VISION_LAYER = (
    (".layer_norm1.", ".norm1."),
    (".layer_norm2.", ".norm2."),
    (".self_attn.qkv.", ".attn.qkv."),
    (".self_attn.projection.", ".attn.proj."),
)
_BERT_WIDTH, _BERT_HEADS, _WRONG_HEADS = 768, 12, 8


def import_huggingface(
    folder: str | Path, *, vision_heads: int | None = None, text_heads: int | None = None
) -> Imported:
    """A folder that `save_pretrained` wrote -> parameters, config and report; no memory.

    Raises:
      FileNotFoundError: config.json or the weights are not there.
      ValueError: another architecture, a size in config.json that the tensors contradict, or
        anything `import_salesforce` complains of.
    """
    folder = Path(folder)
    theirs = read_settings(folder / "config.json")
    vision, text = theirs["vision_config"], theirs["text_config"]
    heads, note = text_heads or text.get("num_attention_heads", _BERT_HEADS), ""
    if text_heads is None and (text.get("hidden_size"), heads) == (_BERT_WIDTH, _WRONG_HEADS):
        heads, note = _BERT_HEADS, "text_config.num_attention_heads 8: trained with 12"
    try:
        imported = import_salesforce(
            with_original_names(read_weights(folder)),
            vision_heads=vision_heads or vision.get("num_attention_heads", 12),
            text_heads=heads,
        )
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    config = with_settings(imported.config, theirs)
    check_settings(config, theirs, folder)
    if note:
        imported.report.dropped.append(note)
    return dataclasses.replace(imported, config=config)


def read_weights(folder: Path) -> State:
    """model.safetensors, its shards, or pytorch_model.bin and its shards."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return read_tensors(folder / name)
        if index.is_file():
            shards = shard_names(index)
            return {k: v for shard in shards for k, v in read_tensors(folder / shard).items()}
    raise FileNotFoundError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")


def shard_names(index: Path) -> list[str]:
    """The files that an index names; ValueError where they are not beside it."""
    placed = read_json(index).get("weight_map")
    shards = set(map(str, placed.values())) if isinstance(placed, dict) else set()
    if not shards or any(Path(shard).name != shard for shard in shards):
        raise ValueError(f"{index}: weight_map must name files in the folder it is in")
    return sorted(shards)


def export_huggingface(
    params: Params,
    config: BlipConfig,
    tokenizer: Tokenizer,
    folder: str | Path,
    task: Task | None = None,
) -> None:
    """Writes the folder that transformers' `from_pretrained` reads, weights as safetensors.

    Args:
      task: for a pre-training model, which has no class there: the part wanted, "caption" or
        "retrieval"; by default "caption".

    Raises:
      ValueError: transformers has no class for the model.
    """
    params, config = narrowed(params, config, task or "caption")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        to_huggingface(name): np.ascontiguousarray(value)
        for name, value in export_salesforce(params, config).items()
        if not name.endswith("position_ids") and name != "temp"
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", settings(config))
    write_json(folder / "preprocessor_config.json", preprocessing(config))
    write_json(folder / "processor_config.json", {"processor_class": "BlipProcessor"})
    write_json(folder / "generation_config.json", generation(config))
    tokenizer.save(folder)


def narrowed(params: Params, config: BlipConfig, task: Task) -> tuple[Params, BlipConfig]:
    """The part of a pre-training model that does `task`; any other model as it is.

    Raises:
      ValueError: transformers has no class for it.
    """
    if config.task == "pretrain" and task == "caption":
        params = {"vision": params["vision"], "text": decoder_view(params)}
    elif config.task == "pretrain" and task == "retrieval":
        heads = ("vision", "vision_proj", "text_proj", "itm_head")
        text = {k: v for k, v in encoder_view(params).items() if k != "lm_head"}
        params = {**{name: params[name] for name in heads}, "text": text}
    elif config.task not in CLASSES:
        raise ValueError(f"transformers has no class for a {config.task} model to do {task}")
    elif config.task == "vqa" and config.vision.width != config.text.width:
        raise ValueError(
            f"transformers' BlipForQuestionAnswering needs towers of one width; "
            f"vision.width is {config.vision.width}, text.width {config.text.width}"
        )
    if config.task == "pretrain":
        config = dataclasses.replace(config, task=task, sharing="all")
    return params, config


def with_original_names(state: State) -> State:
    """Their state dict in the original's names.

    Raises:
      ValueError: two tensors go by one name of the original's; all such are named.
    """
    renamed = {from_huggingface(name): value for name, value in state.items()}
    twice = [n for n in state if from_huggingface(n) != n and from_huggingface(n) in state]
    if twice:
        raise ValueError(f"in two namings at once: {', '.join(twice)}")
    return renamed


def from_huggingface(name: str) -> str:
    """Their name of a tensor -> the original's."""
    if not name.startswith("vision_model."):
        return name
    for theirs, original in (*_VISION, *_VISION_LAYER):
        name = name.replace(theirs, original)
    return name


def to_huggingface(name: str) -> str:
    """The original's name of a tensor -> theirs."""
    if not name.startswith("visual_encoder."):
        return name
    for theirs, original in (*_VISION_LAYER, *_VISION):
        name = name.replace(original, theirs)
    return name
