"""The written gradients beside those that differentiation finds, and gelu beside torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from pulled import pulled, random

from blip_jax.models.gradients import gelu, normalised


def test_gelu_is_exact_in_value_and_slope():
    x = jnp.linspace(-12, 12, 2001)
    slope = jax.vmap(jax.grad(lambda x: nn.gelu(x, approximate=False)))
    np.testing.assert_allclose(gelu(x), nn.gelu(x, approximate=False), atol=2e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x), slope(x), atol=2e-6)


def test_gelu_is_that_of_torch():
    torch = pytest.importorskip("torch")
    x = np.linspace(-12, 12, 2001, dtype=np.float32)
    expected = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(gelu(x), expected, atol=2e-6)


def test_gelu_of_bfloat16_is_computed_in_float32():
    x = jnp.linspace(-3, 3, 301).astype(jnp.bfloat16)
    found = gelu(x)
    assert found.dtype == jnp.bfloat16
    expected = nn.gelu(x.astype(jnp.float32), approximate=False).astype(jnp.bfloat16)
    np.testing.assert_array_equal(found.astype(jnp.float32), expected.astype(jnp.float32))


@pytest.mark.parametrize("rows", [(5,), (3, 5)])
def test_a_norm_and_its_gradients(rows):
    x, scale, bias = random(*rows, 8), random(8, seed=1), random(8, seed=2)

    def flax(x, scale, bias):
        norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)
        return norm.apply({"params": {"scale": scale, "bias": bias}}, x)

    found = pulled(lambda *arrays: normalised(*arrays, 1e-5), x, scale, bias)
    for one, other in zip(found, pulled(flax, x, scale, bias), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
