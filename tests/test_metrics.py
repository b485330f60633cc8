"""Metrics against recorded scores of the COCO tools, and against their definitions."""

import importlib.util
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from blip_jax.metrics import java
from blip_jax.metrics.bleu import bleu, bleu_of_counts
from blip_jax.metrics.caption import caption_metrics
from blip_jax.metrics.cider import cider, cider_plain
from blip_jax.metrics.classification import precision_recall_at, roc, roc_auc
from blip_jax.metrics.retrieval import (
    NEVER,
    ndcg,
    reciprocal_ranks,
    retrieval_ranks,
    retrieval_recall,
)
from blip_jax.metrics.rouge import common_length, rouge_l

RECORDED = Path(__file__).parent / "recorded/captions.json"


def read(folder, *names):
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}


def assert_golden(captions, references, scores, each):
    """Scores of a corpus and of its images, to the last digits."""
    found = caption_metrics(captions, references)
    for name, expected in scores.items():
        values, statistic = found[name]
        value = statistic(values, np.ones((1, len(captions))))[0]
        assert value == pytest.approx(expected, rel=1e-11, abs=1e-14), name
    np.testing.assert_allclose(found["cider"][0], each["cider"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found["rouge_l"][0], each["rouge_l"], rtol=1e-9, atol=1e-12)
    bleu4 = bleu_of_counts(found["bleu4"][0])[:, 3]
    np.testing.assert_allclose(bleu4, each["bleu4"], rtol=1e-9, atol=1e-12)


def ours(scores):
    """The COCO tools' names as ours."""
    return {
        name.lower().replace("bleu_", "bleu"): value
        for name, value in scores.items()
        if name != "METEOR"
    }


def test_strings_of_every_kind_score_as_with_the_coco_tools():
    recorded = json.loads(RECORDED.read_text())
    captions = [row["caption"] for row in recorded["sets"]]
    references = [row["references"] for row in recorded["sets"]]
    assert_golden(captions, references, recorded["scores"], recorded["each"])


@pytest.mark.parametrize("name", ["flickr8k_test_human", "coco_val2014_fakecap"])
def test_captions_score_as_with_the_coco_tools(shared, name):
    files = read(shared / "metrics" / name, "golden_scores", "golden_per_image")
    if name == "flickr8k_test_human":  # 1,000 human captions
        (texts,) = read(shared / "metrics" / name, "inputs").values()
        captions, references = list(texts["res"].values()), list(texts["gts"].values())
        images = list(texts["gts"])
    else:  # tokens are all that is known
        (texts,) = read(shared / "metrics" / name, "ptb_tokenized_first400").values()
        images = list(texts["gts"])
        captions = [texts["res"][i][0] for i in images]
        references = [texts["gts"][i] for i in images]
    assert len(images) == files["golden_scores"]["n_images"]  # none is left out
    each = {k: [v[i] for i in images] for k, v in ours(files["golden_per_image"]).items()}
    each["bleu4"] = each.pop("bleu_4", None) or each["bleu4"]
    assert_golden(captions, references, ours(files["golden_scores"]["scores"]), each)


@pytest.mark.skipif(
    shutil.which("java") is None or importlib.util.find_spec("pycocoevalcap") is None,
    reason="METEOR needs Java and the package pycocoevalcap",
)
def test_meteor_is_the_coco_tools(shared):
    (tokens,) = read(shared / "metrics/flickr8k_test_human", "ptb_tokenized_first400").values()
    (each,) = read(shared / "metrics/flickr8k_test_human", "golden_per_image").values()
    images = list(tokens["gts"])[:20]
    candidates = [tokens["res"][i][0].split() for i in images]
    references = [[c.split() for c in tokens["gts"][i]] for i in images]
    _, found = java.meteor(candidates, references)
    np.testing.assert_allclose(found, [each["METEOR"][i] for i in images], rtol=1e-9)


def test_what_java_would_say_is_named_as_not_computed(monkeypatch):
    monkeypatch.setattr(java.shutil, "which", lambda name: None)
    with pytest.raises(java.NotComputed, match="java is not installed|pycocoevalcap is not"):
        java.meteor([["a"]], [[["a"]]])
    monkeypatch.setattr(java, "package", lambda: Path("/nowhere"))
    with pytest.raises(java.NotComputed, match="stanford-corenlp-3.6.0.jar and .* belong into"):
        java.spice([["a"]], [[["a"]]])


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


def test_plain_cider_neither_clips_nor_compares_lengths():
    references = [[s.split()] for s in ("a red star", "a blue ring", "a green box", "a big dog")]
    candidate = ["a", "red", "star", "red"]
    clipped = cider([candidate, *[["x"]] * 3], references)[1][0]
    plain = cider_plain([candidate, *[["x"]] * 3], references)[1][0]
    assert plain > clipped
    # Of the 1-grams "red" counts twice: (2 + 1) / (sqrt(5) sqrt(2)); "a" has no weight. The
    # 2-grams are right but for one of three, the 3-grams but for one of two.
    expected = 3 / math.sqrt(10) + 2 / math.sqrt(6) + 1 / math.sqrt(2)
    assert plain == pytest.approx(10 * expected / 4)
    same = cider_plain([["a", "red", "star"], *[["x"]] * 3], references)[1][0]
    assert same == pytest.approx(7.5)  # there are no 4-grams


def test_rouge_l_by_hand():
    # "the cat sat" of "the cat on mat sat": 3 of 4 words, 3 of 5.
    found = rouge_l([["the", "cat", "sat", "down"]], [[["the", "cat", "on", "mat", "sat"]]])
    assert found[0] == pytest.approx((1 + 1.44) * (3 / 4) * (3 / 5) / (3 / 5 + 1.44 * 3 / 4))
    assert rouge_l([["x"]], [[["y"]]])[0] == 0
    assert rouge_l([[]], [[[], ["a"]]])[0] == 1  # as in the tool


def test_longest_common_subsequence_is_that_of_the_table():
    rng = np.random.default_rng(0)
    for _ in range(50):
        first, second = ([*map(str, rng.integers(0, 4, rng.integers(1, 70)))] for _ in "ab")
        table = np.zeros((len(first) + 1, len(second) + 1), int)
        for i, a in enumerate(first):
            for j, b in enumerate(second):
                best = max(table[i, j + 1], table[i + 1, j])
                table[i + 1, j + 1] = table[i, j] + 1 if a == b else best
        assert common_length(first, second) == table[-1, -1]


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


def test_ranks_and_what_is_made_of_them():
    scores = np.array([[0.9, 0.1, 0.8], [0.95, 0.2, 0.3], [0, 0, 0]])
    texts, images = retrieval_ranks(scores, np.array([0, 0, 1]))
    assert texts.tolist() == [0, 1, NEVER] and images.tolist() == [1, 1, 1]
    np.testing.assert_allclose(reciprocal_ranks(images), 0.5)


def test_ndcg_by_hand():
    relevance = [0.0, 1.0, 0.5, 0.0]
    assert ndcg([1, 4, 3, 2], relevance) == 1.0
    # The two best-scored have relevance 0 and 0.5; the best two would have 1 and 0.5.
    found = 0.5 / math.log2(3)
    assert ndcg([4, 1, 3, 2], relevance) == pytest.approx(found / (1 + 0.5 / math.log2(3)))
    assert ndcg([1, 2], [0, 0]) == 0.0
