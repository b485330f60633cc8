"""Zero-shot classification with prompt ensembles.

    blip-jax evaluate --config configs/zero_shot.py --checkpoint model_base_retrieval_coco.pth \
        --config.evaluate.annotations=pets/test.json --config.evaluate.classes=pets/classes.txt \
        --config.evaluate.templates=pets/templates.txt

The checkpoint is a pre-trained or a retrieval model. The annotations are a JSON list of `image`
and `label`, a name that is a line of `classes`. A line of `templates` is a text with {} for the
name, such as "a photo of a {}, a type of pet."; the vectors of all of them are averaged. With
`top_k` ITM ranks that many of the nearest classes again. The paper has no such numbers.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """Settings of `blip-jax evaluate`."""
    if variant:
        raise ValueError(f"configs/zero_shot.py has no variant {variant!r}")
    config = ConfigDict()
    config.task = "zero_shot"
    config.evaluate = ConfigDict(
        {
            "annotations": "",
            "image_root": "",  # "": the folder of the annotations
            "classes": "",
            "templates": "",  # "": "a photo of a {}."
            "top_k": 0,  # classes that ITM ranks again
            "batch_size": 64,  # images
        }
    )
    return config
