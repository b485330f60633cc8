"""Intervals, diversity and hallucination against their definitions."""

import numpy as np
import pytest

from blip_jax.metrics.chair import chair, objects_in, read_synonyms, singular
from blip_jax.metrics.diversity import distinct
from blip_jax.metrics.interval import estimate, mean, median, ratio
from blip_jax.metrics.tokenize import tokenize


def test_an_interval_is_that_of_the_normal_law_where_that_holds():
    values = np.random.default_rng(0).normal(3, 2, 4000)
    value, low, high = estimate(values)
    error = values.std() / np.sqrt(len(values))
    assert value == pytest.approx(values.mean())
    assert low == pytest.approx(value - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(value + 1.96 * error, abs=0.15 * error)
    assert estimate(values) == (value, low, high)  # the same every time
    assert estimate(values, seed=1) != (value, low, high)


def test_intervals_hold_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        _, low, high = estimate(rng.random(80) < 0.3)
        hits += low <= 0.3 <= high
    assert 88 <= hits <= 100


def test_counts_mean_repetition():
    values, counts = np.array([1.0, 5.0, 2.0]), np.array([[1, 1, 1], [0, 3, 0], [2, 0, 1.0]])
    repeated = [np.repeat(values, row.astype(int)) for row in counts]
    assert mean(values, counts) == pytest.approx([r.mean() for r in repeated])
    assert median(values, counts).tolist() == [2, 5, 1]
    pairs = np.array([[1, 2], [0, 0], [3, 4]])
    assert ratio(pairs, counts) == pytest.approx([4 / 6, 0, 5 / 8])


def test_certain_things_have_no_width_and_nothing_has_no_score():
    assert estimate([1.0] * 5) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="at least one example"):
        estimate([])


def test_distinct_n_counts_different_ngrams():
    texts = [s.split() for s in ("a red dog", "a red cat", "a dog")]
    values, share = distinct(texts, 1)
    assert share(values, np.ones((1, 3)))[0] == pytest.approx(4 / 8)
    values, share = distinct(texts, 2)
    assert share(values, np.ones((1, 3)))[0] == pytest.approx(4 / 5)
    assert share(values, np.array([[2.0, 0, 0]]))[0] == pytest.approx(2 / 4)
    value, low, high = estimate(values, share, centred=True)
    assert low <= value <= high
    values, share = distinct([[], []], 1)
    assert share(values, np.ones((1, 2)))[0] == 0


SYNONYMS = "dog, puppy\nhot dog\nperson, man, woman\ntraffic light, stoplight\nbus\n"


def test_chair_by_hand(tmp_path):
    (tmp_path / "synonyms.txt").write_text(SYNONYMS)
    names = read_synonyms(tmp_path / "synonyms.txt")
    captions = [
        "Two men with puppies and a hot dog at the traffic lights.",  # no traffic light is there
        "A woman and a woman on buses",
        "nothing to see",
    ]
    tokens = [tokenize(c) for c in captions]
    assert objects_in(tokens[0], names) == ["person", "dog", "hot dog", "traffic light"]
    wrong, mentions = chair(tokens, [["man", "dog", "hot dog"], ["person", "bus"], []], names)
    assert wrong.tolist() == [True, False, False]
    assert mentions.tolist() == [[1, 4], [0, 3], [0, 0]]
    assert ratio(mentions, np.ones((1, 3)))[0] == pytest.approx(1 / 7)


def test_names_of_two_objects_are_refused(tmp_path):
    path = tmp_path / "synonyms.txt"
    path.write_text("dog, puppy\ncat, puppy\n")
    with pytest.raises(ValueError, match="line 2: 'puppy' is also a dog"):
        read_synonyms(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="names no object"):
        read_synonyms(path)


@pytest.mark.parametrize(
    ("plural", "one"),
    [("dogs", "dog"), ("buses", "bus"), ("bus", "bus"), ("knives", "knife"), ("boxes", "box"),
     ("glass", "glass"), ("puppies", "puppy"), ("people", "person"), ("couches", "couch")],
)  # fmt: skip
def test_singular(plural, one):
    assert singular(plural) == one
