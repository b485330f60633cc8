"""Sentences about two images, true or false, on NLVR2 (paper section 5.4, Table 8).

    blip-jax data annotations train.json --of nlvr2 --out nlvr      # dev.json and test1.json too
    blip-jax train --config configs/nlvr.py --workdir runs/nlvr \
        --config.init.checkpoint=model_base.pth \
        --config.sources.train.place=nlvr/nlvr_train.json --config.sources.train.image_root=nlvr2
    blip-jax evaluate --config configs/nlvr.py --checkpoint runs/nlvr/model \
        --config.evaluate.annotations=nlvr/nlvr_dev.json --config.evaluate.image_root=nlvr2

One's own list has `images` (left, right), `sentence` and `label` ("True" or "False"). In
training a pair is mirrored as one picture, and its sentence with it; the released code mirrors
each picture alone, whatever the sentence says, and exchanges pictures and words at test time too.

Words of the variant: vit_l, as_released (its augmentation in training; never at test time) and
tiny; see
`blip_jax.train.settings.finetuning`.
"""

from ml_collections import ConfigDict

from blip_jax.train.settings import finetuning, words_of


def get_config(variant: str = "") -> ConfigDict:
    """Settings of `blip-jax train` and `evaluate`. Lengths in tokens, sizes in pixels."""
    words = words_of(variant, ("vit_l", "as_released", "tiny"), "configs/nlvr.py")
    config = finetuning(
        "nlvr", words, image_size=384, epochs=15, batch_size=256, lr=3e-5, max_tokens=64
    )
    config.model.vision.drop_path = 0.1
    return config
