"""Metrics against recorded scores of the COCO tools, and against their definitions."""

import json

import numpy as np
import pytest

from blip_jax.metrics.bleu import bleu
from blip_jax.metrics.cider import cider
from blip_jax.metrics.classification import precision_recall_at, roc, roc_auc
from blip_jax.metrics.retrieval import retrieval_recall
from blip_jax.metrics.tokenize import tokenize

# What pycocoevalcap's PTB tokenizer drops, of what these captions hold.
PUNCTUATION = {"'", '"', ".", "?", "!", ",", ";", "-", "--"}


def read(folder, *names):
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}


@pytest.fixture(scope="module")
def recorded(shared):
    """1,000 human captions with the scores pycocoevalcap 1.2 gave them."""
    names = ("inputs", "golden_scores", "golden_per_image", "ptb_tokenized_first400")
    return read(shared / "metrics/flickr8k_test_human", *names)


def ptb(caption):
    """The PTB tokens of a caption whose words stand apart already."""
    words = caption.lower().replace("cannot", "can not").split()
    return [word for word in words if word not in PUNCTUATION]


def assert_golden(candidates, references, golden, per_image):
    """BLEU-1..4 and CIDEr, corpus and image by image, to the last digits."""
    scores, (mean, each) = bleu(candidates, references), cider(candidates, references)
    for n in range(4):
        assert scores[n] == pytest.approx(golden["scores"][f"Bleu_{n + 1}"], rel=1e-12)
    assert mean == pytest.approx(golden["scores"]["CIDEr"], rel=1e-12)
    np.testing.assert_allclose(each, per_image["CIDEr"], rtol=1e-9, atol=1e-12)
    bleu4 = [bleu([c], [r])[3] for c, r in zip(candidates, references, strict=True)]
    np.testing.assert_allclose(bleu4, per_image["Bleu_4"], rtol=1e-9, atol=1e-12)


def test_exact_scores_on_the_tools_own_tokens(shared):
    folder = shared / "metrics/coco_val2014_fakecap"
    files = read(folder, "ptb_tokenized_first400", "golden_scores", "golden_per_image")
    tokens, per_image = files["ptb_tokenized_first400"], files["golden_per_image"]
    images = list(tokens["gts"])
    assert len(images) == files["golden_scores"]["n_images"]  # none is left out
    candidates = [tokens["res"][i][0].split() for i in images]
    references = [[c.split() for c in tokens["gts"][i]] for i in images]
    ordered = {name: [per_image[name][i] for i in images] for name in ("Bleu_4", "CIDEr")}
    assert_golden(candidates, references, files["golden_scores"], ordered)


def test_exact_scores_of_a_thousand_human_captions(recorded):
    gts, res, per_image = *recorded["inputs"].values(), recorded["golden_per_image"]
    known = recorded["ptb_tokenized_first400"]
    for image, tokens in known["res"].items():  # the short cut is the tool's tokenizer here
        assert ptb(res[image]) == tokens[0].split()
        assert [ptb(c) for c in gts[image]] == [c.split() for c in known["gts"][image]]
    candidates, references = [ptb(res[i]) for i in gts], [[ptb(c) for c in gts[i]] for i in gts]
    ordered = {name: [per_image[name][i] for i in gts] for name in ("Bleu_4", "CIDEr")}
    assert_golden(candidates, references, recorded["golden_scores"], ordered)


def test_our_tokenizer_costs_less_than_a_percent(recorded):
    gts, res = recorded["inputs"]["gts"], recorded["inputs"]["res"]
    images = list(gts)
    candidates = [tokenize(res[i]) for i in images]
    references = [[tokenize(c) for c in gts[i]] for i in images]
    golden = recorded["golden_scores"]["scores"]
    # Only "'s" and the like differ from the PTB tokens: 26 of the 2,000 captions known.
    scores = bleu(candidates, references)
    for n in range(4):
        assert scores[n] == pytest.approx(golden[f"Bleu_{n + 1}"], rel=0.01)
    assert cider(candidates, references)[0] == pytest.approx(golden["CIDEr"], rel=0.01)


def test_bleu_by_hand():
    candidate, references = ["the", "cat", "the", "cat"], [[["the", "cat", "sat", "here"]]]
    scores = bleu([candidate], references)
    assert scores[0] == pytest.approx(2 / 4)  # clipped: one "the" and one "cat" count
    assert scores[1] == pytest.approx((2 / 4 * 1 / 3) ** 0.5)
    short = bleu([["the", "cat"]], references)
    assert short[0] == pytest.approx(np.exp(1 - 4 / 2))  # brevity penalty


def test_cider_of_nothing_is_an_error_and_of_an_empty_caption_zero():
    with pytest.raises(ValueError, match="at least one"):
        cider([], [])
    assert cider([[], ["a", "b"]], [[["a", "star"]], [["a", "b"]]])[1][0] == 0


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
    for blind in (0.0, np.nan):
        assert retrieval_recall(np.full((20, 20), blind), np.arange(20))["r_mean"] == 0.0


def test_recall_is_that_of_the_originals_loop():
    rng = np.random.default_rng(0)
    text_image = rng.permutation(np.repeat(np.arange(30), 3))[:70]
    scores = rng.normal(size=(30, 70)) + 1.5 * (text_image == np.arange(30)[:, None])
    ranks = {"tr": [], "ir": []}
    for image, row in enumerate(scores):
        found = np.flatnonzero(text_image[np.argsort(-row)] == image)
        ranks["tr"].append(found[0] if len(found) else np.inf)
    for text, column in enumerate(scores.T):
        ranks["ir"].append(np.flatnonzero(np.argsort(-column) == text_image[text])[0])
    recall = retrieval_recall(scores, text_image)
    for name, found in ranks.items():
        for k in (1, 5, 10):
            assert 0 < recall[f"{name}_r{k}"] == pytest.approx(np.mean(np.array(found) < k))


def test_an_image_without_texts_is_not_found():
    recall = retrieval_recall(np.eye(3)[:, :2], np.array([0, 1]))
    assert recall["tr_r10"] == pytest.approx(2 / 3) and recall["ir_r1"] == 1.0


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
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        roc([0.1, np.nan], [0, 1])
    with pytest.raises(ValueError, match="a label a score"):
        roc([0.1, 0.2], [1, 0, 1])


def test_precision_and_recall_at_a_threshold():
    assert precision_recall_at([0.9, 0.5, 0.4, 0.1], [1, 0, 1, 0], 0.5) == (0.5, 0.5)
    assert precision_recall_at([0.1], [1], 0.5) == (0.0, 0.0)
