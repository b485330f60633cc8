"""Hugging Face's BLIP folders, in and out: caption, visual question answering, retrieval."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from blip_jax.config import BlipConfig, Conventions, Task
from blip_jax.files import write_json
from blip_jax.interop.initialisers import read_tensors
from blip_jax.interop.names import State
from blip_jax.interop.report import Imported
from blip_jax.interop.salesforce import export_salesforce, import_salesforce
from blip_jax.models.blip import PIXEL_MEAN, PIXEL_STD, Params, decoder_view, encoder_view
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
_CLASSES: dict[Task, str] = {
    "caption": "BlipForConditionalGeneration",
    "vqa": "BlipForQuestionAnswering",
    "retrieval": "BlipForImageTextRetrieval",
}
# transformers matches and answers with [CLS] first, starts captions from [DEC] alone, and lets
# answers attend to the padding of questions.
_CONVENTIONS = Conventions(match_first="cls", question_first="cls", question_mask=False)
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


def read_settings(path: Path) -> dict[str, Any]:
    """config.json; ValueError where it is not BLIP's or computes something else."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    theirs = json.loads(path.read_text(encoding="utf-8"))
    if theirs.get("model_type") != "blip":
        raise ValueError(f"{path}: model_type is {theirs.get('model_type')!r}, expected 'blip'")
    for part in ("vision_config", "text_config"):
        theirs[part] = theirs.get(part) or {}
        if theirs[part].get("hidden_act", "gelu") != "gelu":
            raise ValueError(f"{path}: {part}.hidden_act is not gelu, which BLIP computes")
    return theirs


def with_settings(config: BlipConfig, theirs: dict[str, Any]) -> BlipConfig:
    """What transformers means by its config.json, its own defaults included."""
    vision, text = theirs["vision_config"], theirs["text_config"]
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, norm_eps=vision.get("layer_norm_eps", 1e-5)),
        text=dataclasses.replace(
            config.text,
            norm_eps=text.get("layer_norm_eps", 1e-12),
            pad_id=text.get("pad_token_id", 0),
            sep_id=text.get("sep_token_id", 102),
            dec_id=text.get("bos_token_id", 30522),
        ),
        conventions=_CONVENTIONS,
    )


def check_settings(config: BlipConfig, theirs: dict[str, Any], folder: Path) -> None:
    """Raises ValueError that names every size of config.json that the tensors contradict."""
    expected = settings(config)
    wrong = [
        f"{part}.{name} is {theirs[part][name]}, the tensors say {expected[part][name]}"
        for part in ("vision_config", "text_config")
        for name in ("hidden_size", "num_hidden_layers", "intermediate_size")
        if theirs[part].get(name, expected[part][name]) != expected[part][name]
    ]
    if wrong:
        raise ValueError(f"{folder}/config.json does not fit the weights: {'; '.join(wrong)}")


def read_weights(folder: Path) -> State:
    """model.safetensors, its shards, or pytorch_model.bin and its shards."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return read_tensors(folder / name)
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            return {k: v for shard in shards for k, v in read_tensors(folder / shard).items()}
    raise FileNotFoundError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")


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
    elif config.task not in _CLASSES:
        raise ValueError(f"transformers has no class for a {config.task} model to do {task}")
    elif config.task == "vqa" and config.vision.width != config.text.width:
        raise ValueError(
            f"transformers' BlipForQuestionAnswering needs towers of one width; "
            f"vision.width is {config.vision.width}, text.width {config.text.width}"
        )
    if config.task == "pretrain":
        config = dataclasses.replace(config, task=task, sharing="all")
    return params, config


def settings(config: BlipConfig) -> dict[str, Any]:
    """config.json of transformers' BlipConfig."""
    vision, text = config.vision, config.text
    return {
        "architectures": [_CLASSES[config.task]],
        "model_type": "blip",
        "dtype": "float32",
        "image_text_hidden_size": config.embed_dim,
        "tie_word_embeddings": True,
        "vision_config": {
            "model_type": "blip_vision_model",
            "hidden_size": vision.width,
            "num_hidden_layers": vision.depth,
            "num_attention_heads": vision.heads,
            "intermediate_size": vision.mlp_width,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "layer_norm_eps": vision.norm_eps,
            "hidden_act": "gelu",
        },
        "text_config": {
            "model_type": "blip_text_model",
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "encoder_hidden_size": vision.width,
            "num_hidden_layers": text.depth,
            "num_attention_heads": text.heads,
            "intermediate_size": text.mlp_width,
            "max_position_embeddings": text.max_positions,
            "layer_norm_eps": text.norm_eps,
            "hidden_act": "gelu",
            "bos_token_id": text.dec_id,
            "eos_token_id": text.sep_id,
            "sep_token_id": text.sep_id,
            "pad_token_id": text.pad_id,
            "is_decoder": True,
        },
    }


def preprocessing(config: BlipConfig) -> dict[str, Any]:
    """preprocessor_config.json: the square bicubic resize and CLIP's statistics."""
    side = config.vision.image_size
    return {
        "image_processor_type": "BlipImageProcessor",
        "processor_class": "BlipProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(PIXEL_MEAN),
        "image_std": list(PIXEL_STD),
    }


def generation(config: BlipConfig) -> dict[str, Any]:
    """generation_config.json."""
    text = config.text
    return {
        "bos_token_id": text.dec_id,
        "eos_token_id": text.sep_id,
        "pad_token_id": text.pad_id,
        "max_length": 20,
    }


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
