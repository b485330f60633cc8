"""Matching against the original's own numbers, under both of its conventions, float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from original import original, under

from blip_jax.inference.embed import embed_images, embed_texts, text_ids
from blip_jax.inference.match import match_matrix, match_pairs


@pytest.fixture(scope="module")
def recorded(shared):
    return original(shared, "itm")


@pytest.mark.parametrize("first", ["enc", "cls"])
def test_match(recorded, first):
    model, arrays, facts = recorded
    ids, mask = text_ids(model, facts["captions"])
    tokens = model.blip.image_tokens(model.params, jnp.asarray(arrays["image"]))
    first_id = getattr(model.config.text, f"{first}_id")
    logits = model.blip.match_logits(
        model.params, tokens, jnp.asarray(ids).at[:, 0].set(first_id), mask
    )
    np.testing.assert_allclose(logits, arrays[f"itm_{first}"], atol=1e-4)

    matched = match_pairs(under(model, match_first=first), arrays["image"], facts["captions"], 2)
    expected = jax.nn.softmax(arrays[f"itm_{first}"])[:, 1]
    np.testing.assert_allclose(matched[0], expected, atol=1e-4)
    np.testing.assert_allclose(matched[1], arrays["itc"].diagonal(), atol=1e-4)


def test_cosines(recorded):
    model, arrays, facts = recorded
    image = embed_images(model, arrays["image"], 2)
    text = embed_texts(model, facts["captions"], 2)
    np.testing.assert_allclose(image @ text.T, arrays["itc"], atol=1e-4)
    matrix = match_matrix(model, arrays["image"], facts["captions"], None, 2)
    np.testing.assert_allclose(matrix.itc, arrays["itc"], atol=1e-4)
