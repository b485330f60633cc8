"""config.json and its neighbours, as Hugging Face's BLIP folders hold them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from blip_jax.config import BlipConfig, Conventions, Task
from blip_jax.models.blip import PIXEL_MEAN, PIXEL_STD

CLASSES: dict[Task, str] = {
    "caption": "BlipForConditionalGeneration",
    "vqa": "BlipForQuestionAnswering",
    "retrieval": "BlipForImageTextRetrieval",
}
# transformers matches and answers with [CLS] first, starts captions from [DEC] alone, and lets
# answers attend to the padding of questions.
_CONVENTIONS = Conventions(match_first="cls", question_first="cls", question_mask=False)
_SIZES = ("hidden_size", "num_hidden_layers", "intermediate_size")
_LEAST = {  # of the numbers that are taken from it
    "num_attention_heads": 1,
    "layer_norm_eps": 0.0,
    "pad_token_id": 0,
    "sep_token_id": 0,
    "bos_token_id": 0,
}


def read_settings(path: Path) -> dict[str, Any]:
    """config.json; ValueError where it is not BLIP's or computes something else."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    theirs = read_json(path)
    if theirs.get("model_type") != "blip":
        raise ValueError(f"{path}: model_type is {theirs.get('model_type')!r}, expected 'blip'")
    for part in ("vision_config", "text_config"):
        given = theirs.get(part) or {}
        if not isinstance(given, dict):
            raise ValueError(f"{path}: {part} is no JSON object")
        theirs[part] = {name: value for name, value in given.items() if value is not None}
        for name, least in _LEAST.items():
            value = theirs[part].get(name, least)
            if not isinstance(value, type(least)) or value < least:
                raise ValueError(f"{path}: {part}.{name} is {value!r}, expected {least} or more")
        if theirs[part].get("hidden_act", "gelu") != "gelu":
            raise ValueError(f"{path}: {part}.hidden_act is not gelu, which BLIP computes")
    return theirs


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file; ValueError where it holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content


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
        for name in _SIZES
        if theirs[part].get(name, expected[part][name]) != expected[part][name]
    ]
    if wrong:
        raise ValueError(f"{folder}/config.json does not fit the weights: {'; '.join(wrong)}")


def settings(config: BlipConfig) -> dict[str, Any]:
    """config.json of transformers' BlipConfig."""
    vision, text = config.vision, config.text
    return {
        "architectures": [CLASSES[config.task]],
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
