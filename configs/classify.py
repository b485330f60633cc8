"""Classification of an image with a text: visual entailment (SNLI-VE), or one's own classes.

    blip-jax train --config configs/classify.py --workdir runs/classify \
        --config.init.checkpoint=model_base.pth --config.sources.train.place=train.json
    blip-jax evaluate --config configs/classify.py --checkpoint runs/classify/model \
        --config.evaluate.annotations=test.json

A list has `image`, `label` and, where there is one, `text`. The classes are
`--config.model.classes="('no', 'yes')"`, by default those of SNLI-VE; their names go into the
model folder. The paper has no such task: rate, epochs and batch are no more than a start.

Words of the variant: vit_l, as_released and tiny; see
`blip_jax.train.settings.finetuning`.
"""

from ml_collections import ConfigDict

from blip_jax.train.settings import finetuning, words_of


def get_config(variant: str = "") -> ConfigDict:
    """Settings of `blip-jax train` and `evaluate`. Lengths in tokens, sizes in pixels."""
    words = words_of(variant, ("vit_l", "as_released", "tiny"), "configs/classify.py")
    config = finetuning(
        "classify", words, image_size=384, epochs=5, batch_size=256, lr=2e-5, max_tokens=40
    )
    config.model.classes = ("contradiction", "neutral", "entailment")
    return config
