"""Visual question answering: answers by their share of people (`models/blip_vqa.py`)."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from blip_jax import losses
from blip_jax.config import BlipConfig
from blip_jax.data.annotations import Question, read_questions
from blip_jax.data.examples import BLACK, TRUNCATED, ViewOptions, tokens
from blip_jax.data.examples import Example as Row
from blip_jax.data.pipeline import image_batches
from blip_jax.data.records import load_list
from blip_jax.data.text import pre_question, swap_left_right
from blip_jax.files import Progress, silent
from blip_jax.inference.answer import rank_answers, write_answers
from blip_jax.metrics.vqa import vqa_accuracy
from blip_jax.model import Model
from blip_jax.models.blip import Blip, Params
from blip_jax.tasks.evaluation import Evaluation, Example, Score, score
from blip_jax.tasks.stateless import Batch, Metrics, Stateless
from blip_jax.tokenizer import Tokenizer

CANDIDATES = 3128  # answers of the original's list (`answer_list.json`)


def objective(blip: Blip, settings: ConfigDict) -> Stateless:
    """LM over every answer of a question, weighted."""
    return Stateless(functools.partial(loss, blip))


def loss(blip: Blip, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Metrics]:
    """`losses.vqa` of a batch of `Questions`."""
    keys = jax.random.split(rng, 3)
    mask, answers = batch["attention_mask"], batch["answer_ids"]
    tokens = blip.image_tokens(params, batch["image"], keys[0])
    source = blip.question_tokens(params, tokens, batch["input_ids"], mask, keys[1])
    ids = answers.reshape(-1, answers.shape[-1])
    answer_mask = batch["answer_mask"].reshape(ids.shape)
    # The answers of a question stand together and share its keys and values.
    logits = blip.lm_logits(params, source, ids, answer_mask, keys[2], mask)
    weights = batch["weights"].reshape(-1)
    value = losses.vqa(logits, ids, answer_mask, weights, images=len(answers))
    return value, {"loss_lm": value}


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionOptions(ViewOptions):
    """How a question becomes a row of a batch.

    Attributes:
      max_tokens: token length T of questions, special tokens included.
      max_answers: answers A of a question, the most frequent ones.
      max_answer_tokens: token length U of answers, special tokens included.
    """

    max_tokens: int
    max_answers: int = 10
    max_answer_tokens: int = 16


class Questions:
    """Questions as rows: image uint8 [S, S, 3]; input_ids, attention_mask int32 [T], [ENC] first;
    answer_ids, answer_mask int32 [A, U], [DEC] first; weights float32 [A], 0 of what fills up."""

    sample = Question(0, BLACK, "a", ("a",))  # type: ignore[arg-type]

    def __init__(self, tokenizer: Tokenizer, options: QuestionOptions):
        self.tokenizer, self.options = tokenizer, options

    def open(self, place: str, image_root: str) -> list[Question]:
        """As `read_questions`; ValueError for a question without an answer."""
        questions = read_questions(place, image_root or None)
        for question in questions:
            if not question.answers:
                raise ValueError(f"{place}: {question.uid} has no answer to learn from")
        return questions

    def __call__(self, row: Question, rng: np.random.Generator) -> Row:
        """A view of the image; mirrored, left and right change places in every text."""
        options = self.options
        image, mirrored = options.view(row.image, rng)
        swap = swap_left_right if mirrored else str
        text = pre_question(swap(row.question))
        ids, mask, cut = tokens(self.tokenizer, text, options.max_tokens, "[ENC]")
        best = Counter(row.weights()).most_common(options.max_answers)
        filler = [("", 0.0)] * (options.max_answers - len(best))
        answers = [
            tokens(self.tokenizer, swap(answer), options.max_answer_tokens, "[DEC]")
            for answer, _ in best + filler
        ]
        return {
            "image": image,
            "input_ids": ids,
            "attention_mask": mask,
            "answer_ids": np.stack([a[0] for a in answers]),
            "answer_mask": np.stack([a[1] for a in answers]),
            "weights": np.array([weight for _, weight in best + filler], np.float32),
            TRUNCATED: cut or any(a[2] for a in answers),
        }


def reader(tokenizer: Tokenizer, model: BlipConfig, data: ConfigDict) -> Questions:
    """Questions as the model takes them; `data` holds the other `QuestionOptions`."""
    size = model.vision.image_size
    return Questions(tokenizer, QuestionOptions(image_size=size, **data.to_dict()))


def evaluate(model: Model, config: ConfigDict, progress: Progress = silent) -> Evaluation:
    """Answers every question and, where answers are published, says how many people agree.

    `config.method` is "rank", among the answers of `config.candidates` (see `read_candidates`),
    or "generate".

    Returns:
      `accuracy`, beside that of the most frequent answer alone, and `accuracy_yes_no` and the
      like where the annotations have "answer_type"; the server's submission.

    Raises:
      ValueError: another method, or no candidates to rank.
    """
    model = model.on_every_device()
    answer = answerer(model, config)
    questions = read_questions(config.annotations, config.image_root or None)
    written: list[str] = []
    readable: list[bool] = []
    shape = (model.config.vision.image_size, model.rows(config.batch_size), model.device_count)
    for pixels, status, chosen in image_batches(questions, *shape):
        texts = answer(pixels, [q.question for q in chosen])
        written += texts[: len(status)]
        readable += [s == "ok" for s in status]
        progress(len(written), len(questions))
    pairs = list(zip(questions, written, strict=True))
    scores: dict[str, Score] = {}
    judged = [row for row, ok in zip(pairs, readable, strict=True) if ok and row[0].answers]
    if judged:
        scores = scored(judged)
    skipped = {"unreadable_image": readable.count(False)} if False in readable else {}
    submission = [{"question_id": q.question_id, "answer": text} for q, text in pairs]
    return Evaluation(
        scores,
        len(judged),
        [shown(q, text) for q, text in pairs],
        {"vqa_result.json": submission},
        skipped,
    )


def scored(judged: Sequence[tuple[Question, str]]) -> dict[str, Score]:
    """The accuracies of answered questions."""
    each = np.array([agreement(text, q.answers) for q, text in judged])
    common = Counter(a for q, _ in judged for a in q.answers).most_common(1)[0][0]
    scores = {
        "accuracy": score(each),
        "accuracy_of_most_frequent": score([agreement(common, q.answers) for q, _ in judged]),
    }
    kinds = [q.answer_type for q, _ in judged]
    for kind in sorted({kind for kind in kinds if kind}):
        own = each[[other == kind for other in kinds]]
        scores[f"accuracy_{kind.replace('/', '_')}"] = score(own)
    return scores


def answerer(model: Model, config: ConfigDict) -> Any:
    """Pixels [B, S, S, 3] and B questions -> B answers, by `config.method`."""
    if config.method == "generate":
        lengths = {"num_beams": config.num_beams, "max_new_tokens": config.max_new_tokens}
        return lambda pixels, asked: [
            row[0]
            for row in write_answers(model, pixels, asked, batch_size=len(pixels), **lengths)[0]
        ]
    if config.method != "rank":
        raise ValueError(f"evaluate.method is {config.method!r}; expected 'rank' or 'generate'")
    if not config.candidates:
        raise ValueError("evaluate.candidates is empty: give a list of answers, or of questions")
    candidates = read_candidates(config.candidates)
    sizes = {"top_k": config.top_k}
    return lambda pixels, asked: [
        candidates[row[0]]
        for row in rank_answers(model, pixels, asked, candidates, batch_size=len(pixels), **sizes)[
            0
        ]
    ]


def read_candidates(path: str) -> list[str]:
    """A JSON list of answers; or one of questions, of which the most frequent answers are taken.

    Raises:
      ValueError: neither, or empty.
    """
    rows: Sequence[Any] = load_list(path)
    if rows and all(isinstance(row, str) for row in rows):
        return list(dict.fromkeys(rows))
    counts: Counter[str] = Counter()
    for row in rows:
        found = row.get("answer") if isinstance(row, dict) else None
        counts.update([found] if isinstance(found, str) else found or [])
    if not counts:
        raise ValueError(f"{path}: expected a list of answers, or of questions with answers")
    return [answer for answer, _ in counts.most_common(CANDIDATES)]


def agreement(answer: str, answers: Sequence[str]) -> float:
    """VQA accuracy of one answer.

    It asks for three people beside the one who is judged; where fewer than four were asked, as
    in data with one answer a question, each stands for four.
    """
    return vqa_accuracy(answer, answers if len(answers) > 3 else [*answers] * 4)


def shown(question: Question, answer: str) -> Example:
    """The question with what was answered."""
    people = ", ".join(f"{a} ({n})" for a, n in Counter(question.answers).most_common())
    lines = (("question", question.question), ("people", people), ("answer", answer))
    value = agreement(answer, question.answers) if question.answers else 0.0
    return Example((Path(question.image),), lines, value)
