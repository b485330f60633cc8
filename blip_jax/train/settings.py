"""What every training run can be told: the one place that names these keys."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from blip_jax.config import BLIP_L16, TINY


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
                "as_released": False,  # True: its Brightness and Sharpness change nothing
            },
        }
    )


def words_of(variant: str, known: Sequence[str], file: str) -> list[str]:
    """The words of a config's variant, which commas part.

    Raises:
      ValueError: a word that the file does not know.
    """
    words = variant.split(",") if variant else []
    if unknown := sorted(set(words) - set(known)):
        raise ValueError(
            f"{file} has no variant {unknown[0]!r}; expected some of {', '.join(known)}, "
            "with commas between"
        )
    return words


def finetuning(
    task: str,
    words: Sequence[str] = (),
    *,
    tree: str = "",
    image_size: int,
    epochs: int,
    batch_size: int,
    lr: float,
    max_tokens: int,
) -> ConfigDict:
    """A whole config of fine-tuning on one source, `train`; a config file changes the rest.

    `task` is the module, and `tree` the parameters it works on, if they are those of another
    task (`blip_jax.models.blip` lists them).

    `config.rows` is the length of an epoch, 0 for what the sources turn out to hold; the steps
    follow from it, from `config.epochs` and from `run.batch_size`, unless they are set. The
    learning rate falls as a cosine from the first step to 0.

    Words that mean the same everywhere: vit_l (the sizes of ViT-L/16, where no checkpoint tells
    them), as_released (all weights decayed, no clipping, a learning rate that falls once an epoch,
    Brightness and Sharpness without effect), tiny (three steps of a small model).
    """
    released, tiny = "as_released" in words, "tiny" in words
    config = ConfigDict()
    config.task = task
    config.rows = 0
    config.epochs = epochs

    # Data
    config.sources = ConfigDict({"train": source()})
    config.tokenizer = ""  # a vocabulary file, a folder or a hub name; "": the checkpoint's

    # Model: what differs from the checkpoint's, or from BLIP-B's without one
    config.init = ConfigDict({"checkpoint": "", "vision": "", "text": ""})
    size, prompt = {"image_size": image_size}, {"prompt": ""}
    model: dict[str, Any] = {"task": tree or task, "vision": size, "conventions": prompt}
    if not tiny:  # activations; weights and optimizer stay float32
        model |= {"dtype": "bfloat16", "remat": "dots"}
    if "vit_l" in words:
        sizes = BLIP_L16.vision
        model["vision"] |= {n: getattr(sizes, n) for n in ("width", "depth", "heads", "mlp_width")}
        model["vision"]["drop_path"] = sizes.drop_path
    if tiny:
        model["vision"]["image_size"] = TINY.vision.image_size
    config.model = ConfigDict(model)

    # Run
    config.run = train_settings(steps=1, batch_size=batch_size, lr=lr)
    run, optimizer = config.run, config.run.optimizer
    run.checkpoint_every = 1000
    optimizer.update({"min_lr": 0.0, "warmup_steps": 0})
    run.data.update({"max_tokens": max_tokens, "crop_scale": (0.5, 1.0)})
    if released:
        optimizer.update({"decay": "cosine_epoch", "decay_all": True, "clip_norm": 0.0})
        run.data.as_released = True
    if tiny:
        run.update({"batch_size": 4, "log_every": 1, "checkpoint_every": 2})
    per_epoch = config.get_ref("rows") // run.get_oneway_ref("batch_size")
    optimizer.epoch_steps = per_epoch
    run.steps = (
        config.get_ref("epochs") * config.get_ref("rows") // run.get_oneway_ref("batch_size")
    )
    if tiny:
        run.steps = 3
    config.evaluate = ConfigDict({"annotations": "", "image_root": "", "batch_size": 64})
    return config


def source() -> ConfigDict:
    """Where rows lie, and how often they come up; see `blip_jax.data.mixture`."""
    return ConfigDict({"place": "", "image_root": "", "weight": 0.0, "parts": 1})
