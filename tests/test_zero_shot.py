"""Zero-shot classification, held against the model's own methods."""

import json

import numpy as np
import pytest
import tiny
from corpora import write_images
from test_video import settings

from blip_jax.tasks import zero_shot

NAMES = ["red star", "blue ring", "two dogs", "three cats", "green", "left"]
TEMPLATES = ["a photo of a {}.", "the {} on the left", "is it {}?"]


@pytest.fixture
def data(tmp_path):
    write_images(tmp_path, 8)
    (tmp_path / "3.jpg").write_bytes(b"no image")
    rows = [{"image": f"{i}.jpg", "label": NAMES[i * i % 5]} for i in range(8)]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    (tmp_path / "classes.txt").write_text("\n".join(NAMES) + "\n")
    (tmp_path / "templates.txt").write_text("\n".join(TEMPLATES))
    names = ("annotations", "test.json"), ("classes", "classes.txt"), ("templates", "templates.txt")
    return tmp_path, {key: str(tmp_path / name) for key, name in names}


@pytest.mark.parametrize("top_k", [0, 2])
def test_a_class_is_the_mean_of_its_templates(data, top_k):
    folder, places = data
    model = tiny.model()
    found = zero_shot.evaluate(model, settings("zero_shot", **places, top_k=top_k, batch_size=4))
    kept = [i for i in range(8) if i != 3]
    images = [folder / f"{i}.jpg" for i in kept]
    labels = np.array([i * i % 5 for i in kept])
    vectors = np.stack(
        [model.embed_texts([t.replace("{}", name) for t in TEMPLATES]).mean(0) for name in NAMES]
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = model.embed_images(images) @ vectors.T
    if top_k:  # ITM's order of the two nearest; the softmax of two logits hides the first
        itm = model.match_matrix(images, [TEMPLATES[0].replace("{}", name) for name in NAMES])
        nearest = np.argsort(-scores, 1)[:, :2]
        assert len({tuple(row) for row in itm.itm.round(6)}) > 1
        predicted = np.array([names_of(e) for e in found.examples])
        assert all(p in [NAMES[j] for j in row] for p, row in zip(predicted, nearest, strict=True))
    else:
        right = scores[np.arange(7), labels]
        rank = (scores >= right[:, None]).sum(1)
        assert found.scores["top1"].value == pytest.approx(np.mean(rank <= 1))
        assert found.scores["top5"].value == pytest.approx(np.mean(rank <= 5))
        assert [names_of(e) for e in found.examples] == [NAMES[j] for j in scores.argmax(1)]
    hits = np.array([names_of(e) for e in found.examples]) == np.array(NAMES)[labels]
    of_class = found.submissions["per_class.json"]
    assert set(of_class) == {NAMES[label] for label in labels}
    for name, value in of_class.items():
        assert value == pytest.approx(hits[labels == NAMES.index(name)].mean())
    assert found.scores["top1"].value == pytest.approx(hits.mean())
    assert found.scores["class_mean"].value == pytest.approx(np.mean(list(of_class.values())))
    assert found.count == 7 and found.skipped == {"unreadable_image": 1}


def names_of(example):
    """The prediction of an example."""
    return dict(example.lines)["prediction"]


def test_settings_that_mean_nothing(data):
    folder, places = data
    model = tiny.model()
    (folder / "bad.txt").write_text("a photo\n")
    (folder / "few.txt").write_text("green\n")
    (folder / "blank.txt").write_text("\n \n")
    for changes, error, message in (
        ({"templates": str(folder / "bad.txt")}, ValueError, "'a photo' has no {} where"),
        ({"classes": str(folder / "few.txt")}, ValueError, "label 'blue ring' is not in"),
        ({"classes": str(folder / "blank.txt")}, ValueError, "has no lines"),
        ({"classes": str(folder / "gone.txt")}, FileNotFoundError, "no file of lines"),
    ):
        with pytest.raises(error, match=message):
            zero_shot.evaluate(model, settings("zero_shot", **places | changes))
