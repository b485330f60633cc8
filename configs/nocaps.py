"""Captions of objects that COCO does not show, zero-shot (paper Table 7; `eval_nocaps.py`).

    blip-jax data annotations nocaps_val_4500_captions.json --of nocaps --out nocaps
    blip-jax evaluate --config configs/nocaps.py --checkpoint model_base_caption_capfilt_large.pth \
        --config.evaluate.annotations=nocaps/nocaps_val.json --config.evaluate.image_root=nocaps

The checkpoint is a captioner at 384 pixels, fine-tuned on COCO. The paper has 109.6 CIDEr and
14.7 SPICE over all domains with ViT-B and CapFilt-L. Where the annotations have no captions
(the test split), the submission alone is written, nocaps.json.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """Settings of `blip-jax evaluate`. Lengths in tokens."""
    if variant:
        raise ValueError(f"configs/nocaps.py has no variant {variant!r}")
    config = ConfigDict()
    config.task = "nocaps"
    config.evaluate = ConfigDict(
        {
            "annotations": "",
            "image_root": "",  # "": the folder of the annotations
            "batch_size": 64,
            # The original's 5 to 20, of which the prompt is four.
            "caption": {
                "method": "beam",
                "num_beams": 3,
                "min_new_tokens": 1,
                "max_new_tokens": 16,
                "repetition_penalty": 1.1,
            },
        }
    )
    return config
