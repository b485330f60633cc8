"""Scores as people read them: named, times 100, with interval, beside the paper's."""

import dataclasses
from collections.abc import Sequence

from blip_jax.evaluate.published import Published
from blip_jax.tasks.evaluation import Evaluation, Score

NAMES = {
    "cider": "CIDEr", "cider_plain": "CIDEr without clipping", "rouge_l": "ROUGE-L",
    "meteor": "METEOR", "spice": "SPICE", "itc_score": "ITC score", "chair": "CHAIR",
    "chair_s": "CHAIRs", "chair_i": "CHAIRi", "mrr": "MRR", "ndcg": "NDCG",
    "r_mean": "mean of the recalls",
    **{f"bleu{n}": f"BLEU-{n}" for n in (1, 2, 3, 4)},
    **{f"distinct{n}": f"distinct-{n}" for n in (1, 2)},
    **{f"r{k}": f"recall@{k}" for k in (1, 5, 10)},
    **{f"recall{k}": f"recall@{k}" for k in (1, 5, 10)},
}  # fmt: skip
PARTS = {  # what a name may begin with
    "in": "in-domain", "near": "near-domain", "out": "out-of-domain", "entire": "entire set",
    "tr": "image to text", "ir": "text to image", "v2t": "video to text", "t2v": "text to video",
    "itc": "ITC alone", "itm": "ITM alone",
}  # fmt: skip
MAIN = ("cider", "entire_cider", "accuracy", "tr_r1", "ir_r1", "t2v_r1", "mrr", "bleu4", "rouge_l")


@dataclasses.dataclass(frozen=True)
class Line:
    """One score: its name, itself, and what the paper's models have."""

    key: str
    score: Score
    paper: tuple[float | None, ...]

    @property
    def name(self) -> str:
        """What people call it."""
        return name_of(self.key)

    @property
    def factor(self) -> float:
        """Fractions are told times 100; ranks as they are."""
        return 1.0 if self.key.endswith("_rank") else 100.0

    @property
    def value(self) -> str:
        """ "78.86" """
        return f"{self.factor * self.score.value:.2f}"

    @property
    def interval(self) -> str:
        """ "75.01 to 82.95", or nothing where there is none."""
        if self.score.low is None or self.score.high is None:
            return ""
        return f"{self.factor * self.score.low:.2f} to {self.factor * self.score.high:.2f}"


def name_of(key: str) -> str:
    """ "itc_tr_r1" -> "ITC alone: image to text: recall@1" """
    parts = []
    while key not in NAMES and (part := key.partition("_")[0]) in PARTS and part != key:
        parts.append(PARTS[part])
        key = key.removeprefix(f"{part}_")
    return ": ".join([*parts, NAMES.get(key, key.replace("_", " "))])


def lines(evaluation: Evaluation, paper: Sequence[Published]) -> list[Line]:
    """All scores in order, with those of the paper's models."""
    return [
        Line(key, value, tuple(model.scores.get(key) for model in paper))
        for key, value in evaluation.scores.items()
    ]


def main_lines(found: Sequence[Line]) -> list[Line]:
    """The few scores that people ask for first, the first among them the headline."""
    chosen = [line for key in MAIN for line in found if line.key == key]
    return (chosen or list(found))[:4]


def text_table(found: Sequence[Line], paper: Sequence[Published]) -> str:
    """A table for a terminal, and under it whose numbers the columns are."""
    heads = ["", "here", "95 % interval", *(f"[{i}]" for i in range(1, len(paper) + 1))]
    rows = [heads] + [
        [line.name, line.value, line.interval, *("" if p is None else f"{p:g}" for p in line.paper)]
        for line in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    told = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in rows
    ]
    told += [
        f"[{i}] paper, {model.table}: {model.model} on {model.data}"
        for i, model in enumerate(paper, 1)
    ]
    return "\n".join(told)
