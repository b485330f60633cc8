"""What every training run can be told: the one place that names these keys."""

from ml_collections import ConfigDict


def train_settings(*, steps: int, batch_size: int, lr: float) -> ConfigDict:
    """Settings of one run at the paper's values; a config changes what it wants otherwise.

    Lengths in tokens, sizes in pixels, counts of steps and of rows over all devices.
    """
    return ConfigDict(
        {
            "steps": steps,
            "batch_size": batch_size,
            "accumulate": 1,  # parts that a batch is cut into, one after the other
            "seed": 0,
            "log_every": 10,
            "checkpoint_every": 100,
            "keep": 2,  # newest checkpoints that stay
            "optimizer": {
                "lr": lr,
                "min_lr": 1e-6,
                "warmup_steps": steps // 10,
                "decay": "cosine",  # or "constant", or "epoch": times decay_rate each epoch
                "decay_rate": 0.9,
                "epoch_steps": 0,  # of "epoch"
                "b2": 0.999,
                "weight_decay": 0.05,
                "decay_all": False,  # True: LayerNorms and biases too, as the released code
                "clip_norm": 1.0,  # of the whole gradient; 0 leaves it as it is
                # Pattern of parameter paths -> factor of the learning rate; 0 freezes.
                "multipliers": ConfigDict({}),
            },
            "mesh": {"slice": 1, "data": -1, "fsdp": 1, "tensor": 1},  # -1: what is left
            "data": {
                "max_tokens": 30,
                "crop_scale": (0.2, 1.0),
                "flip": True,  # left and right change places in the text too
                "randaugment": True,
            },
        }
    )
