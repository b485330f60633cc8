"""Captioning against the original's own numbers and strings, float32."""

import jax.numpy as jnp
import numpy as np
import pytest
from original import original, under

from blip_jax import losses
from blip_jax.inference.caption import CaptionOptions, seed_keys, write_captions

# The original's lengths count [DEC] and the three words of the prompt.
BEAM = {"num_beams": 3, "min_new_tokens": 1, "max_new_tokens": 16}
PENALISED = {
    "num_beams": 4, "min_new_tokens": 4, "max_new_tokens": 12, "repetition_penalty": 1.5
}  # fmt: skip


@pytest.fixture(scope="module")
def recorded(shared):
    model, arrays, facts = original(shared, "caption")
    return under(model, prompt=facts["prompt"]), arrays, facts


def test_loss_and_last_logits(recorded):
    model, arrays, _ = recorded
    ids, mask = (jnp.asarray(arrays[k], jnp.int32) for k in ("input_ids", "attention_mask"))
    ids = ids.at[:, 0].set(model.config.text.dec_id)
    tokens = model.blip.image_tokens(model.params, jnp.asarray(arrays["image"]))
    logits = model.blip.lm_logits(model.params, tokens, ids, mask)
    np.testing.assert_allclose(logits[:, -1], arrays["logits_last"], atol=1e-4)
    loss = losses.lm(logits, ids, mask, prompt_length=jnp.array([4, 4]))
    np.testing.assert_allclose(loss, arrays["loss"], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("beam3", {"method": "beam", **BEAM}),
        ("greedy", {"method": "greedy", **BEAM}),
        ("beam4_rp15", {"method": "beam", **PENALISED}),
    ],
)
def test_captions(recorded, name, options):
    model, arrays, facts = recorded
    chosen = CaptionOptions(**options)
    texts, _ = write_captions(model, arrays["image"], seed_keys([0, 1]), chosen)
    assert [row[0] for row in texts] == facts[name]
