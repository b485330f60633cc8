"""The matrix products of a program, counted before it is compiled."""

import math
from typing import Any

from jax.extend import core

Product = tuple[int, core.JaxprEqn]  # how often it is done, and what


def matmul_flops(jaxpr: core.Jaxpr, platform: str, turns: int = 1) -> int:
    """FLOPs of all matrix products and convolutions of a traced program, over all devices.

    A product of [M, K] and [K, N] counts 2 M K N; see `products`.
    """
    return sum(times * _flops(equation) for times, equation in products(jaxpr, platform, turns))


def matmul_bytes(jaxpr: core.Jaxpr, platform: str, turns: int = 1) -> int:
    """Bytes that the same products read and write, each operand and each result once.

    What is computed between them is taken to cost no traffic of its own, as if it were fused.
    """
    return sum(times * _bytes(equation) for times, equation in products(jaxpr, platform, turns))


def products(jaxpr: core.Jaxpr, platform: str, turns: int = 1) -> list[Product]:
    """Matrix products and convolutions of a traced program, on a platform such as "cpu".

    The turns of a scan count, what the backward pass computes again counts, and of branches the
    dearest does. The turns of a `while` are not known: `turns` of each count.
    """
    found: list[Product] = []
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name in ("dot_general", "conv_general_dilated"):
            found.append((1, equation))
            continue
        parts = [part for value in params.values() for part in _jaxprs(value)]
        if name == "cond":
            parts = [_taken(parts, params.get("branches_platforms"), platform, turns)]
        times = 1
        if name == "scan":
            times = params["length"]
        elif name == "while":
            times = turns
        elif name == "shard_map":  # of one device's share
            times = params["mesh"].size
        inner = (each for part in parts for each in products(part, platform, turns))
        found += [(times * n, product) for n, product in inner]
    return found


def _taken(
    branches: list[core.Jaxpr], platforms: tuple[Any, ...] | None, platform: str, turns: int
) -> core.Jaxpr:
    """The branch that the platform takes, of those written for some; else the dearest."""
    if platforms is None:
        return max(branches, key=lambda branch: matmul_flops(branch, platform, turns))
    of_all_others = len(branches) - 1  # which has no platforms named
    named = (i for i, names in enumerate(platforms) if names and platform in names)
    return branches[next(named, of_all_others)]


def _flops(product: core.JaxprEqn) -> int:
    params, out = product.params, math.prod(_shape(product.outvars[0]))
    left, right = map(_shape, product.invars)
    if product.primitive.name == "dot_general":
        (contract, _), _ = params["dimension_numbers"]
        return 2 * out * math.prod(left[axis] for axis in contract)
    out_features = right[params["dimension_numbers"].rhs_spec[0]]
    return 2 * out * math.prod(right) // out_features


def _bytes(product: core.JaxprEqn) -> int:
    arrays: list[Any] = [variable.aval for variable in (*product.invars, *product.outvars)]
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays)


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(variable.aval.shape)


def _jaxprs(value: Any) -> list[core.Jaxpr]:
    """Programs within a parameter of an equation."""
    if isinstance(value, tuple | list):
        return [part for each in value for part in _jaxprs(each)]
    if isinstance(value, core.ClosedJaxpr):
        return [value.jaxpr]
    return [value] if isinstance(value, core.Jaxpr) else []
