"""Every checkpoint that Salesforce released with BLIP, by name."""

import dataclasses
from typing import Literal

from blip_jax.config import Task

_FILES = "https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/"


@dataclasses.dataclass(frozen=True)
class Released:
    """One released checkpoint; `blip_jax.load` knows it by `name` and by `hub`."""

    name: str
    task: Task
    image_size: int  # pixels, that it was trained at
    vision: Literal["B/16", "L/16"]
    source: str  # address of the original file
    hub: str = ""  # Hugging Face's conversion of it, where there is one; see its conventions
    licence: str = "BSD-3-Clause"

    @property
    def file(self) -> str:
        """Name of the original file."""
        return self.source.rsplit("/", 1)[-1]


def released(
    name: str, task: Task, size: int, vision: Literal["B/16", "L/16"], file: str, hub: str = ""
) -> Released:
    return Released(name, task, size, vision, f"{_FILES}{file}.pth", hub and f"Salesforce/{hub}")


_RELEASED = (
    released("pretrain-base-14m", "pretrain", 224, "B/16", "model_base_14M"),
    released("pretrain-base", "pretrain", 224, "B/16", "model_base"),
    released("pretrain-base-capfilt-l", "pretrain", 224, "B/16", "model_base_capfilt_large"),
    released("pretrain-large", "pretrain", 224, "L/16", "model_large"),
    released(
        "caption-base", "caption", 384, "B/16",
        "model_base_caption_capfilt_large", "blip-image-captioning-base",
    ),
    released(
        "caption-large", "caption", 384, "L/16",
        "model_large_caption", "blip-image-captioning-large",
    ),
    released(
        "retrieval-coco-base", "retrieval", 384, "B/16",
        "model_base_retrieval_coco", "blip-itm-base-coco",
    ),
    released(
        "retrieval-coco-large", "retrieval", 384, "L/16",
        "model_large_retrieval_coco", "blip-itm-large-coco",
    ),
    released(
        "retrieval-flickr-base", "retrieval", 384, "B/16",
        "model_base_retrieval_flickr", "blip-itm-base-flickr",
    ),
    released(
        "retrieval-flickr-large", "retrieval", 384, "L/16",
        "model_large_retrieval_flickr", "blip-itm-large-flickr",
    ),
    released("vqa-base", "vqa", 480, "B/16", "model_vqa", "blip-vqa-base"),
    released(
        "vqa-base-capfilt-l", "vqa", 480, "B/16",
        "model_base_vqa_capfilt_large", "blip-vqa-capfilt-large",
    ),
    released("nlvr-base", "nlvr", 384, "B/16", "model_base_nlvr"),
)  # fmt: skip


def list_models() -> tuple[Released, ...]:
    """All of them, pre-trained ones first."""
    return _RELEASED
