"""Metrics against recorded scores of the COCO tools, and against their definitions."""

import json

import numpy as np
import pytest

from blip_jax.metrics.bleu import bleu
from blip_jax.metrics.cider import cider
from blip_jax.metrics.classification import precision_recall_at, roc, roc_auc
from blip_jax.metrics.retrieval import retrieval_recall
from blip_jax.metrics.tokenize import tokenize


@pytest.fixture(scope="module")
def recorded(shared):
    """1,000 human captions with the scores pycocoevalcap 1.2 gave them."""
    folder = shared / "metrics/flickr8k_test_human"
    names = ("inputs", "golden_scores", "golden_per_image", "ptb_tokenized_first400")
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}


def test_scores_of_human_captions_are_those_of_the_coco_tools(recorded):
    gts, res = recorded["inputs"]["gts"], recorded["inputs"]["res"]
    images = list(gts)
    candidates = [tokenize(res[i]) for i in images]
    references = [[tokenize(c) for c in gts[i]] for i in images]
    golden = recorded["golden_scores"]["scores"]
    # Our tokenizer is not the PTB tokenizer; on these captions that costs less than 1 %.
    scores = bleu(candidates, references)
    for n in range(4):
        assert scores[n] == pytest.approx(golden[f"Bleu_{n + 1}"], rel=0.01)
    assert cider(candidates, references)[0] == pytest.approx(golden["CIDEr"], rel=0.01)


def test_bleu_of_each_image_on_the_tools_own_tokens(recorded):
    tokens, golden = recorded["ptb_tokenized_first400"], recorded["golden_per_image"]["Bleu_4"]
    assert len(tokens["res"]) == 400
    for image, candidate in tokens["res"].items():
        references = [[c.split() for c in tokens["gts"][image]]]
        assert bleu([candidate[0].split()], references)[3] == pytest.approx(golden[image], rel=1e-6)


def test_bleu_by_hand():
    candidate, references = ["the", "cat", "the", "cat"], [[["the", "cat", "sat", "here"]]]
    scores = bleu([candidate], references)
    assert scores[0] == pytest.approx(2 / 4)  # clipped: one "the" and one "cat" count
    assert scores[1] == pytest.approx((2 / 4 * 1 / 3) ** 0.5)
    short = bleu([["the", "cat"]], references)
    assert short[0] == pytest.approx(np.exp(1 - 4 / 2))  # brevity penalty


def test_cider_rewards_rare_words_and_punishes_length():
    references = [[s.split()] for s in ("a red star", "a blue ring", "a green box", "a big dog")]
    right = cider([["a", "red", "star"], *[["x"]] * 3], references)[1][0]
    common = cider([["a", "b", "c"], *[["x"]] * 3], references)[1][0]
    long = cider([("a red star " * 3).split(), *[["x"]] * 3], references)[1][0]
    assert right > long > common == 0.0
    # "a" is everywhere, so its weight is 0; the other n-grams agree wholly, 4-grams do not exist.
    assert right == pytest.approx(10 * 3 / 4)


def test_recall_counts_any_text_of_the_image_and_no_ties():
    scores = np.array([[0.9, 0.1, 0.8], [0.95, 0.2, 0.3]])
    recall = retrieval_recall(scores, np.array([0, 0, 1]))
    assert recall["tr_r1"] == 0.5 and recall["ir_r1"] == 0.0
    assert recall["tr_r5"] == recall["ir_r5"] == 1.0
    blind = retrieval_recall(np.zeros((20, 20)), np.arange(20))
    assert blind["r_mean"] == 0.0


def test_roc_auc_is_the_chance_that_right_beats_wrong():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, 60), rng.random(60) < 0.4
    right, wrong = scores[labels][:, None], scores[~labels][None]
    expected = ((right > wrong) + 0.5 * (right == wrong)).mean()
    assert roc_auc(scores, labels) == pytest.approx(expected)
    false, true, _ = roc(scores, labels)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    with pytest.raises(ValueError, match="all have one label"):
        roc([0.1, 0.2], [1, 1])


def test_precision_and_recall_at_a_threshold():
    assert precision_recall_at([0.9, 0.5, 0.4, 0.1], [1, 0, 1, 0], 0.5) == (0.5, 0.5)
    assert precision_recall_at([0.1], [1], 0.5) == (0.0, 0.0)
