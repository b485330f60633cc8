"""Visual question answering on VQA v2 and Visual Genome (paper section 5.3, Table 8).

    blip-jax data annotations v2_OpenEnded_mscoco_train2014_questions.json \
        v2_mscoco_train2014_annotations.json --of vqa --out vqa      # and for val2014
    blip-jax data annotations image_data.json question_answers.json --of vg --out vqa
    blip-jax train --config configs/vqa.py --workdir runs/vqa \
        --config.init.checkpoint=model_base_capfilt_large.pth \
        --config.sources.train.place=vqa/vqa_train.json --config.sources.train.image_root=coco \
        --config.sources.val.place=vqa/vqa_val.json --config.sources.val.image_root=coco \
        --config.sources.vg.place=vqa/vg_qa.json --config.sources.vg.image_root=vg
    blip-jax evaluate --config configs/vqa.py --checkpoint runs/vqa/model \
        --config.evaluate.annotations=vqa/vqa_test.json --config.evaluate.image_root=coco \
        --config.evaluate.candidates=answer_list.json

An answer weighs what share of people gave it, one of Visual Genome 0.2. One's own questions are
a JSON list of `question_id`, `image`, `question` and `answer` (a text, or those of several
people). `evaluate.candidates` is a list of answers, or the training questions, whose 3,128 most
frequent answers are then ranked; `evaluate.method=generate` writes answers instead.

Words of the variant: vit_l, which the paper has no numbers of (its decoder's keys and values are
newly drawn, for it reads questions and not images), as_released and tiny; see
`blip_jax.train.settings.finetuning`.
"""

from ml_collections import ConfigDict

from blip_jax.train.settings import finetuning, source, words_of


def get_config(variant: str = "") -> ConfigDict:
    """Settings of `blip-jax train` and `evaluate`. Lengths in tokens, sizes in pixels."""
    words = words_of(variant, ("vit_l", "as_released", "tiny"), "configs/vqa.py")
    config = finetuning(
        "vqa", words, image_size=480, epochs=10, batch_size=256, lr=2e-5, max_tokens=35
    )
    config.sources.update({"val": source(), "vg": source()})
    config.model.vision.drop_path = 0.1
    config.run.data.update({"max_answers": 10, "max_answer_tokens": 16})
    config.evaluate.update(
        {
            "method": "rank",  # or "generate"
            "candidates": "",
            "top_k": 128,  # candidates whose whole text is scored
            "num_beams": 3,  # of "generate"
            "max_new_tokens": 9,
        }
    )
    return config
