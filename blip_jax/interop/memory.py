"""What training keeps beside the parameters: momentum encoders and queues, in the original's names.

Here it is {teacher, queue}, as `tasks.contrastive` keeps it. Files hold more, such as the momentum
encoder's cross-attention, which nothing reads.
"""

from typing import Any

import numpy as np

from blip_jax.config import Task
from blip_jax.interop.names import (
    EMBEDDINGS,
    MLP,
    PROJECTIONS,
    SELF_ATTENTION,
    VISION,
    VISION_LAYER,
    Reader,
    State,
    fused,
    written,
    written_layers,
)
from blip_jax.models.blip import Params

_TOWERS = ("visual_encoder", "text_encoder", "vision_proj", "text_proj")
_PROJECTIONS_M = tuple((theirs.replace("_proj.", "_proj_m."), ours) for theirs, ours in PROJECTIONS)
_UNKNOWN = -100  # the original's image number of a feature that came from nowhere
Shapes = dict[str, tuple[int, ...]]
Memory = dict[str, Any]


def is_memory(name: str) -> bool:
    """Whether a tensor belongs to momentum encoders or queues."""
    return name.split(".")[0].endswith(("_m", "_queue", "queue_ptr"))


def is_momentum(name: str) -> bool:
    return name.split(".")[0].endswith("_m")


def memory_shapes(params: Shapes, state: State, task: Task, embed_dim: int) -> Shapes:
    """What a file with momentum encoders holds beside `params`, whatever its queue's length."""
    shapes = {}
    for name, shape in params.items():
        tower, _, rest = name.partition(".")
        if tower in _TOWERS:
            shapes[f"{tower}_m.{rest}"] = shape
    queue = state.get("image_queue", np.zeros((1, 1)))
    for name in ("image_queue", "text_queue"):
        shapes[name] = (embed_dim, queue.shape[-1])
    shapes["queue_ptr"] = (1,)
    if task == "retrieval":
        shapes["idx_queue"] = (1, queue.shape[-1])
    return shapes


def read_memory(reader: Reader) -> tuple[Memory, State]:
    """Takes the whole memory; and what it does not need of momentum, by its names there."""
    teacher = {
        "vision": reader.vision("visual_encoder_m."),
        "text": reader.text("text_encoder_m.", (*SELF_ATTENTION, *MLP)),
        **reader.tree(_PROJECTIONS_M, ""),
    }
    unread = {name: reader.take(name) for name in list(reader.state) if is_momentum(name)}
    return {"teacher": teacher, "queue": read_queue(reader)}, unread


def read_queue(reader: Reader) -> Memory:
    """Full queues [Q, E]; the original fills them with random vectors at the start."""
    image, text = reader.take("image_queue").T, reader.take("text_queue").T
    size = len(image)
    index = np.full(size, _UNKNOWN)
    if "idx_queue" in reader.state:
        index = reader.take("idx_queue", np.int64)[0]
    return {
        "image": image,
        "text": text,
        "image_index": np.where(index < 0, nameless(size), index).astype(np.int32),
        "count": np.int32(size + reader.take("queue_ptr", np.int64)[0]),
    }


def nameless(size: int) -> np.ndarray:
    """Numbers that no batch carries, for features of images that nobody knows."""
    return np.arange(size) + (np.iinfo(np.int32).max - size)


def write_memory(memory: Memory, params: State, task: Task) -> State:
    """Inverse of `read_memory`.

    Momentum tensors that `memory` lacks are those of `params`, in the original's names: the
    original wants them there and reads none of them.
    """
    state = {}
    for name, value in params.items():
        tower, _, rest = name.partition(".")
        if tower in _TOWERS:
            state[f"{tower}_m.{rest}"] = value
    state |= fused(write_teacher(memory["teacher"]))
    return state | write_queue(memory["queue"], task)


def write_teacher(teacher: Params) -> State:
    vision, text = teacher["vision"], teacher["text"]
    layers = "text_encoder_m.encoder.layer."
    state = dict(written(VISION, vision, "visual_encoder_m."))
    state |= written_layers(VISION_LAYER, vision["blocks"], "visual_encoder_m.blocks.")
    state |= written(EMBEDDINGS, text["embeddings"], "text_encoder_m.embeddings.")
    state |= written_layers((*SELF_ATTENTION, *MLP), text["blocks"], layers)
    state |= written(_PROJECTIONS_M, teacher, "")
    return state


def write_queue(queue: Memory, task: Task) -> State:
    size = len(queue["image_index"])
    state = {"image_queue": np.asarray(queue["image"]).T, "text_queue": np.asarray(queue["text"]).T}
    pointer = np.array([int(queue["count"]) % size])
    if task != "retrieval":
        return state | {"queue_ptr": pointer}
    index = np.asarray(queue["image_index"], np.int64)
    known = (index >= 0) & (index < nameless(size)[0])
    return state | {"ptr_queue": pointer, "idx_queue": np.where(known, index, _UNKNOWN)[None]}
