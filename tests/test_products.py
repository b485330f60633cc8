"""Products and their gradients beside those that numpy's rules and differentiation give."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pulled import pulled, random

from blip_jax.models.products import FEW, contract, product, product_by_rows


@pytest.mark.parametrize("rows", [(5,), (3, 5), (2, 3, 5), (0, 5)])
def test_a_product_and_its_gradients(rows):
    x, kernel = random(*rows, 4), random(4, 6, seed=1)
    expected = pulled(lambda x, kernel: jnp.einsum("...k,kn->...n", x, kernel), x, kernel)
    found = jax.jit(pulled, static_argnums=0)(product, x, kernel)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


ATTENTION = ("...td,...sd->...ts", (2, 3, 5, 4), (2, 3, 6, 4))
VALUES = ("...ts,...sd->...td", (2, 3, 5, 6), (2, 3, 6, 4))


@pytest.mark.parametrize(
    ("subscripts", "x", "y"), [ATTENTION, VALUES, ("tk,kn->nt", (5, 4), (4, 6))]
)
def test_a_contraction_and_its_gradients(subscripts, x, y):
    x, y = random(*x), random(*y, seed=1)
    expected = pulled(lambda x, y: jnp.einsum(subscripts, x, y), x, y)
    found = jax.jit(pulled, static_argnums=0)(lambda x, y: contract(subscripts, x, y), x, y)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "x", "y"),
    [
        (product, (7, 40, 300), (300, 6)),
        *(
            (functools.partial(contract, subscripts), x, y)
            for subscripts, x, y in (ATTENTION, VALUES)
        ),
    ],
)
def test_products_of_bfloat16_are_those_of_float32_rounded_once(function, x, y):
    x, y = random(*x, dtype=jnp.bfloat16), random(*y, seed=1, dtype=jnp.bfloat16)
    found = jax.jit(pulled, static_argnums=0)(function, x, y)
    assert {value.dtype for value in found} == {jnp.dtype("bfloat16")}
    value, back = jax.vjp(function, x.astype(jnp.float32), y.astype(jnp.float32))
    change = jnp.cos(jnp.arange(value.size, dtype=jnp.bfloat16)).reshape(value.shape)
    for one, other in zip(found, (value, *back(change.astype(jnp.float32))), strict=True):
        np.testing.assert_allclose(one.astype(jnp.float32), other, rtol=2**-8, atol=1e-4)


@functools.cache
def multiplies_bfloat16():
    """Whether this is a processor whose compiler is known to have units for it."""
    told = Path("/proc/cpuinfo")
    return jax.default_backend() == "cpu" and told.exists() and "amx_bf16" in told.read_text()


@pytest.mark.skipif(not multiplies_bfloat16(), reason="needs a processor with AMX for bfloat16")
@pytest.mark.parametrize(
    ("function", "x", "y"),
    [
        (product, (8, 40, 256), (256, 96)),
        (product_by_rows, (8, 1, 256), (96, 256)),
        (product_by_rows, (8, 40, 256), (96, 256)),
        (functools.partial(contract, ATTENTION[0]), (4, 40, 64), (4, 48, 64)),
        (functools.partial(contract, VALUES[0]), (4, 40, 48), (4, 48, 64)),
    ],
)
def test_a_processor_multiplies_bfloat16_itself(function, x, y):
    """Forward and backward: the compiler converts nothing to float32 before a product."""
    x, y = random(*x, dtype=jnp.bfloat16), random(*y, seed=1, dtype=jnp.bfloat16)
    text = jax.jit(pulled, static_argnums=0).lower(function, x, y).compile().as_text()
    products = [line for line in text.splitlines() if " dot(" in line]
    kinds = dict(re.findall(r"%([\w.\-]+) = (\w+)\[", text))
    kinds |= dict(re.findall(r"([\w.\-]+): (\w+)\[", text))
    assert len(products) == 3
    for line in products:
        operands = re.findall(r"%([\w.\-]+)", line.partition(" dot(")[2].partition(")")[0])
        assert {kinds[name] for name in operands} == {"bf16"}


@pytest.mark.parametrize("rows", [(5,), (3, 5), (1, 1), (FEW + 1,)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_product_by_rows_is_the_product(rows, dtype):
    x, kernel = random(*rows, 40, dtype=dtype), random(40, 6, seed=1, dtype=dtype)
    found = jax.jit(product_by_rows)(x, kernel.T)
    assert found.dtype == dtype
    expected = x.astype(jnp.float32) @ kernel.astype(jnp.float32)
    tight = {"rtol": 2**-8, "atol": 1e-4} if dtype == jnp.bfloat16 else {"atol": 1e-5}
    np.testing.assert_allclose(found.astype(jnp.float32), expected, **tight)


@pytest.mark.parametrize("rows", [(3, 5), (0, 5), (3, FEW)])
def test_the_gradients_of_a_product_by_rows(rows):
    x, kernel = random(*rows, 4), random(4, 6, seed=1)
    expected = pulled(lambda x, kernel: x @ kernel, x, kernel)
    found = jax.jit(pulled, static_argnums=0)(product_by_rows, x, kernel.T)
    for one, other in zip(found, (*expected[:2], expected[2].T), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
