"""GELU and the norm, with their gradients written out.

What differentiation makes of them by itself gives the same numbers, but keeps several values
where one or two do.
"""

import functools
import math

import jax
import jax.numpy as jnp


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, computed in float32; for its gradient its slope alone is kept.

    By erf, as torch, where `jax.nn.gelu` takes erfc: twice as fast on a processor, and within
    2e-6 of each other.
    """
    wide = x.astype(jnp.float32)
    return (wide * _share(wide)).astype(x.dtype)


def _share(x: jax.Array) -> jax.Array:
    """How much of a normal distribution lies below x."""
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


@gelu.defjvp
def _gelu_slope(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (change,) = primals, tangents
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(wide)) * (2 * math.pi) ** -0.5
    slope = _share(wide) + wide * density
    return gelu(x), change * slope.astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalised(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """LayerNorm of x [..., W], all float32, with scale and bias [W]."""
    return _normalised_forward(x, scale, bias, eps)[0]


def _normalised_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    shape = (1,) * (x.ndim - 1) + (-1,)
    x = x - x.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps)
    x = x * inverse
    return x * scale.reshape(shape) + bias.reshape(shape), (x, inverse, scale)


def _normalised_backward(
    eps: float, saved: tuple[jax.Array, ...], change: jax.Array
) -> tuple[jax.Array, ...]:
    x, inverse, scale = saved
    rows = tuple(range(x.ndim - 1))
    inner = change * scale.reshape((1,) * (x.ndim - 1) + (-1,))
    level = inner.mean(-1, keepdims=True) + x * (inner * x).mean(-1, keepdims=True)
    return inverse * (inner - level), (change * x).sum(rows), change.sum(rows)


normalised.defvjp(_normalised_forward, _normalised_backward)
