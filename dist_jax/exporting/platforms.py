"""Functions of `jax.lax.platform_dependent` in a program that is exported.

`jax.lax.platform_dependent` chooses between functions when a program is compiled for a platform. An export has other
needs: a converter to another library needs one function, and an export for several platforms cannot contain kernels,
because JAX then translates each operation for all of them. Both rewrite the traced program (jaxpr) of a function.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxpr_as_fun

Rule = Callable[[JaxprEqn], JaxprEqn | None]  # replaces an equation; None: removes it


def for_platform(function: Callable, platform: str) -> Callable:
    """`function` with the functions that `jax.lax.platform_dependent` has for one platform.

    Newer operations of jax.lax are replaced by older ones with the same values: converters do not know them yet.

    Args:
        function: of arrays and trees of arrays.
        platform: "cpu", "cuda" or "tpu".
    """

    def rule(equation: JaxprEqn) -> JaxprEqn | None:
        choices = _choices(equation)
        name, params = equation.primitive.name, equation.params
        if choices is not None:
            number = next(i for i, platforms in enumerate(choices) if platforms is None or platform in platforms)
            branch = _rewrite_closed(params["branches"][number], rule)
            return _call(equation, jaxpr_as_fun(branch), equation.invars[1:])
        if name == "platform_index":  # only the conditionals above use it
            return None
        if name == "empty":
            return _call(equation, lambda: jnp.zeros(params["shape"], params["dtype"]), [])
        if name == "stack":
            return _call(equation, lambda *parts: _stack(parts, params["axis"]), equation.invars)
        return equation

    return _rewrite(function, rule)


def without_kernels(function: Callable) -> Callable:
    """`function` with the default functions of `jax.lax.platform_dependent` in place of those with Pallas kernels."""

    def rule(equation: JaxprEqn) -> JaxprEqn:
        choices = _choices(equation)
        if choices is None or None not in choices:
            return equation
        branches = equation.params["branches"]
        default = branches[choices.index(None)]
        kept = tuple(default if _has_kernel(branch.jaxpr) else branch for branch in branches)
        return equation.replace(params=equation.params | {"branches": kept})

    return _rewrite(function, rule)


def _choices(equation: JaxprEqn) -> tuple[tuple[str, ...] | None, ...] | None:
    """The platforms of each function of `jax.lax.platform_dependent`, None for its default; None: another operation."""
    return equation.params.get("branches_platforms")


def _rewrite(function: Callable, rule: Rule) -> Callable:
    def rewritten(*args: Any) -> Any:
        jaxpr, results = jax.make_jaxpr(function, return_shape=True)(*args)
        leaves = jaxpr_as_fun(_rewrite_closed(jaxpr, rule))(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(results), leaves)

    return rewritten


def _rewrite_closed(jaxpr: ClosedJaxpr, rule: Rule) -> ClosedJaxpr:
    return jaxpr.replace(jaxpr=_rewrite_open(jaxpr.jaxpr, rule))


def _rewrite_open(jaxpr: Jaxpr, rule: Rule) -> Jaxpr:
    """Applies `rule` to all equations, then to those of the programs inside them, e.g. the body of a loop."""
    equations = [new for equation in jaxpr.eqns if (new := rule(equation)) is not None]
    for i, equation in enumerate(equations):
        params = {name: _rewrite_param(value, rule) for name, value in equation.params.items()}
        equations[i] = equation.replace(params=params)
    return jaxpr.replace(eqns=equations)


def _rewrite_param(value: Any, rule: Rule) -> Any:
    if isinstance(value, ClosedJaxpr):
        return _rewrite_closed(value, rule)
    if isinstance(value, Jaxpr):
        return _rewrite_open(value, rule)
    return type(value)(_rewrite_param(part, rule) for part in value) if type(value) in (tuple, list) else value


def _has_kernel(jaxpr: Jaxpr) -> bool:
    return any(
        equation.primitive.name == "pallas_call" or any(map(_has_kernel, _inner(list(equation.params.values()))))
        for equation in jaxpr.eqns
    )


def _inner(value: Any) -> Iterator[Jaxpr]:
    """The programs in a parameter of an equation."""
    if isinstance(value, (ClosedJaxpr, Jaxpr)):
        yield value.jaxpr if isinstance(value, ClosedJaxpr) else value
    elif type(value) in (tuple, list):
        for part in value:
            yield from _inner(part)


def _stack(parts: tuple[jax.Array, ...], axis: int) -> jax.Array:
    return jax.lax.concatenate([jax.lax.expand_dims(part, (axis,)) for part in parts], axis)


def _call(equation: JaxprEqn, function: Callable, arguments: list) -> JaxprEqn:
    """An equation that computes the results of `equation` with `function`."""
    (call,) = jax.make_jaxpr(jax.jit(function))(*(argument.aval for argument in arguments)).eqns
    return call.replace(invars=list(arguments), outvars=equation.outvars)
