"""Zero-shot video-text retrieval on MSRVTT (paper section 5.6, Table 10).

    blip-jax data annotations MSRVTT_JSFUSION_test.csv --of msrvtt --out msrvtt
    blip-jax evaluate --config configs/msrvtt.py --checkpoint model_base_retrieval_coco.pth \
        --config.evaluate.annotations=msrvtt/msrvtt_test.json \
        --config.evaluate.video_root=msrvtt/videos

The checkpoint is a retrieval model at 384 pixels, fine-tuned on COCO, that has seen no video.
Needs PyAV for video files (pip install 'blip-jax[video]'). Rows of one's own are a JSON list of
`video` (a file, or a folder of frames), `caption` (a text or several) and, where the frames are
images, `frames`. The paper reports text to video, t2v: recall@1, 5, 10 of 43.3, 65.6, 74.7 %
and median rank 2 on the 1,000 videos of 1k-A. The videos are decoded twice, once for each stage.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """Settings of `blip-jax evaluate`."""
    if variant:
        raise ValueError(f"configs/msrvtt.py has no variant {variant!r}")
    config = ConfigDict()
    config.task = "video_retrieval"
    config.evaluate = ConfigDict(
        {
            "dataset": "msrvtt",  # whose numbers of the paper stand beside; "": of none
            "annotations": "",
            "video_root": "",  # "": the folder of the annotations
            "num_frames": 8,
            "max_tokens": 35,
            "top_k": 128,  # of what ITC finds, ranked again by ITM
            "batch_size": 8,  # videos
        }
    )
    return config
