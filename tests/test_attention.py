"""Attention to a source through the kernels of its keys and values, beside making them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pulled import kept, random

from blip_jax.models.absorbed import Absorbed, pays
from blip_jax.models.attention import Attention
from blip_jax.train.flops import matmul_flops
from blip_jax.train.mesh import make_mesh

WIDTH, HEADS, TOKENS = 32, 4, 40
KEY = jax.random.key(0)
X, SOURCE = random(2, 3, WIDTH), random(2, TOKENS, 24, seed=1)
MASK = jnp.stack([jnp.arange(TOKENS) < n for n in (TOKENS, 7)])[:, None, None]


def made(by_rows=False, dropout=0.0):
    """An attention, and parameters that are all random, biases too."""
    module = Attention(WIDTH, HEADS, 1e-6, "float32", dropout, by_rows)
    shapes = jax.eval_shape(lambda: module.init(KEY, X, SOURCE, None, True))
    leaves, tree = jax.tree.flatten(shapes)
    arrays = [random(*x.shape, seed=i) / 4 for i, x in enumerate(leaves)]
    return module, jax.tree.unflatten(tree, arrays)


def through(module, params, x, source, mask, read_first):
    """The attention's output, of a source read before or not."""
    if read_first:
        source = module.apply(params, source, x.shape[1], method="read")
        assert isinstance(source, Absorbed)
    return module.apply(params, x, source, mask, True)


def projected(module, params, x, source, mask):
    keys_values = module.apply(params, source, method="keys_values")
    return module.apply(params, x, keys_values, mask, True)


def gradients(function, module, params, mask, *more):
    def loss(params, x, source):
        return jnp.sin(function(module, params, x, source, mask, *more)).sum()

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(params, X, SOURCE)


@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize(("by_rows", "read_first"), [(False, False), (False, True), (True, True)])
def test_kernels_instead_of_keys_and_values_change_no_number(by_rows, read_first, mask):
    module, params = made(by_rows)
    expected = gradients(projected, module, params, mask)
    found = gradients(through, module, params, mask, read_first)
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_the_same_on_several_devices():
    module, params = made()
    expected = gradients(through, module, params, MASK, False)
    with jax.set_mesh(make_mesh({"data": 2, "tensor": 2}, jax.devices()[:4])):
        found = gradients(through, module, params, MASK, False)
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_dropout_changes_nothing_on_average():
    module, params = made(dropout=0.5)

    def drawn(key):
        return module.apply(params, X, SOURCE, MASK, False, rngs={"dropout": key})

    samples = jax.jit(jax.vmap(drawn))(jax.random.split(jax.random.key(0), 20_000))
    expected = module.apply(params, X, SOURCE, MASK, True)
    error = samples.std(0) / np.sqrt(len(samples))
    assert error.min() > 0
    assert np.abs((samples.mean(0) - expected) / error).max() < 6


def test_a_gradient_keeps_nothing_as_wide_as_the_source_for_each_query():
    module, params = made()
    seen = module.apply(params, SOURCE, 3, method="read")
    shapes = kept(lambda *args: args[0].attend(args[1], MASK), seen, random(2, HEADS, 3, 8))
    sizes = [np.prod(shape) for shape in shapes]
    assert 2 * HEADS * 3 * TOKENS in sizes  # the probabilities
    assert 2 * HEADS * 3 * SOURCE.shape[2] not in sizes


@pytest.mark.parametrize("tokens", [5, 40, 577])
def test_it_is_done_where_it_takes_fewer_operations(tokens):
    module, _ = made()
    source = jax.ShapeDtypeStruct((2, tokens, WIDTH), np.float32)
    taken = []
    for queries in (1, 2, 4, 8, 16, 32):
        x = jax.ShapeDtypeStruct((2, queries, WIDTH), np.float32)
        params = jax.eval_shape(lambda *args: module.init(*args, None, True), KEY, x, source)
        program = jax.make_jaxpr(lambda *args: module.apply(*args, None, True))
        jaxpr = program(params, x, source).jaxpr
        here, elsewhere = (matmul_flops(jaxpr, platform) for platform in ("cpu", "tpu"))
        taken.append(pays(queries, tokens, WIDTH // HEADS))
        assert here < elsewhere if taken[-1] else here == elsewhere
    assert taken[0] and not taken[-1]
