"""Zero-shot video question answering on MSRVTT-QA or MSVD-QA (paper section 5.6, Table 11).

    blip-jax evaluate --config configs/video_qa.py --checkpoint model_vqa.pth \
        --config.evaluate.annotations=msrvtt_qa/test_qa.json \
        --config.evaluate.video_root=msrvtt/videos --config.evaluate.candidates=answers.txt

The checkpoint is a VQA model, fine-tuned on VQA v2, that has seen no video. Needs PyAV for video
files (pip install 'blip-jax[video]'). The annotations are as published (`video_id`, `question`,
`answer`, `id`), or a JSON list of one's own with `video` (a file, or a folder of frames) and,
where the frames are images, `frames`. `candidates` is a file of answers to rank, one a line, such
as those of the training split; without it answers are written. The paper has 19.2 % on MSRVTT-QA
and 35.2 % on MSVD-QA, and neither its code nor its list of answers was released.
The variant msvd is for MSVD-QA.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """Settings of `blip-jax evaluate`."""
    if variant not in ("", "msvd"):
        raise ValueError(f"configs/video_qa.py has no variant {variant!r}; expected none or 'msvd'")
    config = ConfigDict()
    config.task = "video_qa"
    config.evaluate = ConfigDict(
        {
            "dataset": variant or "msrvtt",  # whose number of the paper stands beside
            "annotations": "",
            "video_root": "",  # "": the folder of the annotations
            "num_frames": 16,
            "candidates": "",  # a file of answers, one a line; "": write them
            "top_k": 128,  # candidates whose whole text is scored
            "num_beams": 3,  # of what is written
            "max_new_tokens": 9,
            "batch_size": 8,  # questions about one video
        }
    )
    return config
