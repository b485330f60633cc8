"""VQA accuracy by the rules of the official evaluation, computed by hand."""

import pytest

from blip_jax.metrics.vqa import CONTRACTIONS, clean, vqa_accuracy


@pytest.mark.parametrize(
    ("same", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1)]
)
def test_the_mean_over_nine_of_ten(same, expected):
    # Of 10 people `same` gave the answer. Leaving one of those out leaves same - 1, else same.
    people = ["red"] * same + [f"other {i}" for i in range(10 - same)]
    by_hand = (same * min(1, (same - 1) / 3) + (10 - same) * min(1, same / 3)) / 10
    assert vqa_accuracy("red", people) == pytest.approx(by_hand)
    assert by_hand == pytest.approx(expected)


def test_people_of_one_mind_are_taken_at_their_word():
    # LAVIS cleans the answer here all the same, and so finds "Yes" wrong and "yes" right.
    assert vqa_accuracy("Yes", ["Yes"] * 10) == 1.0
    assert vqa_accuracy("yes", ["Yes"] * 10) == 0.0
    assert vqa_accuracy("yes", ["Yes"] * 9 + ["no"]) == 1.0  # cleaned, once they differ
    assert vqa_accuracy(" Yes\n", ["Yes\t"] * 10) == 1.0  # blanks always go


def test_answers_equal_but_for_case_count_as_one_mind_only_if_written_alike():
    people = ["Red"] * 5 + ["red"] * 5
    assert vqa_accuracy("the red.", people) == 1.0


def test_a_single_annotator_can_agree_with_nobody():
    assert vqa_accuracy("red", ["red"]) == 0.0
    with pytest.raises(ValueError, match="at least one"):
        vqa_accuracy("red", [])


@pytest.mark.parametrize(
    ("answer", "cleaned"),
    [
        ("The Dog", "dog"),
        ("a an the", ""),
        ("two", "2"),
        ("none", "0"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("wouldntve", "wouldntve"),
        ("wouldn'tve", "wouldn't've"),
        ("wouldnt've", "wouldn't've"),
        ("im", "im"),  # the original's "Im" meets lower case only
        ("somebody'd", "somebodyd"),  # and this one it has the wrong way round
        ("5.", "5"),
        ("2.5", "2.5"),
        (".5", ".5"),
        ("u.s.a.", "usa"),
        ("10,000", "10000"),
        ("red,blue", "red blue"),
        ("red, blue", "red blue"),
        ("yes/no", "yes no"),
        ("yes / no", "yes no"),
        ("black-and-white", "black and white"),
        ("half-eaten, old-ish", "half eaten old ish"),
        ("1,000 half-eaten", "1000 halfeaten"),  # with a thousand, all signs are dropped
        ("what?", "what"),
        ("it's", "it's"),
        ("a" + "." * 40, "a" + "." * 8),  # 32 full stops at most
    ],
)
def test_cleaning(answer, cleaned):
    assert clean(answer) == cleaned


def test_contractions_lack_one_apostrophe():
    assert CONTRACTIONS["yall'd've"] == CONTRACTIONS["y'all'dve"] == "y'all'd've"
    assert CONTRACTIONS["ow's'at"] == "'ow's'at" and CONTRACTIONS["twas"] == "'twas"
    assert "hell" not in CONTRACTIONS and "its" not in CONTRACTIONS and "were" not in CONTRACTIONS
