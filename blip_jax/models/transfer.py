"""The parameters of one task as the beginning of another's (the original's `load_checkpoint`)."""

import re

from blip_jax.config import Task
from blip_jax.models.layers import Params
from blip_jax.models.views import decoder_view, encoder_view

ENCODES = ("pretrain", "retrieval", "vqa", "visdial", "classify")  # have a text encoder
DECODES = ("pretrain", "caption", "vqa")  # have a text decoder

# What a source may lack, or have in another size: heads, NLVR2's merges, and of VQA's decoder
# what read an image as wide as ViT-L's and now reads a question.
NEW = re.compile(
    r"^(itm_head|class_head|nlvr_head|vision_proj|text_proj|caption_proj|temperature)(/|$)"
    r"|^text/blocks/cross_attention/merge/"
    r"|^text_decoder/blocks/cross_attention/(key|value)/"
)


def transfer(params: Params, source: Task, drawn: Params, task: Task) -> tuple[Params, list[str]]:
    """`drawn`, a tree of `task`, with what `params`, a tree of the task `source`, has of it.

    VQA's encoder and decoder become copies of their own, and both cross-attentions of NLVR2
    begin as the one there was.

    Returns:
      The tree, and the paths of what stayed as drawn.

    Raises:
      ValueError: the source lacks a tower that the task needs, or a tower is of another size.
    """
    new: list[str] = []
    tree = filled(drawn, offered(params, source, task), "", new)
    if wrong := [name for name in new if not NEW.search(name)]:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"of other sizes, or missing: {', '.join(wrong[:3])}{more}")
    return tree, new


def offered(params: Params, source: Task, task: Task) -> Params:
    """What a tree of the task `source` has for one of `task`, in that one's layout."""
    if source == task:
        return params
    for role, those in (("encoder", ENCODES), ("decoder", DECODES)):
        needs = task in those or (role == "encoder" and task == "nlvr")
        if needs and source not in those:
            raise ValueError(f"a model of task {source!r} has no text {role}, which {task!r} needs")
    if task == "caption":
        return params | {"text": decoder_view(params)}
    tree = params | {"text": encoder_view(params)}
    if task == "vqa":
        tree["text_decoder"] = decoder_view(params)
    if task == "nlvr":
        blocks = tree["text"]["blocks"]
        cross = dict(blocks["cross_attention"])
        norm = cross.pop("norm")
        twins = {"left": cross, "right": cross, "norm": norm}
        tree["text"] = tree["text"] | {"blocks": blocks | {"cross_attention": twins}}
    return tree


def filled(drawn: Params, found: Params, path: str, new: list[str]) -> Params:
    """`drawn` with the leaves of `found` that fit; `new` gets the paths of the others."""
    tree: Params = {}
    for name, leaf in drawn.items():
        here, other = f"{path}{name}", found.get(name)
        if isinstance(leaf, dict):
            inner = other if isinstance(other, dict) else {}
            tree[name] = filled(leaf, inner, f"{here}/", new)
        elif other is not None and other.shape == leaf.shape:
            tree[name] = other
        else:
            tree[name] = leaf
            new.append(here)
    return tree
