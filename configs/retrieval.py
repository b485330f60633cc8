"""Image-text retrieval on COCO or Flickr30k (paper section 5.1, Table 5).

    blip-jax data annotations dataset_coco.json --of coco --out coco
    blip-jax train --config configs/retrieval.py --workdir runs/retrieval \
        --config.init.checkpoint=model_base.pth \
        --config.sources.train.place=coco/coco_karpathy_train.json \
        --config.sources.train.image_root=coco
    blip-jax evaluate --config configs/retrieval.py --checkpoint runs/retrieval/model \
        --config.evaluate.annotations=coco/coco_karpathy_test.json --config.evaluate.image_root=coco

All captions of an image are positives of each other, in the batch and in the queue; hard
negatives come from the whole batch. The queue starts empty: features of the pre-training are of
another resolution. `image_id` in one's own list says which rows are of one image.

Words of the variant: flickr (ITM looks at 128 candidates, not 256; as released, hard negatives
come from the 32 rows of a device), vit_l, as_released and tiny; see
`blip_jax.train.settings.finetuning`.
"""

from ml_collections import ConfigDict

from blip_jax.train.settings import finetuning, words_of


def get_config(variant: str = "") -> ConfigDict:
    """Settings of `blip-jax train` and `evaluate`. Lengths in tokens, sizes in pixels."""
    words = words_of(variant, ("flickr", "vit_l", "as_released", "tiny"), "configs/retrieval.py")
    flickr, tiny = "flickr" in words, "tiny" in words
    config = finetuning(
        "retrieval",
        words,
        image_size=384,
        epochs=6,
        batch_size=256,
        lr=5e-6 if "vit_l" in words else 1e-5,
        max_tokens=35,
    )
    config.run.objective = ConfigDict(
        {
            "queue_size": 16 if tiny else 57600,
            "momentum": 0.995,
            "alpha": 0.4,
            "group": 32 if flickr and "as_released" in words else 0,  # 0: the whole batch
        }
    )
    # alpha ramps up over the first epoch
    config.run.objective.alpha_ramp_steps = config.run.optimizer.get_oneway_ref("epoch_steps")
    config.evaluate.update({"max_tokens": 35, "top_k": 128 if flickr else 256})
    config.evaluate.dataset = "flickr30k" if flickr else "coco"
    return config
