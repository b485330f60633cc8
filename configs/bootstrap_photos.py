"""The whole loop on real photos, from a pretrained ViT-S/16 and a BERT of width 384.

    blip-jax bootstrap --config configs/bootstrap_photos.py --workdir runs/photos \
        --config.photos.train=train.json --config.photos.val=val.json \
        --config.photos.image_root=photos --config.tokenizer=vocab.txt \
        --config.init.vision=vit_small_patch16_224.npz --config.init.text=model.safetensors

`train` and `val` are BLIP's JSON lists. A share `photos.clean` of the training images keeps its
captions and makes the clean set; of the others, a share `photos.noise` gets the caption of
another image, and the loop is told nothing of it. `photos.extra` names a list of real web pairs
that are captioned and filtered with them.

The default is meant for an accelerator. `:cpu` is a short run on smaller pictures (112 pixels,
the ViT left as it came) that shows the loop on 2 cores in an hour or two; what it gave on 5,884
photos is in benchmarks/README.md.
"""

from ml_collections import ConfigDict

from blip_jax.train.settings import train_settings


def get_config(variant: str = "") -> ConfigDict:
    """Settings of `blip-jax bootstrap`. Lengths in tokens, sizes in pixels, steps of a batch."""
    if variant not in ("", "cpu"):
        raise ValueError(
            f"configs/bootstrap_photos.py has no variant {variant!r}; expected none or 'cpu'"
        )
    cpu = variant == "cpu"
    config = ConfigDict()
    config.seed = 0
    config.rounds = 1  # of CapFilt and pre-training again

    # Data
    config.photos = ConfigDict(
        {
            "train": "",
            "val": "",
            "image_root": "",
            "clean": 0.2,  # share of the training images
            "noise": 0.6,  # share of the other images whose text is another's
            "extra": "",
            "extra_root": "",
            "seed": 0,
        }
    )
    config.tokenizer = ""  # a vocabulary file, a folder or a hub name
    config.vocab_size = 30522

    # Model
    config.model = ConfigDict(
        {
            "vision": {
                "image_size": 112 if cpu else 224,
                "patch_size": 16,
                "width": 384,
                "depth": 12,
                "heads": 6,
                "mlp_width": 1536,
            },
            "text": {
                "width": 384,
                "depth": 6,
                "heads": 12,
                "mlp_width": 1536,
                "max_positions": 512,
                "dropout": 0.0 if cpu else 0.1,
                "attention_dropout": 0.0 if cpu else 0.1,
            },
            "embed_dim": 256,
            "dtype": "float32" if cpu else "bfloat16",
        }
    )
    config.init = ConfigDict({"vision": "", "text": "", "checkpoint": ""})  # files, or ""

    # Stages
    batch_size = 32 if cpu else 256
    # No queue in a short run: see configs/demo.py.
    objective = {
        "queue_size": 0 if cpu else 4096,
        "momentum": 0.95 if cpu else 0.99,
        "alpha": 0.4,
        "alpha_ramp_steps": 100 if cpu else 500,
        # Hard negatives of a pair's neighbour alone are random ones. Among more rows ITC picks
        # those it confuses itself, and a young ITM stays at chance for long.
        "group": 2 if cpu else 32,
    }
    config.pretrain = stage(400 if cpu else 2000, batch_size, 3e-4)
    config.pretrain.objective = ConfigDict(objective)
    config.captioner = stage(150 if cpu else 300, batch_size, 2e-4 if cpu else 5e-5)
    config.filter = stage(250 if cpu else 300, batch_size, 2e-4 if cpu else 5e-5)
    config.filter.objective = ConfigDict(objective)
    if cpu:  # hours are too short to teach the ViT anything, and its backward pass takes half
        for name in ("pretrain", "captioner", "filter"):
            config[name].optimizer.multipliers["^vision/"] = 0.0
            config[name].data.max_tokens = 16

    # CapFilt
    config.capfilt = ConfigDict(
        {
            "caption": {
                "method": "nucleus",
                # The tail of what a captioner of a few minutes would say is noise.
                "top_p": 0.6 if cpu else 0.9,
                "num_captions": 1,
                "max_new_tokens": 20,
            },
            "threshold": 0.5,  # ITM probability
            "batch_size": batch_size,
        }
    )

    # Evaluation
    config.evaluate = ConfigDict(
        {
            "caption": {"method": "beam", "num_beams": 3, "max_new_tokens": 20},
            "top_k": 4 if cpu else 32,  # candidates that ITM ranks again
            "batch_size": 50,
        }
    )
    return config


def stage(steps: int, batch_size: int, lr: float) -> ConfigDict:
    """Settings of one training run."""
    config = train_settings(steps=steps, batch_size=batch_size, lr=lr)
    config.optimizer.multipliers["^temperature$"] = 0.1
    config.data.update({"crop_scale": (0.5, 1.0), "randaugment": False})
    return config
