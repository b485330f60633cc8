"""Floating-point operations of a program, counted before it is compiled."""

import math
from typing import Any

from jax.extend import core


def matmul_flops(jaxpr: core.Jaxpr) -> int:
    """FLOPs of all matrix products and convolutions of a traced program, over all devices.

    A product of [M, K] and [K, N] counts 2 M K N. The turns of a scan count, what the backward
    pass computes again counts, of branches the dearest does. The turns of a `while` are not known:
    one counts.
    """
    return sum(_flops(equation) for equation in jaxpr.eqns)


def _flops(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contract, _), _ = params["dimension_numbers"]
        left = _shape(equation.invars[0])
        return 2 * _size(equation.outvars[0]) * math.prod(left[axis] for axis in contract)
    if name == "conv_general_dilated":
        kernel = _shape(equation.invars[1])
        out_features = kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2 * _size(equation.outvars[0]) * math.prod(kernel) // out_features
    inner = [matmul_flops(part) for value in params.values() for part in _jaxprs(value)]
    if name == "cond":
        return max(inner)
    times = params["length"] if name == "scan" else 1
    if name == "shard_map":  # of one device's share
        times = params["mesh"].size
    return times * sum(inner)


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(variable.aval.shape)


def _size(variable: Any) -> int:
    return math.prod(_shape(variable))


def _jaxprs(value: Any) -> list[core.Jaxpr]:
    """Programs within a parameter of an equation."""
    if isinstance(value, tuple | list):
        return [part for each in value for part in _jaxprs(each)]
    if isinstance(value, core.ClosedJaxpr):
        return [value.jaxpr]
    return [value] if isinstance(value, core.Jaxpr) else []
