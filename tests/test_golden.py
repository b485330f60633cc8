"""What the released checkpoints answered elsewhere, asked here again.

The environment variable BLIP_CHECKPOINTS names a folder; each test skips without its files there:

* the released checkpoints, under the file names of `blip_jax.list_models()`;
* blip_coco_caption_base.pth and blip_coco_caption_large.pth, which LAVIS fine-tuned;
* vocab.txt of bert-base-uncased;
* demo.jpg, the woman with a dog of the original's demo.ipynb;
* merlion.png, the sample image of LAVIS (docs/_static/merlion.png).

The values are those of the original's demo.ipynb and of LAVIS' tests/models/test_blip.py and
examples/.
"""

import dataclasses
import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blip_jax
from blip_jax import losses
from blip_jax.inference.embed import text_ids
from blip_jax.interop.source import CHECKPOINTS

LENGTHS = {"min_new_tokens": 1, "max_new_tokens": 16}  # 5 to 20 with [DEC] and the prompt
FOUNTAIN = "a large fountain spewing water into the air"
STATUE = "a large statue of a person spraying water from a fountain"


def file(name):
    """A file of the folder, or the test is skipped."""
    folder = os.environ.get(CHECKPOINTS)
    if not folder:
        pytest.skip(f"{CHECKPOINTS} names no folder of released checkpoints")
    path = Path(folder) / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


@functools.lru_cache(maxsize=1)  # one at a time: a large one takes 2 GiB
def load(path):
    return blip_jax.load(path)


def open_model(name):
    """A model by its file."""
    file("vocab.txt")
    return load(file(name))


def test_the_demo_caption():
    model = open_model("model_base_caption_capfilt_large.pth")
    caption = model.caption(file("demo.jpg"), **LENGTHS)[0][0]
    assert caption.text == "a woman sitting on the beach with a dog"


def test_the_demo_match():
    """The demo's class leaves [CLS] before the text that ITM reads."""
    model = open_model("model_base_retrieval_coco.pth")
    conventions = dataclasses.replace(model.config.conventions, match_first="cls")
    config = dataclasses.replace(model.config, conventions=conventions)
    demo = dataclasses.replace(model, config=config)
    match = demo.match(file("demo.jpg"), "a woman sitting on the beach with a dog")[0]
    assert match.itm == pytest.approx(0.9960, abs=1e-3)
    assert match.itc == pytest.approx(0.5262, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "text", "itm", "itc"),
    [
        ("model_base_retrieval_coco.pth", "merlion in Singapore", 0.98613, 0.4633),
        ("model_base_retrieval_coco.pth", "a random irrelevant caption", 0.05704, 0.23282),
        ("model_large_retrieval_coco.pth", "merlion in Singapore", 0.99466, 0.4474),
        ("model_large_retrieval_coco.pth", "a random irrelevant caption", 0.04744, 0.12821),
    ],
)
def test_the_merlion_matches(name, text, itm, itc):
    match = open_model(name).match(file("merlion.png"), text)[0]
    assert match.itm == pytest.approx(itm, abs=1e-3)
    assert match.itc == pytest.approx(itc, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "text"),
    [("blip_coco_caption_base.pth", FOUNTAIN), ("blip_coco_caption_large.pth", STATUE)],
)
def test_the_merlion_captions(name, text):
    lengths = {"min_new_tokens": 6, "max_new_tokens": 26}  # 10 to 30
    assert open_model(name).caption(file("merlion.png"), **lengths)[0][0].text == text


def test_the_merlion_caption_loss():
    """Four tokens are taken for the prompt, which the text of that test does not begin with."""
    model = open_model("blip_coco_caption_base.pth")
    pixels = model._pixels(file("merlion.png"))[np.arange(1)]
    tokens = jax.jit(model.blip.image_tokens)(model.on_device, pixels)
    assert tokens.shape == (1, 577, 768)
    assert float(tokens.mean()) == pytest.approx(-0.0200, rel=0.1)
    ids, mask = model.tokenizer.encode([STATUE], max_length=13, first="[DEC]")
    assert ids[0, 4:].tolist() == [1997, 1037, 2711, 29035, 2300, 2013, 1037, 9545, 102]
    logits = model.blip.lm_logits(model.params, tokens, jnp.asarray(ids), jnp.asarray(mask))
    loss = losses.lm(logits, jnp.asarray(ids), jnp.asarray(mask), jnp.array([4]))
    assert float(loss) == pytest.approx(2.7152, rel=0.1)


def test_the_merlion_answer():
    model = open_model("model_base_vqa_capfilt_large.pth")
    asked = (file("merlion.png"), "Which city is this photo taken?")
    assert model.answer(*asked)[0][0].text == "singapore"
    cities = ["Singapore", "London", "Palo Alto", "Tokyo"]
    assert model.answer(*asked, cities)[0][0].text == "Singapore"


def test_the_merlion_features():
    model = open_model("model_base_capfilt_large.pth")
    blip, params = model.blip, model.on_device
    image = file("merlion.png")
    tokens = jax.jit(blip.image_tokens)(params, model._pixels(image)[np.arange(1)])
    assert tokens.shape == (1, 197, 768)
    assert float(tokens.mean()) == pytest.approx(-0.02032, rel=0.1)
    ids, mask = text_ids(model, [FOUNTAIN])
    ids[:, 0] = model.config.text.enc_id
    grounded = blip.question_tokens(params, tokens, jnp.asarray(ids), jnp.asarray(mask))
    length = int(mask.sum())
    assert length == 12
    assert float(grounded[:, :length].mean()) == pytest.approx(-0.00095, rel=0.1)
    assert model.match(image, FOUNTAIN)[0].itc == pytest.approx(0.2622, abs=1e-3)


def test_the_merlion_classes():
    """Zero-shot, by ITC over the learnt temperature."""
    model = open_model("model_base_capfilt_large.pth")
    names = ["merlion", "sky", "giraffe", "fountain", "marina bay"]
    cosine = model.embed_images(file("merlion.png")) @ model.embed_texts(names).T
    found = jax.nn.softmax(cosine[0] / model.params["temperature"])
    np.testing.assert_allclose(found, [0.82005, 0.00011, 0.0, 0.01060, 0.16924], atol=5e-3)
