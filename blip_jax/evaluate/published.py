"""What the paper prints (arXiv 2201.12086), as it prints it: most in percent."""

import dataclasses

# The paper's models, as the columns of a table name them.
MODELS = ("14M", "129M", "129M, CapFilt-L", "129M, CapFilt-L, ViT-L")


@dataclasses.dataclass(frozen=True)
class Published:
    """One model's scores on one data set.

    Attributes:
      task: as `config.task`.
      data: as `config.evaluate.dataset`.
      model: pre-training images; bootstrapping; backbone, ViT-B where none is named.
      table: of the paper.
      scores: by the names that evaluations use.
    """

    task: str
    data: str
    model: str
    table: str
    scores: dict[str, float]


def published(task: str, data: str | None = None) -> list[Published]:
    """What the paper has of a task; of one data set, where it is named."""
    return [p for p in PAPER if p.task == task and data in (None, "", p.data)]


def _rows(
    task: str, data: str, table: str, names: str, rows: str, models: tuple[str, ...] = MODELS
) -> list[Published]:
    """A table of numbers: a line a model, a column a name."""
    lines = [line.split() for line in rows.strip().splitlines()]
    return [
        Published(task, data, model, table, dict(zip(names.split(), map(float, line), strict=True)))
        for model, line in zip(models, lines, strict=True)
    ]


RECALLS = "tr_r1 tr_r5 tr_r10 ir_r1 ir_r5 ir_r10"
PAPER = [
    *_rows(
        "retrieval", "coco", "Table 5", RECALLS, """
        80.6 95.2 97.6 63.1 85.3 91.1
        81.9 95.4 97.8 64.3 85.7 91.5
        81.2 95.7 97.9 64.1 85.8 91.6
        82.4 95.4 97.9 65.1 86.3 91.8
        """,
    ),
    *_rows(
        "retrieval", "flickr30k", "Table 5", RECALLS, """
        96.6 99.8 100.0 87.2 97.5 98.8
        97.3 99.9 100.0 87.3 97.6 98.9
        97.2 99.9 100.0 87.5 97.7 98.9
        97.4 99.8 99.9 87.6 97.7 99.0
        """,
    ),
    *_rows(
        "retrieval", "flickr30k_zero_shot", "Table 6", RECALLS, """
        94.8 99.7 100.0 84.9 96.7 98.3
        96.0 99.9 100.0 85.0 96.8 98.6
        96.0 99.9 100.0 85.5 96.8 98.7
        96.7 100.0 100.0 86.7 97.3 98.7
        """,
    ),
    *_rows(
        "caption", "coco", "Table 7", "bleu4 cider", """
        38.6 129.7
        39.4 131.4
        39.7 133.3
        40.4 136.7
        """,
    ),
    *_rows(
        "nocaps", "nocaps", "Table 7", "entire_cider entire_spice", """
        105.1 14.4
        106.3 14.3
        109.6 14.7
        113.2 14.8
        """,
    ),
    *_rows(
        "vqa", "vqa_test_dev", "Table 8", "accuracy", """
        77.54
        78.24
        78.25
        """, MODELS[:3],
    ),
    *_rows(
        "vqa", "vqa_test_std", "Table 8", "accuracy", """
        77.62
        78.17
        78.32
        """, MODELS[:3],
    ),
    *_rows(
        "nlvr", "nlvr2_dev", "Table 8", "accuracy", """
        82.67
        82.48
        82.15
        """, MODELS[:3],
    ),
    *_rows(
        "nlvr", "nlvr2_test", "Table 8", "accuracy", """
        82.30
        83.08
        82.24
        """, MODELS[:3],
    ),
    Published(
        "visdial", "visdial_val", "BLIP", "Table 9",
        {"mrr": 69.41, "recall1": 56.44, "recall5": 85.90, "recall10": 93.30, "mean_rank": 3.20},
    ),
    Published(
        "video_retrieval", "msrvtt", "BLIP", "Table 10",
        {"t2v_r1": 43.3, "t2v_r5": 65.6, "t2v_r10": 74.7, "t2v_median_rank": 2.0},
    ),
    Published("video_qa", "msrvtt", "BLIP", "Table 11", {"accuracy": 19.2}),
    Published("video_qa", "msvd", "BLIP", "Table 11", {"accuracy": 35.2}),
]  # fmt: skip
