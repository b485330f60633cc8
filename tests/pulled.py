"""What tests of written gradients share."""

import jax
import jax.numpy as jnp


def pulled(function, *arrays):
    """The value of a function, and what a fixed change of it does to each argument."""
    value, back = jax.vjp(function, *arrays)
    return value, *back(jnp.cos(jnp.arange(value.size, dtype=value.dtype)).reshape(value.shape))


def random(*shape, seed=0, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def kept(function, *arrays):
    """Shapes of what a gradient of a function keeps, its arguments among it."""
    back = jax.eval_shape(lambda *given: jax.vjp(function, *given)[1], *arrays)
    return [x.shape for x in jax.tree.leaves(back)]
