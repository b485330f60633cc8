"""The whole loop in an embedded world of drawn scenes: no data, no network, no accelerator.

    blip-jax bootstrap --config configs/demo.py --workdir runs/demo

Variants (`configs/demo.py:VARIANT`): the default takes about 8 minutes on 2 CPU cores; `smoke`
runs every stage in about a minute and learns nothing.
"""

from ml_collections import ConfigDict

from blip_jax.train.settings import train_settings


def get_config(variant: str = "") -> ConfigDict:
    """Settings of `blip-jax bootstrap`. Lengths in tokens, sizes in pixels, steps of a batch."""
    if variant not in ("", "smoke"):
        raise ValueError(f"configs/demo.py has no variant {variant!r}; expected none or 'smoke'")
    smoke = variant == "smoke"
    config = ConfigDict()
    config.seed = 0
    config.rounds = 1  # of CapFilt and pre-training again

    # Data
    config.world = ConfigDict(
        {
            "num_web": 300 if smoke else 8000,
            "num_clean": 100 if smoke else 4000,  # images, five captions each
            "num_val": 40 if smoke else 400,
            "seed": 0,
            "size": 32,
        }
    )
    config.tokenizer = "train"  # or a vocabulary file, a folder, a hub name
    config.vocab_size = 400  # of a trained one, at most

    # Model
    config.model = ConfigDict(
        {
            "vision": {
                "image_size": 32,
                "patch_size": 8,
                "width": 96,
                "depth": 2,
                "heads": 4,
                "mlp_width": 384,
                "position_std": 1.0,  # on a par with the patches
            },
            "text": {
                "width": 96,
                "depth": 2,
                "heads": 4,
                "mlp_width": 384,
                "max_positions": 64,
                "dropout": 0.0,  # a model this small under-fits; the paper's is 0.1
                "attention_dropout": 0.0,
            },
            "embed_dim": 64,
            "init_std": 0.08,  # the paper's 0.02 is for width 768
            "unroll": 2,
        }
    )
    config.init = ConfigDict({"vision": "", "text": "", "checkpoint": ""})  # files, or ""

    # Stages
    # Small groups: among more, the hardest negative of a short caption is often true.
    # No queue: while features still move fast, a model that sees all images alike can yet tell
    # the batch from the older features of a queue, and learns that instead of the pictures.
    objective = {
        "queue_size": 0,
        "momentum": 0.95,
        "alpha": 0.4,
        "alpha_ramp_steps": 500,
        "group": 8,
    }
    config.pretrain = stage(10 if smoke else 1300, 32, 3e-3)
    config.pretrain.objective = ConfigDict(objective)
    config.captioner = stage(5 if smoke else 800, 32, 2e-3)
    config.filter = stage(5 if smoke else 1500, 32, 4e-3)
    config.filter.objective = ConfigDict(objective | {"group": 16})

    # CapFilt
    config.capfilt = ConfigDict(
        {
            # Label smoothing gives a tenth of the probability to wrong words, and of few words:
            # the paper's 0.9 would often draw one.
            "caption": {"method": "nucleus", "top_p": 0.7, "num_captions": 1, "max_new_tokens": 17},
            "threshold": 0.2 if smoke else 0.5,  # ITM probability
            "batch_size": 64,
        }
    )

    # Evaluation
    config.evaluate = ConfigDict(
        {
            "caption": {"method": "beam", "num_beams": 3, "max_new_tokens": 17},
            "top_k": 8,  # candidates that ITM ranks again
            "batch_size": 50,
        }
    )
    return config


def stage(steps: int, batch_size: int, lr: float) -> ConfigDict:
    """Settings of one training run."""
    config = train_settings(steps=steps, batch_size=batch_size, lr=lr)
    config.optimizer.min_lr = 1e-5
    config.optimizer.b2 = 0.99
    config.optimizer.multipliers["^temperature$"] = 0.02  # it would race ahead at this rate
    config.data.max_tokens = 17
    # Positions are part of the truth here: no crop, no flip.
    config.data.update({"crop_scale": (1.0, 1.0), "flip": False, "randaugment": False})
    return config
