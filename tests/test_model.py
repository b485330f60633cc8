"""The model object: what is asked of many at once is what each would get alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from blip_jax.inference import answer, classify, embed, explain, nlvr
from blip_jax.inference.pixels import Pixels
from blip_jax.interop.shapes import template
from blip_jax.losses import smoothed_nll
from blip_jax.models.blip import Blip

open_model = functools.cache(tiny.model)
PROMPTS = ["", "a red star and a blue", "two dogs"]
TEXTS = ["a red star", "two dogs on the left of three cats and a blue ring", "a blue ring", "cats"]
CANDIDATES = ["red", "a blue ring", "two dogs", "three cats on the left", "star"]


def pixels_of(model, images):
    """uint8 [N, S, S, 3]."""
    return model._pixels(images)[np.arange(len(images))]


@pytest.mark.parametrize("task", ["pretrain", "caption", "retrieval", "vqa", "nlvr"])
def test_every_task_of_the_original_has_its_tree(task):
    config = dataclasses.replace(tiny.CONFIG, task=task)
    ours = jax.eval_shape(Blip(config).init, jax.random.key(0))
    expected = template(config)
    if task == "retrieval":  # a file may go without
        del ours["temperature"]
    shapes = [jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (ours, expected)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("options", [{"method": "nucleus", "num_captions": 2}, {"num_beams": 2}])
def test_captions_do_not_depend_on_their_batch(options):
    model, images = open_model(), tiny.images(3)
    asked = {**options, "max_new_tokens": 6}
    together = model.caption(images, prompt=PROMPTS, seeds=[7, 8, 9], **asked)
    for image, prompt, seed, row in zip(images, PROMPTS, [7, 8, 9], together, strict=True):
        alone = model.caption(image, prompt=prompt, seeds=[seed], **asked)[0]
        assert [c.text for c in row] == [c.text for c in alone]
        assert all(c.text.startswith(prompt) for c in row)
        np.testing.assert_allclose(
            [c.log_prob for c in row], [c.log_prob for c in alone], atol=1e-4
        )
    assert len({row[0].text for row in together}) == 3


def test_the_models_own_prompt_leads_and_is_left_out():
    image = tiny.images(1)
    own, bare = open_model("caption", prompt="two dogs"), open_model("caption")
    options = {"method": "greedy", "max_new_tokens": 5}
    given = bare.caption(image, prompt="two dogs", **options)[0][0]
    found = own.caption(image, **options)[0][0]
    assert given.text.startswith("two dogs") and found.text
    assert given.text.removeprefix("two dogs").strip() == found.text
    assert given.log_prob == pytest.approx(found.log_prob, abs=1e-5)
    assert bare.caption(image, **options)[0][0].log_prob != found.log_prob


def test_prompts_and_captions_must_fit():
    with pytest.raises(ValueError, match="do not fit text.max_positions 64"):
        open_model("caption").caption(tiny.images(1), prompt="a " * 50)
    with pytest.raises(ValueError, match="got 2 images, 1 prompts"):
        open_model("caption").caption(tiny.images(2), prompt=["a"])


def brute_force(model, pixels, question):
    """Every candidate's whole text in one forward pass."""
    asked = answer.encode_questions(model, [question] * len(CANDIDATES))
    pixels = np.repeat(pixels[None], len(CANDIDATES), 0)
    source = answer.read_question(model.blip, model.params, jnp.asarray(pixels), *asked)
    ids, mask = model.tokenizer.encode(CANDIDATES, max_length=10, first="[DEC]")
    logits = model.blip.lm_logits(model.params, source, ids, mask, source_mask=asked[1])
    loss = smoothed_nll(logits[:, :-1], jnp.asarray(ids[:, 1:]), 0.1)
    first = jax.nn.log_softmax(logits[:, 0])[np.arange(len(ids)), ids[:, 1]]
    return np.asarray(first), -np.asarray((loss * mask[:, 1:]).sum(1))


def test_ranks_are_those_of_scoring_every_candidate():
    model, images = open_model("vqa"), tiny.images(2)
    questions = ["is it green?", "two dogs on the left of three cats?"]
    found = model.answer(images, questions, CANDIDATES, top_n=5)
    few = answer.rank_answers(model, pixels_of(model, images), questions, CANDIDATES, top_k=2)
    for row, question in enumerate(questions):
        first, scores = brute_force(model, pixels_of(model, images)[row], question)
        expected = np.argsort(-scores)
        assert [a.text for a in found[row]] == [CANDIDATES[i] for i in expected]
        probabilities = np.asarray(jax.nn.softmax(scores))[expected]
        np.testing.assert_allclose([a.probability for a in found[row]], probabilities, atol=1e-4)
        kept = np.argsort(-first)[:2]
        assert set(few[0][row]) == set(kept)
        np.testing.assert_allclose(few[1][row], np.sort(scores[kept])[::-1], atol=1e-3)


def test_written_answers_do_not_depend_on_their_batch():
    model, images = open_model("vqa"), tiny.images(2)
    questions = ["is it green?", "two dogs on the left of three cats and a blue ring and a star?"]
    together = model.answer(images, questions, top_n=2)
    for image, question, row in zip(images, questions, together, strict=True):
        alone = model.answer(image, question, top_n=2)[0]
        assert [str(a) for a in alone] == [a.text for a in row]
        assert alone[0].log_prob == pytest.approx(row[0].log_prob, abs=1e-4)
    with pytest.raises(ValueError, match="top_n 6 exceeds the 5"):
        model.answer(images[0], "red?", CANDIDATES, top_n=6)


def test_eight_devices_say_what_one_does():
    images, texts = tiny.images(8), [f"is it {n} dogs?" for n in range(8)]
    one = open_model("vqa")
    many, pixels = one.on_every_device(), pixels_of(one, images)
    assert many.device_count == 8
    for common in (pixels, pixels[:1]):  # the one image of all questions does not divide
        written = [answer.write_answers(m, common, texts) for m in (one, many)]
        assert written[0][0] == written[1][0]
        np.testing.assert_allclose(written[0][1], written[1][1], atol=1e-4)
        chosen = [answer.rank_answers(m, common, texts, TEXTS) for m in (one, many)]
        np.testing.assert_array_equal(chosen[0][0], chosen[1][0])
        np.testing.assert_allclose(chosen[0][1], chosen[1][1], atol=1e-4)
    judges = open_model("nlvr"), open_model("nlvr").on_every_device()
    one, many = (nlvr.judge(m, pixels, pixels[::-1], texts, 8) for m in judges)
    np.testing.assert_allclose(one, many, atol=1e-4)
    judges = open_model("classify"), open_model("classify").on_every_device()
    one, many = (classify.classify(m, pixels, texts, 8) for m in judges)
    np.testing.assert_allclose(one, many, atol=1e-4)


def test_the_matrix_is_its_pairs_and_its_best():
    model, images = open_model("retrieval"), tiny.images(3)
    matrix = model.match_matrix(images, TEXTS, batch_size=2)
    assert matrix.itm.shape == matrix.itc.shape == (3, 4)
    for n, text in enumerate(TEXTS):
        pairs = model.match(images, [text] * 3, batch_size=4)
        np.testing.assert_allclose(matrix.itm[:, n], [p.itm for p in pairs], atol=1e-5)
        np.testing.assert_allclose(matrix.itc[:, n], [p.itc for p in pairs], atol=1e-5)
    for top_k in (1, 2):
        best = model.match_matrix(images, TEXTS, top_k, batch_size=2)
        ranks = [np.argsort(np.argsort(-matrix.itc, axis), axis) for axis in (0, 1)]
        wanted = (ranks[0] < top_k) | (ranks[1] < top_k)
        assert not wanted.all() and (ranks[0] < top_k).tolist() != (ranks[1] < top_k).tolist()
        np.testing.assert_array_equal(np.isfinite(best.itm), wanted)
        np.testing.assert_allclose(best.itm[wanted], matrix.itm[wanted], atol=1e-5)
        np.testing.assert_allclose(best.itc, matrix.itc, atol=1e-6)
    np.testing.assert_array_equal(
        model.match_matrix(images, TEXTS, 3).itm, model.match_matrix(images, TEXTS).itm
    )


def test_images_are_opened_a_batch_at_a_time(monkeypatch):
    model, images = open_model("retrieval"), tiny.images(5)
    sizes = []
    read = Pixels.__getitem__

    def counted(pixels, rows):
        sizes.append(len(rows))
        return read(pixels, rows)

    monkeypatch.setattr(Pixels, "__getitem__", counted)
    model.match_matrix(images, TEXTS[:2], batch_size=2)
    assert sizes == [2, 2, 1]
    model.match_matrix(images, TEXTS[:2], top_k=1, batch_size=2)
    assert sizes[3:] == [2, 2, 1] * 2


def test_the_first_token_of_a_match_is_a_convention():
    image, text = tiny.images(1), TEXTS[0]
    ours, theirs = open_model("retrieval"), open_model("retrieval", match_first="cls")
    a, b = ours.match(image, text)[0], theirs.match(image, text)[0]
    assert abs(a.itm - b.itm) > 1e-4 and a.itc == pytest.approx(b.itc, abs=1e-6)


def test_a_loop_compiles_a_handful_of_programs():
    model = open_model("retrieval")
    before = embed.encode_texts._cache_size()
    for count in range(1, 12):
        vectors = model.embed_texts(["red star", "a blue ring and cats"] * count, batch_size=8)
        assert vectors.shape == (2 * count, 16)
    # Batches of 1, 2, 4 and 8 are all there are.
    assert embed.encode_texts._cache_size() - before <= 4


def test_explain_shows_where_the_gradient_is():
    model, image = open_model("retrieval"), tiny.images(1)[0]
    whole = model.explain(image, "a red star and a blue ring")
    grid = model.config.vision.grid
    assert whole.heatmap.shape == (grid, grid) and whole.heatmap.dtype == np.float32
    assert np.isfinite(whole.heatmap).all() and (whole.heatmap >= 0).all()
    assert whole.heatmap.max() > 0 and whole.picture().size == (20, 16)
    words = ["a", "red", "star", "and", "blue", "ring"]
    maps = [model.explain(image, "a red star and a blue ring", w).heatmap for w in words]
    assert len({m.tobytes() for m in maps}) == len(words)
    with pytest.raises(ValueError, match="'green' is not in the text"):
        model.explain(image, "a red star", "green")
    with pytest.raises(ValueError, match="layer 2 is not one of the 2 blocks"):
        model.explain(image, "a red star", layer=2)


@pytest.mark.parametrize("layer", [0, 1])
def test_explain_explains_the_match(layer):
    """The logit it differentiates is the model's, and its slope is that of finite differences."""
    model = open_model("retrieval")
    blip, params = model.blip, model.params
    tokens = blip.image_tokens(params, jnp.asarray(pixels_of(model, tiny.images(1))))
    ids, mask = embed.text_ids(model, ["a red star"])
    logit = functools.partial(explain.match_logit, blip, layer, params, tokens, ids, mask)
    shift = jnp.zeros((1, 4, ids.shape[1], tokens.shape[1]))
    value, attention = logit(shift)
    expected = blip.match_logits(params, tokens, ids, mask)[0, 1]
    assert float(value) == pytest.approx(float(expected), abs=1e-4)
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-5)
    slope = jax.grad(lambda s: logit(s)[0])(shift)
    way = jnp.sign(slope) * 1e-3
    rise = (logit(way)[0] - logit(-way)[0]) / 2
    assert float(rise) == pytest.approx(float((slope * way).sum()), rel=0.02)


def test_nlvr_tells_left_from_right_and_merges_from_the_seventh_layer_on():
    text = dataclasses.replace(open_model("nlvr").config.text, depth=7)
    config = dataclasses.replace(open_model("nlvr").config, text=text)
    params = jax.device_get(jax.jit(Blip(config).init)(jax.random.key(0)))
    model = dataclasses.replace(open_model("nlvr"), config=config, params=params)
    images = tiny.images(4)
    texts = ["a red star on the left", "two dogs"]
    found = model.nlvr(images[:2], images[2:], texts)
    swapped = model.nlvr(images[2:], images[:2], texts)
    for n, (one, other) in enumerate(zip(found, swapped, strict=True)):
        assert abs(one.probability - other.probability) > 1e-5
        alone = model.nlvr(images[n], images[n + 2], texts[n])[0]
        assert alone.probability == pytest.approx(one.probability, abs=1e-5)
        assert one.label == (one.probability > 0.5) and str(one) == str(one.label)
    merge = model.params["text"]["blocks"]["cross_attention"]["merge"]
    assert merge["kernel"].shape == (1, 64, 32)
    without = jax.tree.map(lambda leaf: leaf, model.params)
    del without["text"]["blocks"]["cross_attention"]["merge"]
    averaging = dataclasses.replace(model, params=without)
    sides = (pixels_of(model, images[:2]), pixels_of(model, images[2:]))
    logits = [nlvr.judge(m, *sides, texts, 2) for m in (model, averaging)]
    assert np.abs(logits[0] - logits[1]).max() > 1e-4


@pytest.mark.parametrize(
    ("task", "ask"),
    [
        ("caption", lambda m, i: m.match(i, "a")),
        ("retrieval", lambda m, i: m.caption(i)),
        ("vqa", lambda m, i: m.embed_images(i)),
        ("nlvr", lambda m, i: m.explain(i[0], "a")),
        ("pretrain", lambda m, i: m.answer(i, "a")),
    ],
)
def test_what_a_model_cannot_is_told_with_its_task(task, ask):
    config = dataclasses.replace(tiny.CONFIG, task=task)
    model = dataclasses.replace(open_model("caption"), config=config)
    with pytest.raises(ValueError, match=f"a model of task '{task}' has no parameters to"):
        ask(model, tiny.images(1))
