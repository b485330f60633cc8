"""NLVR2 against the original's own numbers, float32."""

import jax.numpy as jnp
import numpy as np
from original import original

from blip_jax import losses
from blip_jax.inference.nlvr import judge


def test_logits_and_loss(shared):
    model, arrays, facts = original(shared, "nlvr")
    left, right = arrays["image"][:2], arrays["image"][2:]
    logits = judge(model, left, right, facts["texts"], batch_size=2)
    np.testing.assert_allclose(logits, arrays["logits"], atol=1e-4)
    loss = losses.itm(jnp.asarray(logits), jnp.asarray(facts["labels"]), jnp.ones(2))
    np.testing.assert_allclose(loss, arrays["loss"], atol=1e-4)
