"""Matrix products, told so that the compiler for processors makes fast ones of them too.

There too a product of bfloat16 is one, the gradient of a weight reads its batch as it lies in
memory, and a product of few rows reads its kernel once. Accelerators get the plain ones.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from blip_jax.models.placement import on_several_devices

FEW = 128  # rows: more take as long either way


def _summed(
    function: Callable[..., jax.Array], x: jax.Array, y: jax.Array, **how: Any
) -> jax.Array:
    """A matrix product in the dtype of x and y, its sums in float32.

    Accelerators sum so by themselves. The compiler for processors would turn bfloat16 to float32
    before it multiplies, five times slower where a processor multiplies bfloat16 itself.
    """

    def wide(x: jax.Array, y: jax.Array) -> jax.Array:
        return function(x, y, **how, preferred_element_type=jnp.float32).astype(x.dtype)

    plain = functools.partial(function, **how)
    if x.dtype == jnp.float32:
        return plain(x, y)
    return jax.lax.platform_dependent(x, y, cpu=wide, default=plain)


def _dot(x: jax.Array, y: jax.Array, of_x: tuple[int, ...], of_y: tuple[int, ...]) -> jax.Array:
    """Sums over the axes `of_x` of x and `of_y` of y."""
    return _summed(jax.lax.dot_general, x, y, dimension_numbers=((of_x, of_y), ((), ())))


def _turned(x: jax.Array) -> jax.Array:
    """Matrices [..., A, B] -> [..., B, A]; of bfloat16 on a processor in memory too.

    What multiplies bfloat16 there sums along memory.
    """

    def in_memory(x: jax.Array) -> jax.Array:
        return with_layout_constraint(x.swapaxes(-1, -2), Layout(tuple(range(x.ndim))))

    def in_name(x: jax.Array) -> jax.Array:
        return x.swapaxes(-1, -2)

    if x.dtype == jnp.float32 or on_several_devices():
        return in_name(x)
    return jax.lax.platform_dependent(x, cpu=in_memory, default=in_name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def contract(subscripts: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """The einsum "...ij,...kl->...mn" of matrices, as many of each, that sums over one letter."""
    return _summed(functools.partial(jnp.einsum, subscripts), x, y)


def _contract_forward(
    subscripts: str, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return contract(subscripts, x, y), (x, y)


def _contract_backward(
    subscripts: str, saved: tuple[jax.Array, jax.Array], change: jax.Array
) -> tuple[jax.Array, jax.Array]:
    one, other, out = re.split(",|->", subscripts)
    x, y = saved
    return _matched(one, (out, change), (other, y)), _matched(other, (out, change), (one, x))


def _matched(out: str, *given: tuple[str, jax.Array]) -> jax.Array:
    """The einsum of two arrays to `out`; what would be summed over its rows is turned first."""
    (left, x), (right, y) = given if out[-2] in given[0][0] else given[::-1]
    if left[-2] != out[-2]:
        left, x = left[:-2] + left[:-3:-1], _turned(x)
    return contract(f"{left},{right}->{out}", x, y)


contract.defvjp(_contract_forward, _contract_backward)


def contract_by_rows(x: jax.Array, y: jax.Array) -> jax.Array:
    """x [B, T, K] with the rows of y [B, N, K] -> [B, T, N]; of few x as `product_by_rows`."""

    def plain(x: jax.Array, y: jax.Array) -> jax.Array:
        return contract("...td,...sd->...ts", x, y)

    def swapped(x: jax.Array, y: jax.Array) -> jax.Array:
        found = contract("...sd,...td->...st", y, x)
        return with_layout_constraint(found, Layout((0, 1, 2))).swapaxes(-1, -2)

    if x.shape[-2] > FEW or on_several_devices():
        return plain(x, y)
    return jax.lax.platform_dependent(x, y, cpu=swapped, default=plain)


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [..., K] times kernel [K, N] -> [..., N]."""
    return _multiplied(0, x, kernel)


def product_by_rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [..., K] times a kernel whose rows are the outputs, [N, K] -> [..., N].

    With few x it is the reading of that kernel. The compiler for processors copies the right side
    of a product to blocks before it multiplies; so the kernel is the left one then.
    """
    return _multiplied(1, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _multiplied(axis: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The sums of x [..., K] with a kernel that has K along `axis`."""

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _dot(x, kernel, (x.ndim - 1,), (axis,))

    def swapped(x: jax.Array, kernel: jax.Array) -> jax.Array:
        y = _dot(kernel, x.reshape(-1, x.shape[-1]), (1,), (1,))
        y = with_layout_constraint(y, Layout((0, 1)))  # written transposed it takes twice as long
        return y.T.reshape(*x.shape[:-1], len(kernel))

    if axis == 0 or math.prod(x.shape[:-1]) > FEW or on_several_devices():
        return plain(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=swapped, default=plain)


def _multiplied_forward(
    axis: int, x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _multiplied(axis, x, kernel), (x, kernel)


def _multiplied_backward(
    axis: int, saved: tuple[jax.Array, jax.Array], change: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    of_kernel = _over_rows(x, change) if axis == 0 else _over_rows(change, x)
    return _dot(change, kernel, (x.ndim - 1,), (1 - axis,)), of_kernel


_multiplied.defvjp(_multiplied_forward, _multiplied_backward)


def _over_rows(x: jax.Array, y: jax.Array) -> jax.Array:
    """The gradient of a weight: x [..., A] and y [..., B] -> [A, B]."""

    def as_they_are(x: jax.Array, y: jax.Array) -> jax.Array:
        rows = tuple(range(x.ndim - 1))
        return _dot(x, y, rows, rows)

    def flat(x: jax.Array, y: jax.Array) -> jax.Array:
        x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        return _dot(_turned(x), y, (1,), (0,))

    # Over two axes the compiler for processors transposes y first; for a TPU, whose tiles pad
    # the second axis, it is flattening that would move it.
    if on_several_devices():
        return as_they_are(x, y)
    return jax.lax.platform_dependent(x, y, cpu=flat, default=as_they_are)
