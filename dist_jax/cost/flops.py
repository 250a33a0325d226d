"""Counted operations of matrix products and convolutions in a JAX function, loops included."""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def count(jaxpr: ClosedJaxpr | Jaxpr) -> int:
    """Operations of one call: a multiply-add counts as two.

    Only matrix products and convolutions count. They include products with padding, and what the backward pass computes
    again (rematerialisation). Of a conditional, the most expensive branch counts.

    Args:
        jaxpr: e.g. `jax.make_jaxpr(f)(x)` or `jax.jit(f).trace(x).jaxpr`.

    Raises:
        ValueError: a matrix product in a `while` loop, whose number of iterations is not known.
    """
    return sum(_count_equation(equation) for equation in _open(jaxpr).eqns)


def _count_equation(equation: JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name == "cond":
        return max(count(branch) for branch in params["branches"])
    inner = sum(count(jaxpr) for jaxpr in _jaxprs(params))
    if name == "scan":
        return params["length"] * inner
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid) * inner
    if name == "shard_map":  # its shapes are those of one device
        return _num_shards(equation) * inner
    if name == "while" and inner:
        raise ValueError("a matrix product in a while loop: the number of iterations is not known; use jax.lax.scan")
    return inner


def _num_shards(equation: JaxprEqn) -> int:
    """Devices of a `shard_map` with different inputs. The other devices repeat their work, which does not count."""
    mesh, specs = equation.params["mesh"], equation.params["in_specs"]
    axes = set(jax.tree.leaves([tuple(spec) for spec in specs]))  # an entry is a name, a tuple of names or None
    return math.prod(mesh.shape[axis] for axis in axes)


def _dot(equation: JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = _shape(equation.invars[0])
    return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(left[axis] for axis in contracted)


def _convolution(equation: JaxprEqn) -> int:
    """Products of every output with the kernel, without those with the zeros between dilated inputs."""
    params = equation.params
    _, in_channels, *spatial = params["dimension_numbers"].rhs_spec
    kernel = _shape(equation.invars[1])
    products = kernel[in_channels] * math.prod(kernel[axis] for axis in spatial)
    outputs = math.prod(_shape(equation.outvars[0]))
    return 2 * outputs * products // math.prod(params["lhs_dilation"])


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _jaxprs(params: dict[str, Any]) -> Iterator[ClosedJaxpr | Jaxpr]:
    """The functions that an equation calls. Of a function with a custom derivative, only the function itself."""
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (ClosedJaxpr, Jaxpr)):
                yield item


def _open(jaxpr: ClosedJaxpr | Jaxpr) -> Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
