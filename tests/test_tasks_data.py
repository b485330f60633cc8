"""Rows of the tasks' batches, and what their evaluations count."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from blip_jax.data.annotations import Question, Statement
from blip_jax.data.dialogs import Round, read_dialogs
from blip_jax.inference.dialog import dialog_text
from blip_jax.tasks import nlvr, visdial, vqa
from blip_jax.tokenizer import Tokenizer

PLAIN = {"image_size": 8, "flip": True, "randaugment": False, "crop_scale": (1.0, 1.0)}


@pytest.fixture(scope="module")
def tokenizer():
    texts = ["what is left right leftmost of", "yes no maybe", "is it green red blue cat dog ?."]
    return Tokenizer.train(texts, vocab_size=200)


def half(side):
    """A PNG, white on one side and black on the other."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8] = 255 * (side == "left")
    pixels[:, 8:] = 255 * (side == "right")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def white_side(pixels):
    return "left" if pixels[0, 0, 0] > pixels[0, -1, 0] else "right"


def drawn(reader, row, count=30):
    return [reader(row, np.random.default_rng(seed)) for seed in range(count)]


def text(tokenizer, ids):
    return tokenizer.decode(ids)[0]


def test_a_mirrored_question_has_mirrored_answers(tokenizer):
    reader = vqa.Questions(tokenizer, vqa.QuestionOptions(**PLAIN, max_tokens=12, max_answers=3))
    answers = ("left",) * 7 + ("right",) * 3
    rows = drawn(reader, Question(1, half("left"), "What is left of it?", answers))
    sides = set()
    for row in rows:
        side = white_side(row["image"])
        sides.add(side)
        assert text(tokenizer, row["input_ids"]) == f"what is {side} of it?"
        assert text(tokenizer, row["answer_ids"][0]) == side
        np.testing.assert_allclose(row["weights"], [0.7, 0.3, 0.0])
    assert sides == {"left", "right"}


def test_answers_weigh_their_share_and_the_rarest_are_left_out(tokenizer):
    reader = vqa.Questions(tokenizer, vqa.QuestionOptions(**PLAIN, max_tokens=12, max_answers=2))
    row = Question(1, half("left"), "is it green", ("yes",) * 2 + ("no",) * 5 + ("maybe",) * 3)
    (example,) = drawn(reader, row, 1)
    np.testing.assert_allclose(example["weights"], [0.5, 0.3])
    assert tokenizer.decode(example["answer_ids"]) == ["no", "maybe"]
    assert example["answer_ids"][0, 0] == tokenizer.dec_id
    (example,) = drawn(reader, Question(1, half("left"), "is it", ("cat",), "vg"), 1)
    np.testing.assert_allclose(example["weights"], [0.2, 0.0])
    assert not example["truncated"]
    long = Question(1, half("left"), "is it green " * 9, ("yes",))
    assert drawn(reader, long, 1)[0]["truncated"]


def test_a_pair_is_mirrored_as_one_picture(tokenizer):
    """White is left in the left picture, right in the right one: a sentence must stay as true."""
    statement = Statement((half("left"), half("right")), "left is left", True)
    reader = nlvr.Statements(tokenizer, nlvr.StatementOptions(**PLAIN, max_tokens=8))
    seen = set()
    for row in drawn(reader, statement):
        # Mirrored as one, the left half of the left picture is the right half of the right one.
        assert (white_side(row["left"]), white_side(row["right"])) == ("left", "right")
        seen.add(text(tokenizer, row["input_ids"]))
        assert row["label"] == 1
    assert seen == {"left is left", "right is right"}
    statement = Statement((half("left"), half("left")), "leftmost is left", True)
    for row in drawn(reader, statement):
        mirrored = white_side(row["left"]) == "right"
        words = "rightmost is right" if mirrored else "leftmost is left"
        assert text(tokenizer, row["input_ids"]) == words
    free = Statement((half("left"), half("right")), "it is green", True)
    sides = {(white_side(r["left"]), white_side(r["right"])) for r in drawn(reader, free)}
    assert sides == {("left", "right"), ("right", "left")}
    released = nlvr.StatementOptions(**PLAIN, max_tokens=8, as_released=True)
    rows = drawn(nlvr.Statements(tokenizer, released), statement)
    assert len({(white_side(r["left"]), white_side(r["right"])) for r in rows}) == 4


DIALOG = Round(
    3, 3, half("left"), "A cat.", (("is it red", "no"), ("is it green?", "yes")),
    "is it left", ("cat", "yes", "no", "dog"), 1,
)  # fmt: skip


def test_a_round_is_history_question_and_candidate(tokenizer):
    assert dialog_text(tokenizer, DIALOG, [1, 3], 40) == [
        "is it red? no. is it green? yes. is it left? yes",
        "is it red? no. is it green? yes. is it left? dog",
    ]
    short = dialog_text(tokenizer, DIALOG, [1], 14)
    assert short == ["is it green? yes. is it left? yes"]  # the oldest goes first
    assert dialog_text(tokenizer, DIALOG, [1], 7) == ["is it left? yes"]
    options = visdial.DialogOptions(**PLAIN, max_tokens=40, negatives=2)
    for row in drawn(visdial.DialogRounds(tokenizer, options), DIALOG, 8):
        side = white_side(row["image"])
        said = tokenizer.decode(row["input_ids"])
        assert said[0].endswith(f"is it {side}? yes") and len(set(said)) == 3
        assert (row["input_ids"][:, 0] == tokenizer.enc_id).all()
        assert row["caption_ids"][0] == tokenizer.cls_id


def test_dialogues_are_read_as_published(tmp_path):
    (tmp_path / "VisualDialog_val2018").mkdir()
    name = tmp_path / "VisualDialog_val2018/VisualDialog_val2018_000000000007.jpg"
    name.write_bytes(half("left"))
    said = {"question": 1, "answer": 0, "answer_options": [1, 0], "gt_index": 1}
    dialog = {"image_id": 7, "caption": "a cat", "dialog": [said, said]}
    content = {
        "split": "val2018",
        "data": {"questions": ["q0", "q1"], "answers": ["a0", "a1"], "dialogs": [dialog]},
    }
    path = tmp_path / "visdial.json"
    path.write_text(json.dumps(content))
    first, second = read_dialogs(path)
    assert (first.round_id, first.history, first.image) == (1, (), name)
    assert second.history == (("q1", "a0"),) and second.candidates == ("a1", "a0")
    assert second.candidates[second.answer] == "a0"
    for field, value in (("question", 9), ("gt_index", 5), ("answer_options", [3])):
        dialog["dialog"] = [said | {field: value}]
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="dialogue 0"):
            read_dialogs(path)
    dialog.update({"dialog": [said], "image_id": 8})
    path.write_text(json.dumps(content))
    with pytest.raises(FileNotFoundError, match="000000000008.jpg is not there"):
        read_dialogs(path)


QUESTIONS = [(1, "yes", "yes/no"), (2, "yes", "yes/no"), (3, "no", "yes/no"), (4, "2", "number")]


def test_scores_are_their_definitions(tmp_path):
    assert vqa.agreement("yes", ["yes"] * 4 + ["no"] * 6) == 1.0
    # With one person left out in turn, three of ten are three in seven turns and two in three.
    assert vqa.agreement("yes", ["yes"] * 3 + ["no"] * 7) == pytest.approx(0.7 + 0.3 * 2 / 3)
    assert vqa.agreement("cup", ["cup"]) == 1.0 and vqa.agreement("cup", ["mug"]) == 0.0
    questions = [Question(i, half("left"), "q", (a,), "vqa", k) for i, a, k in QUESTIONS]
    scores = vqa.scored([(q, "yes") for q in questions])
    assert {name: found.value for name, found in scores.items()} == {
        "accuracy": 0.5,
        "accuracy_of_most_frequent": 0.5,
        "accuracy_number": 0.0,
        "accuracy_yes_no": pytest.approx(2 / 3),
    }
    assert nlvr.consistency(["a", "a", "b"], np.array([True, False, True])) == [False, True]
    assert visdial.ranked(np.array([0.5, 2.0, -1.0, 2.0])) == [3, 1, 4, 2]
    path = tmp_path / "q.json"
    path.write_text(json.dumps([{"answer": ["b", "a", "a"]}, {"answer": "a"}]))
    assert vqa.read_candidates(str(path)) == ["a", "b"]
    path.write_text(json.dumps(["x", "y", "x"]))
    assert vqa.read_candidates(str(path)) == ["x", "y"]
    path.write_text("[]")
    with pytest.raises(ValueError, match="expected a list of answers"):
        vqa.read_candidates(str(path))
