"""Search in two stages, held against a plain statement of the definition."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny
from corpora import write_images
from ml_collections import ConfigDict
from PIL import Image

from blip_jax.data.images import ImageError
from blip_jax.data.records import read_json
from blip_jax.inference.embed import text_ids
from blip_jax.inference.match import among_best, match_logits, pair_logits
from blip_jax.inference.pairs import NONE, Layout, side_by_side
from blip_jax.inference.pixels import Pixels
from blip_jax.metrics.retrieval import NEVER, retrieval_recall
from blip_jax.tasks import retrieval
from blip_jax.tasks.search import Gallery, Texts, rank_items, two_way

WORDS = ["a", "red", "star", "and", "blue", "ring", "two", "dogs", "on", "left", "three", "cats"]


def texts(count, seed=0, longest=14):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, longest))) for _ in range(count)]


def plain_ranks(cosine, query, item, scores, k):
    """The definition, one query after another: the k of highest cosine sorted by their score,
    then the others by cosine; what is right comes after its equals."""
    ranks = []
    for row, values, label in zip(cosine, scores, query, strict=True):
        order = sorted(range(len(row)), key=lambda j: -row[j])
        head, tail = order[:k], order[k:]
        right = item == label
        head = sorted(head, key=lambda j: (-values[j], right[j]))
        tail = sorted(tail, key=lambda j: (-row[j], right[j]))
        found = [right[j] for j in head + tail]
        first = found.index(True) if any(found) else NEVER
        # Others that are right and stand before it are no mistakes, and there are none.
        ranks.append(first)
    return np.array(ranks)


@pytest.mark.parametrize("k", [1, 3, 10, 500])
@pytest.mark.parametrize("levels", [0, 4])
def test_ranks_are_those_of_the_definition(k, levels):
    """levels: few different scores, so many ties. The cosines stay apart, or which of two equals
    is among the top k would be anyone's choice."""
    rng = np.random.default_rng(k + levels)
    text_image = rng.integers(0, 25, 60)  # several texts an image, and none for some
    assert len(set(text_image)) < 30
    cosine = rng.normal(size=(30, 60)) + (text_image == np.arange(30)[:, None])
    scores = rng.integers(0, levels, cosine.shape).astype(float) if levels else cosine[::-1] * 3
    images = np.arange(30)
    for table, value, query, item in (
        (cosine, scores, images, text_image),
        (cosine.T, scores.T, text_image, images),
    ):
        found = rank_items(table, query, item, value, among_best(table, k))
        np.testing.assert_array_equal(found.rank, plain_ranks(table, query, item, value, k))
        best = np.argsort(-table, axis=1)[:, :k]
        assert (
            np.take_along_axis(value, best, 1).max(1) == value[range(len(best)), found.first]
        ).all()


def test_a_blind_or_diverged_model_finds_nothing_and_the_rest_follows_in_the_order_of_itc():
    labels = np.arange(20)
    for blind, place in ((0.0, 3), (np.nan, 19)):  # last of its four; last of all
        flat = np.full((20, 20), blind)
        assert (rank_items(flat, labels, labels).rank == 19).all()
        sharp = np.eye(20) + np.arange(20) * 1e-3
        found = rank_items(sharp, labels, labels, flat, among_best(sharp, 4))
        assert set(found.rank) == {place}
    cosine = np.array([[0.9, 0.8, 0.1, 0.5]] * 2)
    scores = np.array([[0.0, 5.0, 9.0, 9.0]])
    found = rank_items(cosine[:1], np.array([3]), np.arange(4), scores, among_best(cosine[:1], 2))
    assert found.rank.tolist() == [2] and found.first.tolist() == [1]
    places = rank_items(cosine, np.array([3, 8]), np.arange(4)).places()  # nothing is an 8
    assert {name: s.value for name, s in places.items()} == {"mean_rank": 3.0, "median_rank": 3.0}


def test_with_all_pairs_scored_it_is_the_recall_of_the_metric():
    rng = np.random.default_rng(1)
    text_image = np.repeat(np.arange(12), 3)
    cosine = rng.normal(size=(12, 36)) + (text_image == np.arange(12)[:, None])
    logits = rng.normal(size=(12, 36, 2))
    everything = among_best(cosine, 1000)
    assert everything.all()
    scores, _ = two_way(cosine, logits, (everything, everything.T), text_image, ("tr", "ir"))
    whole = retrieval_recall(logits[..., 1] + cosine, text_image)
    itm = retrieval_recall(logits[..., 1] - logits[..., 0], text_image)
    itc = retrieval_recall(cosine, text_image)
    for kind, expected in (("", whole), ("itm_", itm), ("itc_", itc)):
        for name in ("tr_r1", "tr_r5", "tr_r10", "ir_r1", "ir_r5", "ir_r10"):
            assert scores[kind + name].value == pytest.approx(expected[name])
    assert scores["r_mean"].value == pytest.approx(whole["r_mean"])


def test_texts_of_one_image_stand_side_by_side():
    rows = side_by_side(np.array([0, 0, 0, 2, 2, 5]), 2)
    assert rows.tolist() == [[0, 1], [2, NONE], [3, 4], [5, NONE]]
    assert side_by_side(np.array([], int), 2).shape == (0, 2)


@pytest.mark.parametrize("shares", [1, 4])
def test_a_layout_holds_every_pair_once_with_its_image_and_its_length(shares):
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 30, 40)
    mask = np.arange(32)[None] < lengths[:, None]
    pairs = np.argwhere(rng.random((23, 40)) < 0.3)
    layout = Layout.of(pairs, mask)
    seen = []
    for first in range(0, 23, 2 * shares):
        for length, owners, numbers in layout.batches(first, 2, shares, 16):
            assert len(owners) % shares == 0 and len(owners) == len(numbers)
            share = np.repeat(np.arange(shares), len(owners) // shares)
            for row, image in zip(numbers, first + 2 * share + owners, strict=True):
                real = row[row != NONE]
                seen += real.tolist()
                assert (pairs[real, 0] == image).all()
                assert (lengths[pairs[real, 1]] <= length).all()
                assert (lengths[pairs[real, 1]] > length - 8).all()
    assert sorted(seen) == list(range(len(pairs)))


@pytest.fixture(scope="module")
def model():
    return tiny.model("retrieval")


@pytest.mark.parametrize("devices", [1, 8])
def test_pairs_are_scored_as_each_would_be_alone(model, devices):
    images, captions = tiny.images(11), texts(9)
    pixels = Pixels(images, model.config.vision.image_size)
    ids, mask = text_ids(model, captions)
    pairs = np.argwhere(np.random.default_rng(0).random((11, 9)) < 0.5)
    run = model if devices == 1 else model.on_every_device()
    assert run.device_count == devices
    logits, embeds = pair_logits(run, pixels, ids, mask, pairs, 4)
    tokens = model.blip.image_tokens(model.params, pixels[pairs[:, 0]])
    ids = jax.numpy.asarray(ids)
    alone = match_logits(
        model.blip, model.params, tokens, ids[pairs[:, 1], None], mask[pairs[:, 1], None]
    )
    np.testing.assert_allclose(logits, alone[:, 0], atol=1e-4)
    np.testing.assert_allclose(embeds, model.embed_images(images), atol=1e-5)
    if devices == 8:
        np.testing.assert_allclose(
            run.embed_texts(captions), model.embed_texts(captions), atol=1e-5
        )


def write_list(folder, count=7):
    """A BLIP list of images with one to three captions each, and the image that is broken."""
    write_images(folder, count)
    (folder / "2.jpg").write_bytes(b"no image")
    words = texts(3 * count, 5)
    rows = [
        {"image": f"{i}.jpg", "caption": words[3 * i : 3 * i + 1 + i % 3]} for i in range(count)
    ]
    (folder / "test.json").write_text(json.dumps(rows))
    return folder / "test.json"


def by_hand(model, records):
    """Cosines, ITM logits [N, M, 2] and owners, from the model's methods and one call of ITM."""
    pixels = Pixels([r.image for r in records], model.config.vision.image_size)
    captions = [c for r in records for c in r.captions]
    owner = np.repeat(np.arange(len(records)), [len(r.captions) for r in records])
    cosine = model.embed_images([r.image for r in records]) @ model.embed_texts(captions).T
    ids, mask = text_ids(model, captions)
    every = np.broadcast_to(ids, (len(records), *ids.shape))
    tokens = model.blip.image_tokens(model.params, pixels[np.arange(len(records))])
    logits = match_logits(
        model.blip,
        model.params,
        tokens,
        jax.numpy.asarray(every),
        np.broadcast_to(mask, every.shape),
    )
    return cosine, np.asarray(logits), owner


def test_retrieval_is_evaluated_end_to_end(model, tmp_path):
    path = write_list(tmp_path)
    config = ConfigDict(
        {"annotations": str(path), "image_root": "", "max_tokens": 35, "top_k": 3, "batch_size": 2}
    )
    steps = []
    found = retrieval.evaluate(model, config, lambda done, total: steps.append((done, total)))
    records = [r for i, r in enumerate(read_json(path)) if i != 2]
    cosine, logits, owner = by_hand(model, records)
    images = np.arange(len(records))
    scores = logits[..., 1] + cosine
    for name, ranks in (
        ("tr", plain_ranks(cosine, images, owner, scores, 3)),
        ("ir", plain_ranks(cosine.T, owner, images, scores.T, 3)),
    ):
        for k in (1, 5, 10):
            assert found.scores[f"{name}_r{k}"].value == pytest.approx(np.mean(ranks < k))
        assert found.scores[f"{name}_mean_rank"].value == pytest.approx(1 + ranks.mean())
        assert found.scores[f"{name}_median_rank"].value == 1 + sorted(ranks)[(len(ranks) - 1) // 2]
    assert found.count == 6 and found.skipped == {"unreadable": 1}
    assert len(found.examples) == len(owner) and steps[-1][0] == steps[-1][1] > 0
    for example, own in zip(found.examples, owner, strict=True):
        assert records[own].image in example.images and len(example.images) in (1, 2)
    with pytest.raises(ValueError, match="top_k must be at least 1, but it is 0"):
        retrieval.evaluate(model, ConfigDict(config.to_dict() | {"top_k": 0}))
    with pytest.raises(ValueError, match="a model of task 'vqa' has no parameters to match with"):
        retrieval.evaluate(tiny.model("vqa"), config)


def test_the_figures_of_a_bootstrap_are_those_of_the_dense_matrix(model, tmp_path):
    path = write_list(tmp_path)
    everything = read_json(path)
    found = retrieval.measure(model, everything, top_k=2, batch_size=2)
    records = [r for i, r in enumerate(everything) if i != 2]
    cosine, logits, owner = by_hand(model, records)
    place = [np.argsort(np.argsort(-cosine, axis), axis) for axis in (0, 1)]
    wanted = (place[0] < 2) | (place[1] < 2)
    reranked = np.where(wanted, logits[..., 1] + cosine, -100)
    for kind, scores in (("itc", cosine), ("itm", reranked)):
        for name, value in retrieval_recall(scores, owner).items():
            assert found[f"{kind}_{name}"] == pytest.approx(value)
    margin = logits[..., 1] - logits[..., 0]
    first = np.unique(owner, return_index=True)[1]
    images = np.arange(len(records))
    right, wrong = margin[images, first], margin[images, np.roll(first, -1)]
    expected = (np.mean(right > 0) + np.mean(wrong <= 0)) / 2
    assert found["match_accuracy"] == pytest.approx(expected)
    assert found["match_auc"] == pytest.approx(np.mean(right[:, None] > wrong[None]))


def test_a_gallery_leaves_out_what_cannot_be_opened(model, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    size = model.config.vision.image_size
    gallery = Gallery.open(model, Pixels([tmp_path / "b.png", tmp_path / "a.png"], size), 1)
    assert gallery.numbers == [1] and gallery.embeds.shape == (1, model.config.embed_dim)
    with pytest.raises(ValueError, match=r"none of the 1 can be opened: .*b.png"):
        Gallery.open(model, Pixels([tmp_path / "b.png"], size), 1)
    with pytest.raises(ImageError, match="b.png"):
        Pixels([tmp_path / "b.png"], size)[np.zeros(1, int)]
    with pytest.raises(ValueError, match="no texts to search for"):
        Texts.encode(model, [(), ()], 20, 4)


def test_texts_may_share_an_image_in_the_model():
    """What stands side by side is what each would be with an image of its own; bfloat16 too."""
    model = tiny.model("retrieval")
    pixels = Pixels(tiny.images(2), model.config.vision.image_size)[np.arange(2)]
    ids, mask = text_ids(model, texts(6))
    for dtype, most in (("float32", 1e-5), ("bfloat16", 0.1)):
        blip = dataclasses.replace(
            model, config=dataclasses.replace(model.config, dtype=dtype)
        ).blip
        tokens = blip.image_tokens(model.params, pixels)
        shared = blip.match_logits(model.params, tokens, ids, mask)
        alone = blip.match_logits(model.params, tokens.repeat(3, 0), ids, mask)
        np.testing.assert_allclose(shared, alone, atol=most)
