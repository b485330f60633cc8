"""Pre-training at the paper's scale (section 4.1, Table 14).

    blip-jax train --config configs/pretrain.py:vit_b,14m --workdir gs://BUCKET/RUN \
        --config.sources.human.place=human --config.sources.web.place=web \
        --config.init.vision=deit_base.pth --config.init.text=bert.safetensors

Each source is a folder of ArrayRecord files (`blip-jax data convert`) or a BLIP JSON list with
its image_root. Words of the variant, with commas between them:

    vit_b, vit_l     size of the vision tower
    14m, 129m        human and web pairs; with LAION, of which each epoch sees another fifth
    paper            the paper's batch sizes, 2880 and 2400, on 32 devices
    as_released      the released code's: batch 600, rate times 0.9 an epoch, all weights decayed,
                     Brightness and Sharpness without effect
    tiny             a model of a few steps that shows that the data and the machines work

Made for TPU slices of 64 to 256 chips; the original took 3 to 4 days on 32 GPUs for 14M. What a
failure looks like: an ITM loss that stays at 0.6365 (chance), an ITC loss that stays at the log
of batch and queue. Over the first of its 20 epochs on the 14M pairs after CapFilt the original had
a mean ITC of 3.0, ITM of 0.34 and LM of 3.4.
"""

from ml_collections import ConfigDict

from blip_jax.config import BLIP_B16, BLIP_L16, TINY
from blip_jax.train.settings import train_settings

WORDS = ("vit_b", "vit_l", "14m", "129m", "paper", "as_released", "tiny")
PAIRS = {"14m": 14_000_000, "129m": 37_000_000}  # of an epoch: 14M and a fifth of 115M
EPOCHS = 20


def get_config(variant: str = "") -> ConfigDict:
    """Settings of `blip-jax train`. Lengths in tokens, sizes in pixels, steps of a batch."""
    words = variant.split(",") if variant else []
    if unknown := sorted(set(words) - set(WORDS)):
        raise ValueError(
            f"configs/pretrain.py has no variant {unknown[0]!r}; expected some of "
            f"{', '.join(WORDS)}, with commas between"
        )
    large, released, tiny = "vit_l" in words, "as_released" in words, "tiny" in words
    config = ConfigDict()
    config.task = "pretrain"

    # Data: how often a source comes up follows its size, unless a weight (a share) is given.
    config.sources = ConfigDict({name: source() for name in ("human", "web", "laion")})
    config.sources.laion.parts = 5
    config.tokenizer = "bert-base-uncased"  # or a vocabulary file or a folder

    # Model
    model = TINY if tiny else BLIP_L16 if large else BLIP_B16
    config.model = ConfigDict(model.to_dict())
    if not tiny:
        config.model.dtype = "bfloat16"  # of activations; weights and optimizer stay float32
        config.model.vision.remat = config.model.text.remat = "dots"
        config.model.text.vocab_multiple = 128  # whole tiles, which any tensor axis divides
        # All layers in a row: longer to compile, and a fifth off a step by the compilers of TPUs.
        config.model.unroll = model.vision.depth
    config.init = ConfigDict({"vision": "", "text": "", "checkpoint": ""})  # files, or ""

    # Run
    batch_size = 2560 if large else 3072
    if "paper" in words:
        batch_size = 2400 if large else 2880
    if released:
        batch_size = 600
    epoch = PAIRS["129m" if "129m" in words else "14m"] // batch_size
    config.run = train_settings(steps=EPOCHS * epoch, batch_size=batch_size, lr=3e-4)
    config.run.checkpoint_every = 1000
    optimizer = config.run.optimizer
    optimizer.warmup_steps = 3000
    optimizer.decay = "epoch"
    optimizer.epoch_steps = epoch
    optimizer.decay_rate = 0.9 if released else 0.85
    optimizer.decay_all = released
    optimizer.clip_norm = 0.0 if released else 1.0
    if large and not released:
        optimizer.lr = 2e-4
    config.run.data.as_released = released
    config.run.objective = ConfigDict(
        {
            "queue_size": 57600,
            "momentum": 0.995,
            "alpha": 0.4,
            "alpha_ramp_steps": 2 * epoch,
            # Hard negatives come from so many rows; where they are not of one device, image
            # tokens travel.
            "group": 75 if released else 12 if not large else 10,
        }
    )
    if "paper" in words and not released:
        config.run.objective.group = 90 if not large else 75  # a GPU's rows
    if tiny:
        config.run.update({"steps": 20, "batch_size": 16, "log_every": 1, "checkpoint_every": 10})
        config.run.objective.update({"queue_size": 64, "group": 2})
        optimizer.update({"warmup_steps": 2, "epoch_steps": 5})
    return config


def source() -> ConfigDict:
    """Where pairs lie."""
    return ConfigDict({"place": "", "image_root": "", "weight": 0.0, "parts": 1})
