"""Zero-shot video question answering (paper section 5.6; the original's code was not released).

A VQA model reads the question over the tokens of all sampled frames in a row. Videos are opened
and encoded once, whatever the number of their questions.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from blip_jax.data.images import ImageError
from blip_jax.data.text import read_lines
from blip_jax.data.videos import Place, VideoQuestion, read_video_questions
from blip_jax.files import Progress, silent
from blip_jax.inference.answer import rank_answers, write_answers
from blip_jax.inference.pixels import Clips
from blip_jax.model import Model
from blip_jax.models.blip import Blip
from blip_jax.tasks.evaluation import Evaluation, Example, Score, score
from blip_jax.tasks.video_retrieval import picture

log = logging.getLogger(__name__)


def evaluate(model: Model, config: ConfigDict, progress: Progress = silent) -> Evaluation:
    """Answers every question and compares with the one right answer.

    Args:
      config: annotations and video_root, as `read_video_questions` takes them; num_frames;
        batch_size, of questions; candidates, a file of answers to rank, one a line, or "" to
        write answers; top_k of the candidates, whose whole text is scored; num_beams and
        max_new_tokens of what is written.

    Returns:
      accuracy, and accuracy_WORD by the first word of the question. Answers are equal where they
      are so in lower case. The submission lists all answers.

    Raises:
      ValueError: no list of questions about videos, none of which can be opened, or a file
        without candidates.
    """
    model.need("answer")
    questions = read_video_questions(config.annotations, config.video_root or None)
    candidates = read_lines(config.candidates) if config.candidates else None
    written = answer_all(model, questions, candidates, config, progress)
    if not written:
        raise ValueError(f"{config.annotations}: none of its videos can be opened")
    asked = [(row, written[i]) for i, row in enumerate(questions) if i in written]
    judged = [(row, is_right(row, answer)) for row, answer in asked if row.answer]
    lost = len(questions) - len(asked)
    return Evaluation(
        accuracy(judged),
        len(judged),
        [example(row, answer) for row, answer in asked],
        submissions={
            "video_qa_result.json": [
                {"question_id": row.question_id, "answer": answer} for row, answer in asked
            ]
        },
        skipped={"unreadable_video": lost} if lost else {},
        missing={} if judged else {"accuracy": f"{config.annotations} holds no answers"},
    )


def answer_all(
    model: Model,
    questions: Sequence[VideoQuestion],
    candidates: Sequence[str] | None,
    config: ConfigDict,
    progress: Progress,
) -> dict[int, str]:
    """Number of a question -> its answer, for the videos that can be opened, one at a time."""
    of_video: dict[Place, list[int]] = defaultdict(list)
    for number, row in enumerate(questions):
        of_video[row.place].append(number)
    written: dict[int, str] = {}
    done = 0
    for place, numbers in of_video.items():
        clip = Clips([place], model.config.vision.image_size, config.num_frames)
        frames = clip.try_open([0])[0]
        if isinstance(frames, ImageError):
            log.warning("skipped: %s", frames)
        else:
            tokens = image_tokens(model.blip, model.on_device, frames[None])
            texts = [questions[number].question for number in numbers]
            written |= zip(numbers, answer(model, tokens, texts, candidates, config), strict=True)
        done += len(numbers)
        progress(done, len(questions))
    return written


def answer(
    model: Model,
    tokens: jax.Array,
    questions: Sequence[str],
    candidates: Sequence[str] | None,
    config: ConfigDict,
) -> list[str]:
    """The best answer to each question about the tokens [1, F * S, W] of one video."""
    asked, batch_size = (model, tokens, questions), config.batch_size
    if candidates:
        chosen, _ = rank_answers(*asked, candidates, top_k=config.top_k, batch_size=batch_size)
        return [candidates[number] for number in chosen[:, 0]]
    lengths = {"num_beams": config.num_beams, "max_new_tokens": config.max_new_tokens}
    return [row[0] for row in write_answers(*asked, batch_size=batch_size, **lengths)[0]]


def is_right(row: VideoQuestion, answer: str) -> bool:
    """Whether the answer is the row's, in lower case."""
    return answer.strip().lower() == row.answer.strip().lower()


def accuracy(judged: Sequence[tuple[VideoQuestion, bool]]) -> dict[str, Score]:
    """Share of right answers, over all and by the first word of the question."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for row, right in judged:
        hits["accuracy"].append(right)
        hits[f"accuracy_{row.question.lower().split(' ')[0]}"].append(right)
    return {name: score(found) for name, found in hits.items()}


def example(row: VideoQuestion, answer: str) -> Example:
    """One question as a page shows it."""
    truth = (("truth", row.answer),) if row.answer else ()
    lines = (("video", row.name), ("question", row.question), *truth, ("prediction", answer))
    return Example(picture(row.place), lines, float(is_right(row, answer)))


image_tokens = jax.jit(Blip.image_tokens, static_argnums=0)
