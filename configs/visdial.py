"""Visual dialogue on VisDial v1.0 (paper section 5.5, Table 9): a hundred answers, ranked.

    blip-jax train --config configs/visdial.py --workdir runs/visdial \
        --config.init.checkpoint=model_base_capfilt_large.pth \
        --config.sources.train.place=visdial_1.0_train.json --config.sources.train.image_root=coco
    blip-jax evaluate --config configs/visdial.py --checkpoint runs/visdial/model \
        --config.evaluate.annotations=visdial_1.0_val.json --config.evaluate.image_root=visdial \
        --config.evaluate.relevance=visdial_1.0_val_dense_annotations.json

Files are read as they are published; image_root holds train2014/ and val2014/ of COCO, or
VisualDialog_val2018/. A row of training is one round of a dialogue: its right answer and one of
the wrong ones. Batch, epochs and learning rate are the paper's; its code was never released, so
what it does not say is chosen here (`blip_jax/tasks/visdial.py` lists it).

Words of the variant: vit_l (the caption's states are mapped to its width by a new linear map),
as_released and tiny; see
`blip_jax.train.settings.finetuning`.
"""

from ml_collections import ConfigDict

from blip_jax.train.settings import finetuning, words_of


def get_config(variant: str = "") -> ConfigDict:
    """Settings of `blip-jax train` and `evaluate`. Lengths in tokens, sizes in pixels."""
    words = words_of(variant, ("vit_l", "as_released", "tiny"), "configs/visdial.py")
    tiny = "tiny" in words
    config = finetuning(
        "visdial",
        words,
        image_size=384,
        epochs=20,
        batch_size=240,
        lr=2e-5,
        max_tokens=32 if tiny else 200,
    )
    config.run.data.negatives = 1  # wrong answers beside the right one
    config.evaluate.update(
        {
            "batch_size": 4,  # rounds whose images are encoded together
            "candidate_batch_size": 100,
            "max_tokens": 32 if tiny else 200,
            "relevance": "",  # dense annotations, for NDCG
        }
    )
    return config
