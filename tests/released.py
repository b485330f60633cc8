"""Small random models of every task, as trees and as the original's files."""

import dataclasses

import jax
import numpy as np

from blip_jax.config import BlipConfig, TextConfig, VisionConfig
from blip_jax.interop.salesforce import export_salesforce
from blip_jax.interop.shapes import template

TASKS = ("pretrain", "caption", "retrieval", "vqa", "nlvr")
# Eight text layers: NLVR merges from the seventh on.
CONFIG = BlipConfig(
    vision=VisionConfig(image_size=32, patch_size=8, width=24, depth=2, heads=4, mlp_width=40),
    text=TextConfig(
        vocab_size=40, width=16, depth=8, heads=2, mlp_width=20, max_positions=12, dec_id=38,
        enc_id=39,
    ),
    embed_dim=6,
)  # fmt: skip
HEADS = {"vision_heads": 4, "text_heads": 2}


def random_tree(config, seed=0):
    """A parameter tree of the config, every leaf random."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=np.shape(x)).astype(np.float32), template(config))


def tree(task, seed=0):
    """The same of CONFIG for a task."""
    return random_tree(dataclasses.replace(CONFIG, task=task), seed)


def file(task):
    """The state dict that the original would save, momentum and queues included."""
    config = dataclasses.replace(CONFIG, task=task)
    memory = memory_like(task) if task in ("pretrain", "retrieval") else None
    return export_salesforce(tree(task), config, memory)


def memory_like(task):
    """A teacher and queues that resemble nothing else in the file."""
    rng = np.random.default_rng(9)
    student, text = tree("retrieval", seed=1), tree("retrieval", seed=1)["text"]
    unimodal = {name: text["blocks"][name] for name in ("attention", "mlp")}
    teacher = {name: student[name] for name in ("vision", "vision_proj", "text_proj")}
    queues = rng.normal(size=(2, 4, 6)).astype(np.float32)
    return {
        "teacher": teacher | {"text": {"embeddings": text["embeddings"], "blocks": unimodal}},
        "queue": {
            "image": queues[0],
            "text": queues[1],
            "image_index": np.array([5, -1, 7, 8], np.int32),
            "count": np.int32(4 + 3),
        },
    }
