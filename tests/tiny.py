"""Small things the training tests are made of."""

import dataclasses

import jax
import numpy as np
from ml_collections import ConfigDict

from blip_jax.config import TINY, BlipConfig, Conventions
from blip_jax.model import Model
from blip_jax.models.blip import Blip
from blip_jax.tasks.contrastive import Contrastive
from blip_jax.tasks.pretrain import Pretrain
from blip_jax.tokenizer import Tokenizer
from blip_jax.train.settings import train_settings

TEXT = dataclasses.replace(
    TINY.text, vocab_size=64, width=32, depth=2, mlp_width=64, dec_id=4, enc_id=5
)
VISION = dataclasses.replace(TINY.vision, image_size=16, width=32, depth=2, mlp_width=64)
CONFIG = dataclasses.replace(TINY, vision=VISION, text=TEXT, embed_dim=16)
STILL = dataclasses.replace(  # no dropout
    CONFIG, text=dataclasses.replace(TEXT, dropout=0.0, attention_dropout=0.0)
)


def pretraining(config: BlipConfig = CONFIG, **settings) -> Pretrain:
    defaults = {"queue_size": 20, "alpha_ramp_steps": 4, "group": 4}
    return Pretrain(Contrastive(Blip(config), **defaults | settings))


def init_params(seed: int = 0):
    return jax.device_get(jax.jit(Blip(CONFIG).init)(jax.random.key(seed)))


def model(task: str = "pretrain", **conventions) -> Model:
    """A random model whose answers differ from image to image."""
    words = ["a red star and a blue ring", "two dogs on the left of three cats", "is it green?"]
    tokenizer = Tokenizer.train(words, vocab_size=96)
    names = ("vocab_size", "cls_id", "sep_id", "dec_id", "enc_id", "pad_id")
    text = dataclasses.replace(TEXT, **{name: getattr(tokenizer, name) for name in names})
    own = {"classes": ("no", "yes")} if task == "classify" else {}
    config = dataclasses.replace(
        CONFIG, text=text, task=task, conventions=Conventions(**conventions), init_std=0.3, **own
    )
    params = jax.device_get(jax.jit(Blip(config).init)(jax.random.key(0)))
    return Model(params, config, tokenizer)


def images(count: int, seed: int = 0) -> list[np.ndarray]:
    """Noise, each of its own size."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (16 + i, 20, 3), np.uint8) for i in range(count)]


def batch(seed: int, size: int = 8):
    rng = np.random.default_rng(seed)
    ids = rng.integers(6, 64, (size, 8)).astype(np.int32)
    ids[:, 0] = 2
    return {
        "image": rng.integers(0, 256, (size, 16, 16, 3)).astype(np.uint8),
        "input_ids": ids,
        "attention_mask": np.ones((size, 8), np.int32),
        "image_index": (np.arange(size) + 100 * seed).astype(np.int32),
        "uid_hash": (np.arange(size) + 100 * seed).astype(np.uint32),
        "prompt_length": np.ones(size, np.int32),
    }


def settings(steps: int = 6, **changes) -> ConfigDict:
    config = train_settings(steps=steps, batch_size=8, lr=1e-3)
    config.update({"log_every": 1, "checkpoint_every": 2, **changes})
    config.optimizer.update({"min_lr": 1e-5, "warmup_steps": 2, "b2": 0.99})
    return config
