"""Captioning on COCO (paper section 5.2, Table 7) or on one's own captions.

    blip-jax data annotations dataset_coco.json --of coco --out coco
    blip-jax train --config configs/caption.py --workdir runs/caption \
        --config.init.checkpoint=model_base_capfilt_large.pth \
        --config.sources.train.place=coco/coco_karpathy_train.json \
        --config.sources.train.image_root=coco
    blip-jax evaluate --config configs/caption.py --checkpoint runs/caption/model \
        --config.evaluate.annotations=coco/coco_karpathy_test.json --config.evaluate.image_root=coco

One's own captions are a BLIP JSON list of `image` and `caption`, or ArrayRecord files; every
caption is learnt after the prompt. Words of the variant, with commas between them: vit_l, and
as_released and tiny, which `blip_jax.train.settings.finetuning` describes.
"""

from ml_collections import ConfigDict

from blip_jax.train.settings import finetuning, words_of


def get_config(variant: str = "") -> ConfigDict:
    """Settings of `blip-jax train` and `evaluate`. Lengths in tokens, sizes in pixels."""
    words = words_of(variant, ("vit_l", "as_released", "tiny"), "configs/caption.py")
    config = finetuning(
        "caption",
        words,
        image_size=384,
        epochs=5,
        batch_size=256,
        lr=2e-6 if "vit_l" in words else 1e-5,
        max_tokens=40,
    )
    config.model.conventions.prompt = "a picture of "
    # The original's 5 to 20, of which the prompt is four.
    config.evaluate.caption = ConfigDict(
        {"method": "beam", "num_beams": 3, "min_new_tokens": 1, "max_new_tokens": 16}
    )
    config.evaluate.synonyms = ""  # objects and their names, for CHAIR
    return config
