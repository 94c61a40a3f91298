"""FLOPs that a chip executes in one call of a program, counted in the program before compilation: products, convolutions and kernels.

Loops count as often as they run, a kernel once for every point of its grid, a branch as its dearest side; what a backward pass computes
again is there, and so are padding and masked slots. Outside of mapped regions the work is taken to be shared evenly by those chips that
share it.
"""

from __future__ import annotations

import math
from typing import Any

import jax


def flops(closed: jax.extend.core.ClosedJaxpr, devices: int) -> float:
    """Of one chip of `devices` that share the work, for a program as traced (`traced.jaxpr`)."""
    return _of(closed.jaxpr, 1 / devices)


def _of(jaxpr: Any, share: float) -> float:
    return sum(_equation(equation, share) for equation in jaxpr.eqns)


def _equation(equation: Any, share: float) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return share * _dot(equation)
    if name == "conv_general_dilated":
        return share * _convolution(equation)
    if name == "scan":
        return params["length"] * _of(params["jaxpr"].jaxpr, share)
    if name == "while":
        return _limit(params["cond_jaxpr"]) * _of(params["body_jaxpr"].jaxpr, share)
    if name == "cond":
        return max(_of(branch.jaxpr, share) for branch in params["branches"])
    if name == "pallas_call":
        return share * math.prod(params["grid_mapping"].grid) * _of(params["jaxpr"], 1.0)
    if name == "shard_map":
        return _of(_plain(params["jaxpr"]), 1.0)  # what one shard does
    inner = (value for key, value in params.items() if key in ("jaxpr", "call_jaxpr", "fun_jaxpr"))
    return sum(_of(_plain(value), share) for value in inner)


def _plain(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _convolution(equation: Any) -> float:
    kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / kernel[numbers.rhs_spec[0]]


def _limit(condition: Any) -> float:
    """The constant that a loop's counter is compared with; 1 where there is none."""
    for equation in condition.jaxpr.eqns:
        if equation.primitive.name == "lt":
            for operand in equation.invars:
                value = getattr(operand, "val", None)
                if value is not None:
                    return float(value)
    return 1.0
