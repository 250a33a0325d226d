"""A jaxpr without operations that converters to other libraries do not know.

jax.lax.platform_dependent chooses between functions when a program is compiled for a platform. A converter has no such
step, so it must get the function of one platform. The functions of others may have kernels for them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxpr_as_fun


def for_platform(jaxpr: ClosedJaxpr, platform: str) -> ClosedJaxpr:
    """The same program with the functions that `jax.lax.platform_dependent` has for `platform`.

    Newer operations of jax.lax are replaced by older ones with the same values.

    Args:
        jaxpr: e.g. of `jax.make_jaxpr`.
        platform: "cpu", "cuda" or "tpu".
    """
    return jaxpr.replace(jaxpr=_rewrite(jaxpr.jaxpr, platform))


def _rewrite(jaxpr: Jaxpr, platform: str) -> Jaxpr:
    equations = [
        _rewrite_equation(equation, platform)
        for equation in jaxpr.eqns
        if equation.primitive.name != "platform_index"  # only the conditionals below use it
    ]
    return jaxpr.replace(eqns=equations)


def _rewrite_equation(equation: JaxprEqn, platform: str) -> JaxprEqn:
    choices = equation.params.get("branches_platforms")  # None, or the platforms of each branch; its default has None
    if choices is not None:
        number = next(i for i, platforms in enumerate(choices) if platforms is None or platform in platforms)
        branch = for_platform(equation.params["branches"][number], platform)
        return _call(equation, jaxpr_as_fun(branch), equation.invars[1:])
    if equation.primitive.name == "empty":
        return _call(equation, lambda: jnp.zeros(equation.params["shape"], equation.params["dtype"]), [])
    if equation.primitive.name == "stack":
        axis = equation.params["axis"]
        expand = lambda x: jax.lax.expand_dims(x, (axis,))  # noqa: E731
        return _call(equation, lambda *parts: jax.lax.concatenate([expand(x) for x in parts], axis), equation.invars)
    params = {name: _rewrite_param(value, platform) for name, value in equation.params.items()}
    return equation.replace(params=params)


def _rewrite_param(value: Any, platform: str) -> Any:
    """A parameter of an operation with its programs rewritten, e.g. the body of a loop."""
    if isinstance(value, ClosedJaxpr):
        return for_platform(value, platform)
    if isinstance(value, Jaxpr):
        return _rewrite(value, platform)
    if type(value) in (tuple, list):
        return type(value)(_rewrite_param(part, platform) for part in value)
    return value


def _call(equation: JaxprEqn, function: Callable, arguments: list) -> JaxprEqn:
    """An equation that computes the results of `equation` with `function`."""
    (call,) = jax.make_jaxpr(jax.jit(function))(*(argument.aval for argument in arguments)).eqns
    return call.replace(invars=list(arguments), outvars=equation.outvars)
