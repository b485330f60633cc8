"""What a model answers: small dataclasses with scores, which print as people expect."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class CaptionResult:
    """One written caption; `log_prob` is the sum over its tokens, natural logarithm.

    The text begins with the prompt that the caller gave. The model's own prompt is left out.
    """

    text: str
    log_prob: float

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True)
class AnswerResult:
    """One answer. `log_prob` is that of writing it, or of it being the right candidate."""

    text: str
    log_prob: float

    @property
    def probability(self) -> float:
        """exp(log_prob); those of ranked candidates add up to 1."""
        return math.exp(self.log_prob)

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True)
class MatchResult:
    """How well a text fits an image: `itm` probability of a match, `itc` cosine."""

    itm: float
    itc: float

    def __str__(self) -> str:
        return f"itm {self.itm:.4f}, itc {self.itc:.4f}"


@dataclasses.dataclass(frozen=True)
class MatchMatrix:
    """The same of every image with every text, float32 [N, M]; `itm` is NaN where not asked."""

    itm: np.ndarray
    itc: np.ndarray


@dataclasses.dataclass(frozen=True)
class NlvrResult:
    """Whether a statement about two images is true, and how probable that is."""

    label: bool
    probability: float

    def __str__(self) -> str:
        return str(self.label)


@dataclasses.dataclass(frozen=True)
class ClassResult:
    """The class of an image with a text, and how probable each class is, the best first."""

    label: str
    probabilities: dict[str, float]

    def __str__(self) -> str:
        return self.label
